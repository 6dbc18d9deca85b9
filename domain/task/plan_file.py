"""Plan files: YAML as people write it, checked by the models and rules of the workflow, with the place of a mistake."""

from typing import Any

from domain.task.models import PlanDraft
from domain.task.plan_rules import problems
from domain.task.yaml_file import expand_executor, expanded, read_yaml


def read_plan(text: str, source_name: str) -> PlanDraft:
    """Return the plan in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line."""
    file = read_yaml(text, source_name, kind="a plan", fields="'summary' and 'workstreams'")
    plan = file.validated(PlanDraft, expanded(file.data, "workstreams", _expand))
    mistakes = [(problem.path, f"{problem.message} ({problem.code})") for problem in problems(plan)]
    if mistakes:
        file.fail(mistakes)
    return plan


def _expand(workstreams: Any) -> Any:  # noqa: ANN401 - whatever the file says
    """Return the workstreams with the short form ``executor: signal`` written out."""
    if not isinstance(workstreams, list):
        return workstreams
    return [expanded(workstream, "executor", expand_executor) for workstream in workstreams]
