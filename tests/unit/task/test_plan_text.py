"""A plan written as a file says the same again."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from domain.task import yaml_file
from domain.task.models import PlanDraft
from domain.task.plan_file import read_plan
from domain.task.plan_rules import PLAN_LIMIT
from domain.task.plan_text import plan_draft, plan_text
from tests.unit.task.support import command, executing, plan

PIECES = [
    "a",
    "some words",
    " ",
    "\n",
    "\t",
    "#",
    ": ",
    "- ",
    "'",
    '"',
    "\\",
    "|",
    "é",
    "\U0001f600",
    "---",
    "yes",
    "5",
]
STRANGE = [
    "\x85",
    "\u2028",
    "\ufeff",
    "\r",
    "\x7f",
    "\x07",
    "~",
    "1e3",
    "0x1f",
    "2020-01-01",
    "1:30",
    "null",
    "=",
    "<<",
]
texts = st.lists(st.sampled_from([*PIECES, *STRANGE]), max_size=12).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
titles = texts.filter(lambda text: 0 < len(text.strip()) <= 200).map(str.strip)
arguments = texts.filter(lambda text: "\0" not in text)
names = st.sampled_from(["a", "b-1", "yes", "1", "1.5", "0x1", "null", "1e3", "2020-01-01", "NO"])
executors = st.just({"type": "signal"}) | st.fixed_dictionaries(
    {"type": st.just("command"), "argv": st.lists(arguments, min_size=1, max_size=8), "pod": names},
    optional={
        "environment": st.dictionaries(st.sampled_from(["A", "yes", "_B"]), arguments, max_size=2),
        "timeout_seconds": st.floats(0.001, 1e12),
    },
)
workstreams = st.fixed_dictionaries(
    {"title": titles, "executor": executors},
    optional={
        "description": texts,
        "priority": st.sampled_from(["low", "normal", "high"]),
        "estimated_hours": st.floats(0, 1e30),
    },
)
servers = st.fixed_dictionaries(
    {"name": names, "model": st.sampled_from(["org/model", "/path with/ä", "yes"]), "pod": names},
    optional={
        "gpus": st.integers(1, 8),
        "memory": st.floats(1e-12, 1),
        "context": st.integers(1, 10**8),
        "restart": st.sampled_from(["never", "on-failure", "always"]),
        "idle_ttl": st.floats(1e-9, 31_536_000),
    },
)


@st.composite
def plans(draw: st.DrawFn) -> PlanDraft:
    listed = draw(st.lists(workstreams, max_size=4))
    ids = draw(st.permutations(["a", "yes", "1.5", "0x1", "null"]))
    for number, workstream in enumerate(listed):
        workstream["id"] = ids[number]
        workstream["depends_on"] = draw(st.lists(st.sampled_from(ids[:number]), unique=True)) if number else []
    wanted = draw(st.lists(servers, max_size=3, unique_by=lambda server: server["name"]))
    return PlanDraft.model_validate({"summary": draw(texts), "model_servers": wanted, "workstreams": listed})


@given(plans())
def test_a_plan_is_read_back_as_it_was(written: PlanDraft) -> None:
    assert read_plan(plan_text(written), "plan.yaml") == written


@given(plans())
def test_pyyamls_own_parser_reads_it_so_too(written: PlanDraft) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_file, "FAST_LOADER", yaml.SafeLoader)
        assert read_plan(plan_text(written), "plan.yaml") == written


def test_it_is_what_a_person_would_write() -> None:
    draft = plan(
        {"id": "outline", "title": "The outline", "description": "First\n\n- this\n- that: now\n"},
        {**command("text", "outline", server="coder"), "priority": "high", "estimated_hours": 1.5},
        servers=["coder"],
        summary="Docs: all of them",
    )
    assert (
        plan_text(draft)
        == """\
summary: "Docs: all of them"
model_servers:
  - name: coder
    model: org/model
    pod: gpu1
workstreams:
  - id: outline
    title: The outline
    description: |
      First

      - this
      - that: now
    executor: signal
  - id: text
    title: TEXT
    depends_on: [outline]
    executor:
      type: command
      argv: [make, text]
      server: coder
    priority: high
    estimated_hours: 1.5
"""
    )


def test_the_plan_of_a_task_is_as_its_author_wrote_it() -> None:
    draft = plan("a", command("b", "a", server="coder"), servers=["coder"])
    current = executing("a", command("b", "a", server="coder"), servers=["coder"]).state.plan
    assert current is not None
    assert plan_draft(current) == draft


@pytest.mark.parametrize("description", ["a\n", "\x7f", "\t", "\u2028", '"', "\n", " \n"], ids=ascii)
def test_a_plan_at_its_limit_fits_into_a_file(description: str) -> None:
    draft = plan({"id": "a", "description": description})
    size = len(draft.model_dump_json().encode())
    each = len(plan({"id": "a", "description": description * 2}).model_dump_json().encode()) - size
    largest = plan({"id": "a", "description": description * ((PLAN_LIMIT - size) // each)})
    assert read_plan(plan_text(largest), "plan.yaml") == largest
