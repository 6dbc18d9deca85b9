"""A task as its workflow would carry it, without Temporal: commands in, the scheduler's own decisions at once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest

from domain.entity import Event, Sender
from domain.errors import Rejected
from domain.task.commands import (
    ApprovePlan,
    ApproveSpec,
    CompleteWorkstream,
    Envelope,
    RunStopped,
    ServerAttached,
    ServerChanged,
    TaskCommand,
)
from domain.task.events import EVENTS
from domain.task.models import (
    SCHEDULER,
    Gates,
    Phase,
    PlanDraft,
    ServerStatus,
    TaskConfig,
    TaskInput,
)
from domain.task.rejections import COMMON
from domain.task.rules import RULES, apply, create_task
from domain.task.schedule import Action, Command, next_actions
from podctl.explain import explain

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AUTOMATIC = Gates.model_validate({"spec": "auto", "plan": "auto", "execution": "auto", "review": "auto"})


class Driver:
    """One task and its clock. ``do`` lets the scheduler decide afterwards, as the workflow does."""

    def __init__(self, plan: PlanDraft | None = None, spec: str | None = "build it", **config: object) -> None:
        self.now = START
        self.count = 0
        task = TaskInput(
            task_id="t1",
            title="A task",
            by="ann",
            command_id="create",
            spec=spec,
            plan=plan,
            config=TaskConfig.model_validate(config),
        )
        self.state, events = create_task(task, self.now)
        check_events(events)
        self.events: list[Event] = list(events)
        self.settle()

    def do(self, command: TaskCommand, by: str = "ann", command_id: str | None = None) -> tuple[Event, ...]:
        """Apply a command, then let the scheduler decide. Returns the command's own events."""
        events = self.apply(command, by, command_id)
        self.settle()
        return events

    def apply(self, command: TaskCommand, by: str = "ann", command_id: str | None = None) -> tuple[Event, ...]:
        """Apply a command and nothing else."""
        self.count += 1
        envelope = Envelope(command_id=command_id or f"c{self.count}", by=by, command=command)
        self.state, events = apply(self.state, envelope, self.now)
        check_events(events)
        self.events.extend(events)
        return events

    def settle(self) -> None:
        """Carry out the scheduler's decisions until it has none. More than it can sensibly make is a failure."""
        for _ in range(600):
            decision = next((a for a in self.actions() if isinstance(a, Command)), None)
            if decision is None:
                return
            check_decision(decision)
            self.apply(decision.command, SCHEDULER, decision.command_id)
        raise AssertionError(f"the scheduler does not come to an end: {self.wanted()[:10]}")

    def actions(self) -> Sequence[Action]:
        """Return what the task wants done now."""
        return next_actions(self.state, self.now)

    def wanted(self) -> list[str]:
        """Return the keys of what the task wants done now."""
        return [action.key for action in self.actions()]

    def later(self, seconds: float) -> None:
        """Let time pass, and the scheduler look again."""
        self.now += timedelta(seconds=seconds)
        self.settle()

    def refused(self, code: str, command: TaskCommand, by: str = "ann") -> str:
        """Check that a command is refused with ``code`` and changes nothing; return the message."""
        before = self.state.model_dump_json()
        with pytest.raises(Rejected) as caught:
            self.apply(command, by)
        assert caught.value.code == code, caught.value
        check_refusal(command, code)
        assert self.state.model_dump_json() == before
        return caught.value.message

    def phase(self) -> Phase:
        """Return the task's phase."""
        return self.state.phase

    def statuses(self) -> dict[str, str]:
        """Return each workstream's status."""
        return {name: ws.status.value for name, ws in self.state.workstreams.items()}

    def event_types(self) -> list[str]:
        """Return the types of all events so far."""
        return [event.type for event in self.events]

    def complete(self, *names: str) -> None:
        """Report success for workstreams, one after the other."""
        for name in names:
            self.do(CompleteWorkstream(ws_id=name))

    def stopped(self) -> None:
        """Report that every run that has to end is gone."""
        for run_id in [*self.state.stopping_runs]:
            self.do(RunStopped(run_id=run_id), SCHEDULER)

    def server(self, status: str, name: str = "coder", detail: str = "") -> None:
        """Have the GPU pod report a model server's state."""
        command = ServerChanged(
            name=name, pod="gpu1", status=ServerStatus(status), launch_id=f"gpu1/{name}/1", detail=detail
        )
        self.do(command, by="gpu-pod/gpu1")


def check_events(events: Sequence[Event]) -> None:
    """Check that events are as ``domain/task/events.py`` lists them."""
    for event in events:
        assert event.type in EVENTS, f"{event.type} is not in domain/task/events.py"
        unknown = event.payload.keys() - set(EVENTS[event.type].fields)
        assert not unknown, f"{event.type} in domain/task/events.py lacks the fields {sorted(unknown)}"


def check_refusal(command: TaskCommand, code: str) -> None:
    """Check that a command's page (podctl explain) has the code with which it was refused."""
    assert code in _told(command.type), f"podctl explain {command.type} does not tell of {code}"


@cache
def _told(command: str) -> frozenset[str]:
    return frozenset({*explain(command).rejections, *COMMON})


def check_decision(decision: Command) -> None:
    """Check that a decision of the scheduler is one that podctl may give."""
    command = decision.command
    assert Sender.PODCTL in RULES[type(command)].senders, f"the rule of {command.type} does not name PODCTL as a sender"


def plan(*workstreams: str | dict[str, Any], servers: Sequence[str] = (), **fields: object) -> PlanDraft:
    """Return a plan. ``'c: a b'`` is a ``signal`` workstream c that depends on a and b; a dict says it all."""
    listed: list[dict[str, Any]] = []
    for workstream in workstreams:
        fields_of = workstream if isinstance(workstream, dict) else _short(workstream)
        listed.append({"title": fields_of["id"].upper(), "executor": {"type": "signal"}, **fields_of})
    model_servers = [{"name": name, "model": "org/model", "pod": "gpu1"} for name in servers]
    return PlanDraft.model_validate({"workstreams": listed, "model_servers": model_servers, **fields})


def _short(workstream: str) -> dict[str, Any]:
    name, _, depends = workstream.partition(":")
    return {"id": name, "depends_on": depends.split()}


def command(name: str, depends: str = "", *, server: str | None = None, pod: str | None = "gpu1") -> dict[str, Any]:
    """Return a ``command`` workstream."""
    executor = {"type": "command", "argv": ["make", name], "server": server, "pod": None if server else pod}
    return {"id": name, "depends_on": depends.split(), "executor": executor}


def executing(*workstreams: str | dict[str, Any], servers: Sequence[str] = (), **config: object) -> Driver:
    """Return a task in workstream_execution."""
    driver = Driver(plan(*workstreams, servers=servers), "build it", **config)
    driver.do(ApproveSpec(revision=1))
    driver.do(ApprovePlan(revision=1))
    return driver


def serving(*workstreams: str | dict[str, Any], **config: object) -> Driver:
    """Return a task in workstream_execution whose model server ``coder`` is ready."""
    driver = executing(*workstreams, servers=["coder"], **config)
    driver.do(ServerAttached(name="coder"), by=SCHEDULER)
    driver.server("ready")
    return driver
