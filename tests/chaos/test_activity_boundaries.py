"""A worker dies at every boundary of every activity of a task; state and events end as if it had not.

The task is of five workstreams on two model servers, its plan is written by a program. The boundaries are those of the
histories of a run that nobody disturbed.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue
from temporalio.client import Client

from domain.ids import task_workflow_id
from domain.task.models import TaskConfig, TaskInput, TaskState
from podctl.client import new_command_id
from simulator.api import MachineConfig, SimulatedMachine, simulate
from simulator.models import Gpu
from tests.chaos.boundaries import boundaries
from tests.chaos.support import MODEL, Site, WorkerProcess, eventually

#: Tasks at the same time: each mostly waits for a dead worker to be noticed.
CONCURRENT = 6
_LONGER_THAN_A_TASK = 600.0
#: Each program leaves a line that says that it has run.
RAN = 'echo {name} >> "$HOME/ran"'
PLAN = """
model_servers:
  - {{name: coder, model: {model}, pod: {pod}}}
  - {{name: writer, model: {model}, pod: {pod}}}
workstreams:
  - id: code
    title: Code
    executor: {{type: command, server: coder, argv: [sh, -c, '{code}; echo "$OPENAI_MODEL"']}}
  - id: text
    title: Text
    executor: {{type: command, server: writer, argv: [sh, -c, '{text}; echo words']}}
  - id: join
    title: Join
    depends_on: [code, text]
    executor: {{type: command, pod: {pod}, argv: [sh, -c, '{join}']}}
  - {{id: check, title: Check, depends_on: [join], executor: signal}}
  - id: ship
    title: Ship
    depends_on: [check]
    executor: {{type: command, pod: {pod}, argv: [sh, -c, '{ship}']}}
