"""`podctl agents …`: who writes a task's spec and plan, works on it, and reviews it."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table
from cli.signals import Saying, say
from cli.task_commands import read_task, tell

if TYPE_CHECKING:
    from domain.task.models import Agent

app = typer.Typer(
    no_args_is_help=True, help="Who writes a task's spec and plan, works on it and reviews it: look, report, talk, end."
)

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")]


class AgentTypeName(StrEnum):
    """What an agent does."""

    SPEC_WRITER = "spec_writer"
    PLANNER = "planner"
    WORKSTREAM = "workstream"
    REVIEWER = "reviewer"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="agents", rich_help_panel="Tasks")


@app.command("list")
def list_agents(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """List a task's agents, the oldest first, with the newest fifty that have ended. Needs no worker."""
    state = read_task(task)
    agents = list(state.agents.values())
    if output is Format.JSON:
        print_json(agents)
        return
    print_table(
        ("id", "type", "status", "attempt", "begun", "for", "says"),
        [_cells(agent) for agent in agents],
        empty=f"task {task} has no agents: its config names them (podctl task config), or they register themselves",
    )


@app.command("register")
def register_agent(
    task: TaskArgument,
    agent: AgentArgument,
    agent_type: Annotated[
        AgentTypeName, typer.Option("--type", help="What it does.", show_default=True)
    ] = AgentTypeName.WORKSTREAM,
    *,
    workstream: Annotated[
        str | None, typer.Option(metavar="WORKSTREAM", help="Which one it works on, for an agent of type workstream.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say that somebody outside is at work: it can then ask, report, and be interrupted."""
    from domain.task.commands import RegisterAgent
    from podctl.typed import typed

    given = {"agent_id": agent, "agent_type": agent_type.value, "workstream_id": workstream}
    tell(task, typed(RegisterAgent, given), f"agent {agent} is at work", by=by, output=output)


@app.command()
def unregister(
    task: TaskArgument, agent: AgentArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Forget an agent that has ended; the event log keeps what it did."""
    from domain.task.commands import UnregisterAgent

    tell(task, UnregisterAgent(agent_id=agent), f"agent {agent} is forgotten", by=by, output=output)


@app.command()
def interrupt(
    task: TaskArgument,
    agent: AgentArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the event log.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End an agent's work: its program is stopped, and a workstream of its own is interrupted with it."""
    from domain.task.commands import InterruptAgent

    tell(task, InterruptAgent(agent_id=agent, reason=reason), f"agent {agent} is interrupted", by=by, output=output)


@app.command()
def restart(
    task: TaskArgument,
    agent: AgentArgument,
    *,
    instructions: Annotated[str, typer.Option(metavar="TEXT", help="What to mind this time.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Have an agent that has ended try once more, as an agent of its own."""
    from domain.task.commands import RestartAgent

    command = RestartAgent(agent_id=agent, instructions=instructions)
    tell(task, command, f"what {agent} did is tried again", by=by, output=output)


@app.command()
def message(
    task: TaskArgument,
    agent: AgentArgument,
    content: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say something to an agent."""
    from domain.task.commands import MessageAgent

    tell(task, MessageAgent(agent_id=agent, content=content), f"said to {agent}", by=by, output=output)


@app.command()
def done(
    task: TaskArgument,
    agent: AgentArgument,
    *,
    text: Annotated[str, typer.Option(metavar="TEXT", help="What it wrote, or what came of it.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="A file with that text; - is standard input.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The plan that a planner made: a plan file.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Report what an agent that works outside has made: a spec or a review's report as text, a plan as a file.

    A signal: it is recorded also while no worker runs.
    """
    from podctl.task_input import read_input, read_plan_file

    if text and file is not None:
        raise typer.BadParameter("give either --text or --file")
    payload = {
        "agent": agent,
        "status": "completed",
        "text": text if file is None else read_input(file),
        "plan": None if plan is None else read_plan_file(plan).model_dump(mode="json"),
    }
    say(Saying(task, "agent-result", f"agent {agent} is done", payload), by, output)


@app.command()
def fail(
    task: TaskArgument,
    agent: AgentArgument,
    error: Annotated[str, typer.Argument(metavar="REASON", help="Why, for whoever decides what is to become of it.")],
    *,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Report that an agent that works outside has failed. A signal: it is recorded also while no worker runs."""
    payload = {"agent": agent, "status": "failed", "error": error}
    say(Saying(task, "agent-result", f"agent {agent} has failed", payload), by, output)


def _cells(agent: "Agent") -> tuple[object, ...]:
    from cli.render import ago

    said = (agent.error or agent.output).strip().splitlines()
    # A program's error begins with what ended, and ends with why.
    text = said[0][:160] if said else None
    if len(said) > 1 and agent.error:
        text = f"{text} … {said[-1][:160]}"
    return (
        agent.agent_id,
        agent.agent_type.value.replace("_", " "),
        agent.status.value,
        agent.attempt,
        ago(agent.started_at) or None,
        agent.workstream_id,
        text,
    )
