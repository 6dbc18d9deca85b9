"""Plan files: what people may write, and that each mistake is shown at its place."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.task import yaml_file
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

PIECES = [
    *GOOD.splitlines(keepends=True),
    *("\n", "  ", "- ", ": ", "\t", "[", "]", "{", "}", ",", "|", ">", "|+", "?", "#", "---", "...", "%TAG", "'", '"'),
    *("&a", "*a", "<<", "~", "null", "yes", "1e400", "0o7", "1:30", ".nan", "2020-13-45", "2020-01-01", "=", "\\x41"),
    *("!!int", "!!float", "!!bool", "!!timestamp", "!!binary", "!!set", "!!omap", "!!python/object:os.system", "!x"),
    *("\0", "\x85", "\u2028", "\N{BOM}", "\ud800", "\r", "é", "\U0001f600", "9" * 5_000),
]


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
        ("summary: Docs", "summary: \x07", "plan.yaml:1:10: the character U+0007 cannot stand in a text file"),
        ("outline]", "outl\0ine]", "plan.yaml:10:22: the character U+0000"),
        ("outline]", "outl\udcffine]", "plan.yaml:10:22: the character U+DCFF"),
        ("  - id: text", "\t- id: text", "plan.yaml:8:1: this is not YAML: "),
        ("priority: high", "priority: !!bool maybe", "plan.yaml:11:15: 'maybe' is not of the kind 'bool'"),
        ("priority: high", "priority: !!int ''", "plan.yaml:11:15: '' is not of the kind 'int'"),
        ("priority: high", "priority: [high]", "plan.yaml:11:5: workstreams[1].priority: "),
        ("title: Text", "title: 5", "plan.yaml:9:5: workstreams[1].title: this should be a text; put it in quotes"),
        (
            "      argv: [python3, write.py]\n",
            "",
            "plan.yaml:13:7: workstreams[1].executor.argv: this field is missing",
        ),
        ("executor: signal", "executor: command", "plan.yaml:7:5: workstreams[0].executor.argv: this field is missing"),
        ("type: command", "type: agent", "plan.yaml:12:5: workstreams[1].executor: "),
        ("pod: gpu1", "pot: gpu1", "plan.yaml:3:37: model_servers[0].pot: there is no such field"),
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
        ("summary: " + "x" * 10_000_000, "the limit is 2,097,152"),
    ],
)
def test_what_is_no_plan_at_all_is_refused(text: str, expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_plan(text, "plan.yaml")
    assert expected in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_plan() -> None:
    assert read_plan("\N{BOM}" + GOOD, "plan.yaml") == read_plan(GOOD, "plan.yaml")


def test_pyyamls_own_parser_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "FAST_LOADER", yaml.SafeLoader)
    assert read_plan(GOOD, "plan.yaml").workstreams[1].depends_on == ("outline",)
    for before, after, expected in (
        ("title: Text", "titel: Text", "plan.yaml:9:5: workstreams[1].titel: there is no such field"),
        ("summary: Docs", "summary: a: b", "plan.yaml:1:11: this is not YAML: mapping values are not allowed"),
    ):
        with pytest.raises(BadInput) as caught:
            read_plan(GOOD.replace(before, after), "plan.yaml")
        assert expected in str(caught.value)


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_whatever_is_in_a_file_is_read_or_refused_with_its_name(text: str) -> None:
    refused = ""
    try:
        read_plan(text, "plan.yaml")
    except BadInput as error:
        refused = str(error)
    assert all(line.startswith(("plan.yaml:", "and ")) for line in refused.split("\n") if refused)


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
