"""Signals as they come past podctl: every form of them is taken or refused with words, and none does harm."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.entity import record_refusal
from domain.errors import Rejected
from domain.task.commands import (
    AgentDone,
    Approve,
    ApproveReview,
    ApproveSpec,
    CompleteWorkstream,
    Envelope,
    FailWorkstream,
    GiveApproval,
    PostMessage,
    Reject,
    ServerChanged,
    TaskCommand,
)
from domain.task.details import summary_markdown
from domain.task.models import Result, ServerStatus, SignalExecutor, TaskState
from domain.task.rules import apply
from domain.task.schedule import next_actions
from domain.task.signals import EXAMPLES, command_from_signal
from tests.unit.task.support import START, executing


@pytest.mark.parametrize(
    ("name", "payload", "command"),
    [
        ("approve-spec", {"revision": 3, "comment": "ok"}, ApproveSpec(revision=3, comment="ok")),
        ("approve-review", {}, ApproveReview()),
        ("approve", {}, Approve()),
        ("approve", {"choice": "retry"}, Approve(choice="retry")),
        ("approve", {"message_id": "m-1", "choice": "retry"}, GiveApproval(message_id="m-1", choice="retry")),
        ("approve", {"message_id": "m-1"}, GiveApproval(message_id="m-1", choice="approve")),
        ("reject", {"gate": "plan", "comment": "no"}, Reject(gate="plan", comment="no")),
        ("reject", {"message_id": "m-1"}, GiveApproval(message_id="m-1", choice="reject")),
        (
            "workstream-result",
            {"workstream": "docs", "status": "completed", "result": "ok", "artifacts": ["a.md"]},
            CompleteWorkstream(ws_id="docs", result=Result(text="ok", artifacts=("a.md",))),
        ),
        (
            "workstream-result",
            {"workstream": "docs", "status": "failed", "result": "no paper"},
            FailWorkstream(ws_id="docs", error="no paper", result=Result(text="no paper")),
        ),
        ("message", {"content": "hi", "type": "question"}, PostMessage(content="hi", message_type="question")),
        (
            "model-server",
            {"name": "coder", "pod": "gpu1", "status": "loading", "launch_id": "gpu1/coder/1"},
            ServerChanged(name="coder", pod="gpu1", status=ServerStatus.LOADING, launch_id="gpu1/coder/1"),
        ),
    ],
)
def test_a_signal_becomes_its_command(name: str, payload: dict[str, Any], command: TaskCommand) -> None:
    parsed = command_from_signal(name, [{**payload, "by": "ann", "command_id": "c-1"}])
    assert (parsed.command, parsed.by, parsed.command_id) == (command, "ann", "c-1")
    assert command_from_signal(name, [payload]).by == "unknown"
    assert command_from_signal(name, [payload]).command_id is None


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_that_refusals_show_work(name: str) -> None:
    assert command_from_signal(name, [json.loads(EXAMPLES[name])])


@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        ("approve-everything", [{}], "unknown_signal", "approve-spec, approve-plan"),
        ("approve-spec", [], "wrong_argument_count", "0 arguments"),
        ("approve-spec", [{}, {}], "wrong_argument_count", "2 arguments"),
        ("approve-spec", ["yes"], "wrong_payload", "a text"),
        ("approve-spec", [None], "wrong_payload", "null"),
        ("approve-spec", [[1]], "wrong_payload", "a list"),
        ("approve-spec", [{"revison": 3}], "wrong_payload", "revison: Extra inputs"),
        ("approve-spec", [{"revision": "three"}], "wrong_payload", "revision: "),
        ("approve-spec", [{"by": ""}], "wrong_payload", "by: "),
        ("approve-spec", [{"by": "x" * 201}], "wrong_payload", "by: "),
        ("approve-spec", [{"command_id": "x" * 161}], "wrong_payload", "command_id: "),
        ("approve-spec", [{"command_id": "\U0001f600"}], "wrong_payload", "command_id: "),
        ("approve-spec", [{"comment": "\ud800"}], "wrong_payload", "approve-spec"),
        ("approve-spec", [{"comment": {1, 2}}], "wrong_payload", "not JSON"),
        ("workstream-result", [{"workstream": "a"}], "wrong_payload", "status: Field required"),
        ("workstream-result", [{"workstream": "a", "status": "done"}], "wrong_payload", "status: "),
        ("message", [{"content": "x", "type": "approval"}], "wrong_payload", "type: "),
        ("model-server", [{"name": "a", "pod": "p", "status": "fine"}], "wrong_payload", "status: "),
    ],
)
def test_a_malformed_signal_is_refused_with_what_is_expected(
    name: str, arguments: list[object], code: str, words: str
) -> None:
    with pytest.raises(Rejected) as caught:
        command_from_signal(name, arguments)
    assert caught.value.code == code
    assert words in caught.value.message
    if code != "unknown_signal":
        assert EXAMPLES[name] in caught.value.message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)
fields = st.sampled_from(
    ["by", "revision", "comment", "message_id", "choice", "workstream", "status", "result", "content", "type", "gate"]
)


@given(
    name=st.sampled_from([*EXAMPLES]) | st.text(),
    arguments=st.lists(values | st.dictionaries(fields, values | st.sampled_from(["completed", "a", "spec"]))),
)
def test_any_signal_is_taken_or_refused_and_leaves_a_state_that_can_be_carried(
    name: str, arguments: list[object]
) -> None:
    state = executing("a").state
    try:
        parsed = command_from_signal(name, arguments)
    except Rejected as rejected:
        state, events = record_refusal(state, rejected, command_id="s-1", command=name[:100], by="unknown", now=START)
        assert len(events) == 1
    else:
        envelope = Envelope(command_id=parsed.command_id or "s-1", by=parsed.by, command=parsed.command)
        with suppress(Rejected):
            state, _ = apply(state, envelope, START)
    assert TaskState.model_validate_json(state.model_dump_json()) == state
    next_actions(state, START)
    summary_markdown(state)


def test_the_plan_of_an_agents_result_has_the_short_forms_of_a_plan_file() -> None:
    plan = {"workstreams": [{"id": "docs", "title": "Docs", "executor": "signal"}]}
    signal = command_from_signal("agent-result", [{"agent": "planner-1", "status": "completed", "plan": plan}])
    assert isinstance(signal.command, AgentDone)
    assert signal.command.plan is not None
    assert signal.command.plan.workstreams[0].executor == SignalExecutor()
