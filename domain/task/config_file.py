"""Settings of a task as a YAML file: gates, agents, limits, the notify hook."""

from typing import Any

from domain.task.models import TaskAgents, TaskConfig
from domain.task.yaml_file import expand_executor, expanded, read_yaml


def read_config(text: str, source_name: str) -> TaskConfig:
    """Return the settings in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line.

    A setting that the file does not name has its default.
    """
    file = read_yaml(text, source_name, kind="a config", fields="settings such as 'gates' and 'max_concurrent'")
    return file.validated(TaskConfig, expanded(file.data, "agents", expand_agents))


def expand_agents(agents: Any) -> Any:  # noqa: ANN401 - whatever the file says
    """Return the agents with the short form ``planner: signal`` written out."""
    for agent in TaskAgents.model_fields:
        agents = expanded(agents, agent, expand_executor)
    return agents
