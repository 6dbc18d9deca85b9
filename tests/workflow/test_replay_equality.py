"""Generated tasks through a real server: their histories alone give the state and the events that the worker had."""

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.entity import Event, Sender
from domain.task.commands import TaskCommand
from domain.task.models import TaskInput, TaskState
from domain.task.rules import RULES
from podctl.client import PodctlClient, Refused
from podctl.export import export_task, export_text, read_export, replay_export
from tests.unit.task.test_properties import commands, fitting_commands, tasks
from tests.workflow.support import Task, eventually

#: A number stands for one of the commands that fit the state.
steps = st.lists(st.integers(0, 1_000) | st.integers(0, 1_000) | commands, min_size=5, max_size=25)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(task=tasks, sequence=steps)
async def test_the_history_alone_gives_the_same_state_and_events(
    podctl: PodctlClient, unique: Callable[[str], str], task: TaskInput, sequence: list[TaskCommand | int]
) -> None:
    made = Task(podctl, unique("generated"))
    await podctl.create_task(task.model_copy(update={"task_id": made.id}))
    for step in sequence:
        state = await made.state()
        if state.final:
            break
        await send(podctl, made, step if not isinstance(step, int) else fitting(state, step))

    # What runs by itself may go on between the two looks: they are compared where both saw the same.
    async def same_moment() -> tuple[TaskState, list[Event], str] | None:
        state, events = await made.state(), await made.events()
        export = await export_task(podctl, made.id)
        return (state, events, export_text(export)) if export.state["sequence"] == state.sequence else None

    state, events, text = await eventually(same_moment, "the task stands still")
    export = read_export(text, "generated")
    await replay_export(export)
    assert [event.model_copy(update={"client": None}) for event in export.events] == events
    replayed = TaskState.model_validate(export.state)
    assert replayed.model_dump_json(exclude={"ledger"}) == state.model_dump_json(exclude={"ledger"})


def fitting(state: TaskState, number: int) -> TaskCommand:
    known = list(fitting_commands(state))
    return known[number % len(known)]


async def send(podctl: PodctlClient, task: Task, command: TaskCommand) -> None:
    """Send what a person may say, as an update; refused or not, the task goes on."""
    if Sender.PERSON in RULES[type(command)].senders:
        try:
            await podctl.execute_task(task.id, command, by="ann")
        except Refused:
            return
