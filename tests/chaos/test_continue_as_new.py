"""A task that begins anew every few commands while twenty people talk to it: nothing is lost, doubled or swapped."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from temporalio.client import Client

from domain.entity import Event
from domain.ids import task_workflow_id
from domain.task.commands import PostMessage, TaskCommand
from domain.task.models import Phase
from podctl.client import NoWorker, new_command_id
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.chaos.support import Site, eventually, site
from tests.server import temporal_server

SENDERS = 20
#: Commands of each sender: by turns an update, a signal whose outcome is asked for, and one that nobody waits for.
COMMANDS = 30
#: Events after which the server asks a workflow to begin anew; the default is 4,096.
HISTORY_LIMIT = 50
#: Where everything is slow, a workflow task brings a command or two of each sender, and a run has two or three tasks.
FEWEST_RUNS = SENDERS * COMMANDS // (6 * SENDERS)
PROGRAM = 'echo start >> "$HOME/starts"; while [ ! -e "$HOME/enough" ]; do sleep 0.1; done'
PLAN = f"""
workstreams:
  - {{id: docs, title: Docs, executor: signal}}
  - {{id: work, title: Work, executor: {{type: command, argv: [sh, -c, '{PROGRAM}'], pod: machine}}}}
"""


@pytest.fixture
async def impatient_server() -> AsyncIterator[Client]:
    """A server that wants histories of no more than ``HISTORY_LIMIT`` events."""
    async with temporal_server([f"limit.historyCount.suggestContinueAsNew={HISTORY_LIMIT}"]) as environment:
        yield environment.client


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[SimulatedMachine]:
    async with simulate(tmp_path / "machines", [MachineConfig(name="machine")]) as [one]:
        yield one


@dataclass(frozen=True)
class Sent:
    """A command that was acknowledged: between which two moments it was carried out."""

    command_id: str
    before: float
    #: None: only that the server has it is known.
    after: float | None


async def test_every_acknowledged_command_is_in_the_log_once_and_in_order(
    impatient_server: Client, machine: SimulatedMachine, tmp_path: Path
) -> None:
    async with site(impatient_server, machine, tmp_path / "site") as here:
        task_id = f"busy-{uuid.uuid4().hex[:8]}"
        await here.create_task(task_id, PLAN)
        await here.signal(task_id, "approve-spec")
        await here.signal(task_id, "approve-plan")
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(_send(here, task_id, f"sender {n}")) for n in range(SENDERS)]
        sent = [sender.result() for sender in senders]
        (machine.folder / "home" / "enough").touch()
        await here.signal(task_id, "workstream-result", workstream="docs", status="completed", result="written")
        await here.task(task_id, lambda state: state.phase is Phase.REVIEW, "the program was found again")
        await here.signal(task_id, "approve-review")
        await here.task(task_id, lambda state: state.phase is Phase.COMPLETED, "is completed")

        assert len(await _runs(here, task_id)) >= FEWEST_RUNS
        log = await here.client.log(task_workflow_id(task_id))
        assert (machine.folder / "home" / "starts").read_text().split() == ["start"]
        assert [event.sequence for event in log.events] == list(range(1, len(log.events) + 1))
        posted = [event for event in log.events if event.type == "message_posted"]
        assert Counter(event.command_id for event in posted) == Counter(one.command_id for own in sent for one in own)
        for own in sent:
            _assert_in_order(posted, own)
        _assert_no_later_command_overtakes([one for own in sent for one in own], posted)


async def _send(here: Site, task_id: str, by: str) -> list[Sent]:
    """Send commands one after the other, and return those that were acknowledged."""
    sent: list[Sent] = []
    handle = here.temporal.get_workflow_handle(task_workflow_id(task_id))
    for number in range(COMMANDS):
        command_id, text, before = new_command_id(), f"{by} says {number}", time.monotonic()
        payload = {"by": by, "content": text, "command_id": command_id}
        after: float | None = None
        if number % 3 == 0:
            await _execute(here, task_id, PostMessage(content=text), by, command_id)
            after = time.monotonic()
        elif number % 3 == 1:
            outcome = await here.client.signal_task(task_id, "message", payload)
            if outcome is not None:
                assert outcome.accepted, outcome
                after = time.monotonic()
        else:
            await handle.signal("message", payload)
        sent.append(Sent(command_id, before, after))
    return sent


async def _execute(here: Site, task_id: str, command: TaskCommand, by: str, command_id: str) -> None:
    """Send an update until it is answered: while a run ends, the server makes senders wait, each time longer."""

    async def answered() -> bool:
        try:
            await here.client.execute_task(task_id, command, by=by, command_id=command_id)
        except NoWorker:
            return False
        return True

    await eventually(answered, f"a command of {by} is answered")


async def _runs(here: Site, task_id: str) -> list[str]:
    """Return the ids of the task's runs, newest first."""
    runs: list[str] = []
    run_id: str | None = None
    while run_id != "":
        handle = here.temporal.get_workflow_handle(task_workflow_id(task_id), run_id=run_id)
        started = await anext(aiter(handle.fetch_history_events(page_size=1)))
        attributes = started.workflow_execution_started_event_attributes
        runs.append(attributes.original_execution_run_id)
        run_id = attributes.continued_execution_run_id
    return runs


def _assert_in_order(posted: Sequence[Event], own: Sequence[Sent]) -> None:
    mine = {one.command_id for one in own}
    assert [event.command_id for event in posted if event.command_id in mine] == [one.command_id for one in own]


def _assert_no_later_command_overtakes(sent: Sequence[Sent], posted: Sequence[Event]) -> None:
    """Check that what was carried out before something else was sent stands before it."""
    at = {event.command_id: event.sequence for event in posted}
    done = sorted((one for one in sent if one.after is not None), key=lambda one: one.after or 0.0)
    newest, index = 0, 0
    for one in sorted(sent, key=lambda one: one.before):
        while index < len(done) and (done[index].after or 0.0) < one.before:
            newest = max(newest, at[done[index].command_id])
            index += 1
        assert at[one.command_id] > newest