"""
PROGRAMS = ("code", "text", "join", "ship")
#: What a GPU pod tells of a server on its way depends on when somebody looks.
_ON_THE_WAY = frozenset(
    f"model_server_{state}" for state in ("attached", "pending", "launching", "loading", "stopping", "unreachable")
)


@dataclass(frozen=True)
class Ending:
    """What a task came to, with nothing in it that depends on when, or on what it is called."""

    state: JsonValue
    events: Mapping[str, Sequence[JsonValue]]
    ran: Sequence[str]


async def test_a_worker_that_dies_at_any_boundary_changes_nothing(client: Client, tmp_path: Path) -> None:
    async with simulate(tmp_path / "undisturbed", [_machine("undisturbed")]) as [machine]:
        made = Site(client, machine, tmp_path / "workers")
        expected = await _carried_out(made, None)
        found = await boundaries(client, task_workflow_id(_task(made)), made.pod_workflow)
    found = [(activity, _named(about, machine, _NAMES, _PLACES), when) for activity, about, when in found]
    assert {activity for activity, _, _ in found} == {
        "attach_server",
        "detach_server",
        "launch_server",
        "run_command",
        "stop_launch",
    }
    assert len(found) == 2 * (2 + 2 + 2 + 5 + 2), found

    few = asyncio.Semaphore(CONCURRENT)

    async def disturbed(boundary: tuple[str, str, str], machine: SimulatedMachine) -> None:
        activity, about, when = boundary
        there = _named(about, machine, _PLACES, _NAMES)
        async with few:
            made = Site(client, machine, tmp_path / machine.name)
            assert await _carried_out(made, (activity, there, when)) == expected

    machines = [_machine(f"lost-{number}") for number in range(len(found))]
    async with simulate(tmp_path / "disturbed", machines) as disturbed_machines:
        outcomes = await asyncio.gather(*map(disturbed, found, disturbed_machines), return_exceptions=True)
    problems = [f"{' '.join(b)}: {outcome!r}" for b, outcome in zip(found, outcomes, strict=True) if outcome]
    if problems:
        pytest.fail(f"{len(problems)} of {len(found)} boundaries:\n" + "\n\n".join(problems))


def _machine(name: str) -> MachineConfig:
    return MachineConfig(name=name, gpus=(Gpu(), Gpu()))


def _task(made: Site) -> str:
    return f"task-of-{made.pod_name}"


async def _carried_out(made: Site, boundary: tuple[str, str, str] | None) -> Ending:
    """Carry the task out, with a worker that dies at ``boundary`` and is then replaced, and return how it ended."""
    await made.machine.settings(load_seconds=0.2)
    await made.register()
    first = _start(made, boundary)
    replacement = asyncio.create_task(_replace(made, first))
    try:

        async def seen() -> bool:
            return (await made.pod()).reachable is True

        await eventually(seen, f"{made.pod_name} was seen")
        await _create(made)

        def handed_out(state: TaskState) -> bool:
            return "check" in state.workstreams and state.workstreams["check"].status == "in_progress"

        await made.task(_task(made), handed_out, "check is in progress")
        await made.signal(_task(made), "workstream-result", workstream="check", status="completed", result="fine")
        state = await made.task(_task(made), lambda state: state.phase == "completed", "is completed")
        for name in ("coder", "writer"):
            await made.server(name, "stopped")
        await made.client.temporal.get_workflow_handle(task_workflow_id(_task(made))).result()
        assert (boundary is None) == first.process.is_alive(), "the worker died where it should"
        state = await made.client.task(_task(made))
        events = await made.events(task_workflow_id(_task(made)))
    finally:
        replacement.cancel()
        made.end_workers()
    await made.assert_nothing_left()
    told = [event.model_dump(mode="json") for event in events if event.type not in _ON_THE_WAY]
    by_subject: dict[str, list[JsonValue]] = {}
    for event in told:
        what = event["payload"]
        subject = next((f"{kind} {what[kind]}" for kind in ("workstream", "agent", "server") if what.get(kind)), "task")
        by_subject.setdefault(subject, []).append(_timeless(event, made.machine))
    ran = (made.machine.folder / "home" / "ran").read_text().splitlines()
    return Ending(_timeless(state.model_dump(mode="json"), made.machine), by_subject, sorted(ran))


def _start(made: Site, boundary: tuple[str, str, str] | None) -> WorkerProcess:
    if boundary is None:
        return made.start_worker()
    made.folder.mkdir(parents=True, exist_ok=True)
    address = made.temporal.service_client.config.target_host
    worker = WorkerProcess(address, made.task_queue, made.folder, "tests.chaos.dying_worker", *boundary)
    made.workers.append(worker)
    return worker


async def _replace(made: Site, worker: WorkerProcess) -> None:
    await asyncio.to_thread(worker.process.wait, _LONGER_THAN_A_TASK)
    made.start_worker()


async def _create(made: Site) -> None:
    pod = made.pod_name
    programs = {name: RAN.format(name=name) for name in PROGRAMS}
    plan = PLAN.format(model=MODEL, pod=pod, **programs)
    script = f"import os; open(os.environ['PODCTL_OUTPUT'], 'w').write({plan!r})"
    planner = {"type": "command", "argv": ["python3", "-c", script], "pod": pod}
    gates = dict.fromkeys(("spec", "plan", "execution", "review"), "auto")
    config = TaskConfig.model_validate({"gates": gates, "agents": {"planner": planner}})
    given = TaskInput(
        task_id=_task(made), title="Five", by="ann", command_id=new_command_id(), spec="Do it.", config=config
    )
    await made.client.create_task(given)


#: What names of one run are called in all.
_NAMES = ("{pod}", "{task}", "{folder}")
_PLACES = ("POD", "TASK", "FOLDER")


def _named(text: str, machine: SimulatedMachine, before: Sequence[str], after: Sequence[str]) -> str:
    """Return ``text`` with the names of one run replaced by those of all, or the other way round."""
    own = {"pod": machine.name, "task": f"task-of-{machine.name}", "folder": str(machine.folder)}
    # The longest first: the task is called after the pod.
    for old, new in sorted(zip(before, after, strict=True), key=lambda pair: -len(pair[0].format(**own))):
        text = text.replace(old.format(**own), new.format(**own))
    return text


def _timeless(value: JsonValue, machine: SimulatedMachine) -> Any:  # noqa: ANN401 - any JSON
    """Return a value without times, counters of events, random ids, and the names of one run."""
    if isinstance(value, dict):
        kept = {_named(key, machine, _NAMES, _PLACES): _timeless(v, machine) for key, v in value.items()}
        return {key: v for key, v in kept.items() if key not in _CHANCE}
    if isinstance(value, list):
        return [_timeless(item, machine) for item in value]
    if isinstance(value, str):
        return _TIME.sub("TIME", _named(value, machine, _NAMES, _PLACES))
    return value


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)")
#: Made of times, or counted over everything that happened.
_CHANCE = frozenset({"sequence", "command_id", "ledger", "digest", "outcome_digest"})
