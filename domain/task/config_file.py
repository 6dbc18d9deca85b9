"""Settings of a task as a YAML file: gates, agents, limits, the notify hook."""

from domain.task.models import TaskConfig
from domain.task.yaml_file import read_yaml


def read_config(text: str, source_name: str) -> TaskConfig:
    """Return the settings in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line.

    A setting that the file does not name has its default.
    """
    file = read_yaml(text, source_name, kind="a config", fields="settings such as 'gates' and 'max_concurrent'")
    return file.validated(TaskConfig)
