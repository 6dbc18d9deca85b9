"""Plan files: YAML as people write it, checked by the models and rules of the workflow, with the place of a mistake."""

from domain.task.models import PlanDraft
from domain.task.plan_rules import problems
from domain.task.yaml_file import read_yaml


def read_plan(text: str, source_name: str) -> PlanDraft:
    """Return the plan in ``text``, or raise ``BadInput`` with one ``file:line:column: field: problem`` a line."""
    file = read_yaml(text, source_name, kind="a plan", fields="'summary' and 'workstreams'")
    plan = file.validated(PlanDraft)
    mistakes = [(problem.path, f"{problem.message} ({problem.code})") for problem in problems(plan)]
    if mistakes:
        file.fail(mistakes)
    return plan
