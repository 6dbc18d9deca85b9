"""Plan files: what people may write, and that each mistake is shown at its place."""

import pytest

from domain.errors import BadInput
from domain.task.models import CommandExecutor, PlanDraft, SignalExecutor
from domain.task.plan_file import read_plan

GOOD = """\
summary: Docs
model_servers:
  - {name: coder, model: org/model, pod: gpu1, memory: 90%, context: 32k}
workstreams:
  - id: outline
    title: Outline
    executor: signal
  - id: text
    title: Text
    depends_on: [outline]
    priority: high
    executor:
      type: command
      argv: [python3, write.py]
      server: coder
"""


def test_a_plan_file_is_read() -> None:
    plan = read_plan(GOOD, "plan.yaml")
    outline, text = plan.workstreams
    assert outline.executor == SignalExecutor()
    assert text.executor == CommandExecutor(argv=("python3", "write.py"), server="coder")
    assert (plan.model_servers[0].memory, plan.model_servers[0].context) == (0.9, 32768)
    assert PlanDraft.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("title: Text", "titel: Text", "plan.yaml:9:5: workstreams[1].titel: there is no such field"),
        ("title: Text", "titel: Text", "plan.yaml:8:5: workstreams[1].title: this field is missing"),
        ("priority: high", "priority: huge", "plan.yaml:11:5: workstreams[1].priority: "),
        ("[outline]", "[outlines]", "plan.yaml:10:18: workstreams[1].depends_on[0]: "),
        ("[outline]", "[outlines]", "(unknown_dependency)"),
        ("[outline]", "[text]", "(self_dependency)"),
        ("executor: signal", "executor: agent", "plan.yaml:7:5: workstreams[0].executor: "),
        (
            "executor: signal",
            "executor: signal\n    depends_on: [text]",
            "outline -> text -> outline",
        ),
        ("id: text", "id: outline", "plan.yaml:8:5: workstreams[1].id: 'outline' stands twice"),
        (
            "[python3, write.py]",
            "[sleep, 5]",
            "plan.yaml:14:21: workstreams[1].executor.argv[1]: this should be a text",
        ),
        ("[python3, write.py]", "[]", "plan.yaml:14:7: workstreams[1].executor.argv: "),
        ("server: coder", "server: writer", "(unknown_server)"),
        ("server: coder", "server: coder\n      pod: gpu2", "(server_on_other_pod)"),
        ("pod: gpu1, ", "", "plan.yaml:3:5: model_servers[0].pod: this field is missing"),
        ("90%", "900%", "model_servers[0].memory: "),
        ("context: 32k", "arguments: [--api-key, x], context: 32k", "plan.yaml:3:"),
        ("context: 32k", "gpus: 0", "model_servers[0].gpus: "),
        ("write.py", "hf_abcdefghijklmnopqrstuvwxyz", "(secret_in_arguments)"),
        ("id: text", "id: ../text", "workstreams[1].id: "),
        ("id: text", "id: a..b", "a name may not contain '..'"),
        ("summary: Docs", "summary: Docs\nsummary: More", "plan.yaml:2:1: 'summary' stands here for the second time"),
        ("summary: Docs", "summary: &x Docs", "plan.yaml:1:10: anchors and aliases are not allowed"),
        ("summary: Docs", "1: Docs", "plan.yaml:1:1: a field's name is a text, not 1"),
        ("summary: Docs", "<<: {summary: Docs}", "plan.yaml:1:1: this is not YAML"),
        ("summary: Docs", "summary: 2020-13-45", "plan.yaml:1:10: '2020-13-45': month must be in 1..12"),
        ("summary: Docs", "summary: !!python/name:os.system x", "plan.yaml:1:10: this is not YAML"),
        ("summary: Docs", "summary: [", "plan.yaml:"),
        ("summary: Docs", "summary: a: b", "plan.yaml:1:11: this is not YAML: mapping values are not allowed"),
        ("summary: Docs", "summary: \x07", "plan.yaml:1: this is not YAML: "),
    ],
)
def test_a_mistake_is_shown_at_its_place(before: str, after: str, expected: str) -> None:
    assert before in GOOD
    with pytest.raises(BadInput) as caught:
        read_plan(GOOD.replace(before, after), "plan.yaml")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("- a\n- b\n", "plan.yaml:1:1: a plan is a mapping"),
        ("a: 1\n---\nb: 2\n", "this is not YAML"),
        ("[" * 100_000, "nested deeper"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "anchors and aliases"),
        ("summary: " + "x" * 10_000_000, "the limit is 262,144"),
    ],
)
def test_what_is_no_plan_at_all_is_refused(text: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_plan(text, "plan.yaml")
    assert expected in str(caught.value)


def test_a_command_without_a_pod_takes_the_plans_only_one_or_is_refused() -> None:
    alone = "workstreams:\n  - {id: a, title: A, executor: {type: command, argv: [x]}}\n"
    with pytest.raises(BadInput, match="no_pod"):
        read_plan(alone, "plan.yaml")
    one_pod = "model_servers:\n  - {name: s, model: m, pod: gpu1}\n" + alone
    assert read_plan(one_pod, "plan.yaml")
    two_pods = one_pod.replace("model_servers:\n", "model_servers:\n  - {name: r, model: m, pod: gpu2}\n")
    with pytest.raises(BadInput, match="the plan names gpu1, gpu2"):
        read_plan(two_pods, "plan.yaml")


def test_all_mistakes_are_listed_up_to_a_limit() -> None:
    workstreams = "".join(f"  - {{id: w{number}}}\n" for number in range(50))
    with pytest.raises(BadInput) as caught:
        read_plan("workstreams:\n" + workstreams, "plan.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 80 more"


def test_a_plan_has_bounds() -> None:
    many = "workstreams:\n" + "".join(f"  - {{id: w{n}, title: W, executor: signal}}\n" for n in range(501))
    with pytest.raises(BadInput, match="too_many_workstreams"):
        read_plan(many, "plan.yaml")
