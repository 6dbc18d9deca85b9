"""Who may say what: podctl's own commands never come from outside."""

import json

import pytest

from domain.entity import Sender
from domain.errors import Rejected
from domain.task.commands import (
    ApproveSpec,
    Envelope,
    Escalate,
    RunStopped,
    ServerAttached,
    ServerChanged,
    TaskCommand,
    WorkstreamInterrupted,
)
from domain.task.models import ServerStatus, TaskInput
from domain.task.rules import RULES, check_sender, create_task
from domain.task.signals import EXAMPLES, MODEL_SERVER, command_from_signal
from tests.unit.task.support import START

REPORT = ServerChanged(name="coder", pod="gpu1", status=ServerStatus.READY, launch_id="gpu1/coder/1")


def refused(command: TaskCommand, sender: Sender, by: str = "ann") -> str:
    with pytest.raises(Rejected) as caught:
        check_sender(Envelope(command_id="c", by=by, command=command), sender)
    assert caught.value.code == "not_allowed"
    return caught.value.message


@pytest.mark.parametrize("sender", [Sender.PERSON, Sender.POD])
def test_what_podctl_reports_is_not_taken_from_outside(sender: Sender) -> None:
    for command in (
        WorkstreamInterrupted(ws_id="a", attempt=1, reason="?"),
        RunStopped(run_id="t1/a/1"),
        Escalate(item_id="x"),
        ServerAttached(name="coder"),
    ):
        assert command.type in refused(command, sender)


def test_only_a_gpu_pod_reports_on_its_servers() -> None:
    check_sender(Envelope(command_id="c", by="pod gpu1", command=REPORT), Sender.POD)
    assert "GPU pod" in refused(REPORT, Sender.PERSON)


def test_a_pod_decides_nothing() -> None:
    refused(ApproveSpec(revision=1), Sender.POD)


def test_nobody_outside_speaks_as_podctl() -> None:
    assert "--as" in refused(ApproveSpec(revision=1), Sender.PERSON, by="podctl")


def test_no_task_begins_in_podctls_name() -> None:
    with pytest.raises(Rejected, match="not_allowed"):
        create_task(TaskInput(task_id="t1", title="T", by="podctl", command_id="c"), START)


def test_every_rule_has_a_sender() -> None:
    assert all(rule.senders for rule in RULES.values())


def test_each_signal_may_be_sent_by_whom_it_is_for() -> None:
    for name, example in EXAMPLES.items():
        parsed = command_from_signal(name, [json.loads(example)])
        assert parsed.sender is (Sender.POD if name == MODEL_SERVER else Sender.PERSON)
        check_sender(Envelope(command_id="c", by=parsed.by, command=parsed.command), parsed.sender)
