"""A tracker as a YAML file: phases and their items."""

from domain.task.commands import CreateTracker
from domain.task.yaml_file import read_yaml


def read_tracker(text: str, source_name: str) -> CreateTracker:
    """Return the board in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line."""
    file = read_yaml(text, source_name, kind="a tracker", fields="'phases', each with 'items'")
    return file.validated(CreateTracker)
