"""What people see of a task: short where a text is long, with the command that shows all of it."""

import io

from rich.console import Console, RenderableType

from cli.render import event_view
from cli.render_task import task_view
from domain.entity import Event
from domain.task.commands import AgentFailed, PostMessage
from tests.unit.task.support import START, Driver, executing, plan

LONG = "\n".join(f"- wish {number}" for number in range(1, 41))


def shown(view: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_a_long_spec_leaves_the_workstreams_in_sight() -> None:
    task = Driver(spec=LONG)
    text = shown(task_view(task.state, documents=True))
    assert "wish 12" in text
    assert "wish 13" not in text
    assert f"… 28 more lines: podctl spec show {task.state.task_id}" in text


def test_a_long_summary_of_a_plan_and_a_spec_of_one_long_line_are_cut_as_they_are_seen() -> None:
    task = Driver(spec="word " * 1_000, plan=plan("one", summary=LONG))
    task.settle()
    text = shown(task_view(task.state, documents=True))
    assert f"more lines: podctl spec show {task.state.task_id}" in text
    assert len(text.splitlines()) < 60


def test_a_short_spec_is_shown_whole() -> None:
    text = shown(task_view(Driver(spec="- one\n- two").state, documents=True))
    assert "two" in text
    assert "more line" not in text


def test_a_long_message_is_cut_and_says_where_all_of_it_is() -> None:
    task = executing("one")
    task.do(PostMessage(message_type="update", content=LONG))
    task.do(PostMessage(message_type="update", content="word " * 1_000))
    text = shown(task_view(task.state, documents=True), width=100)
    assert "wish 6" in text
    assert "wish 7" not in text
    assert text.count(f"podctl task show {task.state.task_id} -o json") == 2
    assert len(text.splitlines()) < 60


def event(**payload: object) -> Event:
    return Event(sequence=7, at=START, type="message_posted", by="ann", command_id="c", payload=payload)


def test_an_event_on_a_terminal_goes_on_below_its_beginning_and_cuts_long_values_between_their_parts() -> None:
    config = {"gates": {"spec": "auto", "plan": None}, "agents": {f"agent-{n}": "command" for n in range(40)}}
    lines = shown(event_view(event(content="word " * 30, config=config), whole=False)).splitlines()
    assert lines[0].startswith("    7  ")
    assert len(lines) > 2
    assert all(line.startswith(" " * 7) and line[7] != " " for line in lines[1:])
    assert lines[-1].endswith('"command",…')
    assert "null" not in " ".join(lines)


def test_an_event_in_a_pipe_is_one_line_with_all_it_carries() -> None:
    config = {f"agent-{n}": "command" for n in range(40)}
    line = shown(event_view(event(content="first\nsecond", config=config), whole=True), width=100_000)
    assert len(line.splitlines()) == 1
    assert '"agent-39":"command"}' in line
    assert "first\\nsecond" in line


def test_a_planners_repeated_mistake_is_told_once() -> None:
    task = Driver(
        agents={"planner": {"type": "signal"}}, gates={"spec": "auto"}, agent_attempts=2, failure_cooldown_seconds=[1]
    )
    mistake = "what it wrote is no plan: " + "\n".join(f"line {n}: no such field" for n in range(1, 30))
    for attempt in (1, 2):
        task.do(AgentFailed(agent_id=f"planner-{attempt}", error=mistake))
        task.later(5)
    text = shown(task_view(task.state, documents=True))
    assert "the same as planner-1" in text
    assert "line 7" not in text
    assert f"(whole: podctl task show {task.state.task_id} -o json)" in " ".join(text.split())
