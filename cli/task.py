"""`podctl task create | list | show | config | logs | move | evaluate | cancel`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_client, speaker
from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table, run_async
from cli.task_commands import tell, tell_done

if TYPE_CHECKING:
    from domain.task.models import TaskState
    from podctl.listing import TaskRow

app = typer.Typer(no_args_is_help=True, help="Begin tasks, look at them, end them.")


class PhaseName(StrEnum):
    """Where a task can be moved. It is ended by ``cancel``."""

    SPEC_CLARIFICATION = "spec_clarification"
    PLANNING = "planning"
    WORKSTREAM_EXECUTION = "workstream_execution"
    REVIEW = "review"
    COMPLETED = "completed"


class AnyPhase(StrEnum):
    """Where a task can be."""

    SPEC_CLARIFICATION = "spec_clarification"
    PLANNING = "planning"
    WORKSTREAM_EXECUTION = "workstream_execution"
    REVIEW = "review"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="task", rich_help_panel="Tasks")


@app.command()
def create(  # noqa: PLR0913  # a command has as many parameters as options
    title: Annotated[str, typer.Argument(metavar="TITLE", help="What it is about, in a few words.")],
    *,
    task_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Its id; else made of the title.")] = None,
    spec: Annotated[Path | None, typer.Option(metavar="FILE", help="What is wanted, in markdown.")] = None,
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="How it is to be done: a plan in YAML.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its settings: YAML (podctl schema config).")
    ] = None,
    gates: Annotated[
        str, typer.Option(metavar="GATE=MODE,…", help="Which gates need a person: spec=human,plan=auto,…")
    ] = "",
    max_concurrent: Annotated[int | None, typer.Option(min=1, max=100, help="Workstreams at once (3).")] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Begin a task. Needs no worker: the next one takes it up."""
    from podctl.task_input import task_config, task_input

    task = task_input(
        title,
        by=speaker(by),
        task_id=task_id,
        spec=spec,
        plan=plan,
        config=task_config(config, gates=gates, max_concurrent=max_concurrent),
    )

    async def begin() -> None:
        await (await open_client()).create_task(task)

    run_async(begin(), when_interrupted=f"interrupted: `podctl task show {task.task_id}` says whether it was begun")
    if output is Format.JSON:
        print_json({"task": task.task_id, "title": task.title})
    else:
        print(f"task {task.task_id} is begun; look at it with: podctl watch {task.task_id}")


@app.command("list")
def list_tasks(
    *,
    phase: Annotated[AnyPhase | None, typer.Option(help="Only those in this phase.")] = None,
    needs_approval: Annotated[
        bool, typer.Option("--needs-approval", help="Only those that wait for a person's decision.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", "-A", help="Those that are over, too.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List tasks that are not over, the newest first. Needs no worker."""
    from cli.render import ago
    from podctl.listing import task_row

    over = phase in {AnyPhase.COMPLETED, AnyPhase.CANCELLED}

    async def read() -> "list[TaskRow]":
        client = await open_client()
        found = await client.tasks(
            phase=phase.value if phase else None, needs_approval=needs_approval, running=not (everything or over)
        )
        return [task_row(summary) for summary in found]

    rows = run_async(read(), when_interrupted="nothing was changed: `podctl task list` again")
    if output is Format.JSON:
        print_json(rows)
        return
    chosen = phase is not None or needs_approval
    print_table(
        ("task", "phase", "done", "begun", "title", "waits for"),
        [(r.task, r.phase, r.progress, ago(r.created_at), r.title, _first_reason(r)) for r in rows],
        empty="there is no such task"
        if chosen
        else "no task is under way (--all lists those that are over); begin one: "
        'podctl task create "TITLE" --spec FILE --plan FILE',
        cut={"title"},
    )


def _first_reason(row: "TaskRow") -> str:
    """Return what a task waits for; the command that moves it on is shown by ``task show`` and ``inbox``."""
    reason = next(iter(row.waits_for), "")
    return reason.partition(": podctl ")[0]


@app.command()
def show(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show a task: what it waits for, its spec and plan, workstreams, model servers, messages."""
    from cli.render import print_view
    from cli.render_task import task_view
    from podctl.listing import task_document

    state = run_async(_read(task), when_interrupted=f"nothing was changed: `podctl task show {task}` again")
    if output is Format.JSON:
        print_json(task_document(state))
    else:
        print_view(task_view(state, documents=True))


@app.command()
def config(
    task: TaskArgument,
    *,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="gates.plan=auto, max_concurrent=5, …")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All settings anew, from YAML; what it leaves out is default.")
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show a task's settings, as YAML that --file takes; or change them, also while it runs."""
    from podctl.settings import SettingsChanged, change_settings
    from podctl.task_input import config_text

    if not changes and file is None:
        settings = run_async(_read(task), when_interrupted="nothing was changed").config
        if output is Format.JSON:
            print_json(settings)
        else:
            print(config_text(settings), end="")
        return
    name = speaker(by)

    async def change() -> "SettingsChanged":
        return await change_settings(await open_client(), task, file, changes or [], by=name)

    done = run_async(change(), when_interrupted=f"interrupted: `podctl task config {task}` says whether it was done")
    told = f"changed {', '.join(done.names)}" if done.names else "settings are as they were"
    tell_done(task, "change_config", done.command_id, told, by=name, output=output)


@app.command()
def logs(
    task: TaskArgument,
    workstream: Annotated[str, typer.Argument(metavar="WORKSTREAM", help="The workstream's id, or an agent's.")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
) -> None:
    """Show the output of a workstream's newest attempt, or of an agent, read on the pod where it ran."""
    from cli.log_output import Part, copy_log, open_logs
    from podctl.task_runs import run_place

    async def copy() -> None:
        client = await open_client()
        place = run_place(await client.task(task), workstream)
        async with open_logs(client, place.pod) as logs:
            await copy_log(client, logs, place.run_id, Part(tail=tail, follow=follow))

    run_async(
        copy(), when_interrupted=f"the workstream goes on; look again with: podctl task logs {task} {workstream} -f"
    )


@app.command()
def cancel(
    task: TaskArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the task.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End a task for good: its runs are stopped, its model servers released."""
    from domain.task.commands import CancelTask
    from domain.task.waits import waits_for

    def told(state: "TaskState") -> str:
        ending = "; ".join(waits_for(state))
        return f"cancelled\nit still waits for: {ending}" if ending else "cancelled"

    tell(task, CancelTask(reason=reason), told, by=by, output=output)


@app.command()
def move(
    task: TaskArgument,
    phase: Annotated[PhaseName, typer.Argument(metavar="PHASE", help=f"One of {', '.join(PhaseName)}.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; it is shown with the task.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask for another phase. A move back, and one to a review that needs a person, wait for a person's yes."""
    from cli.render import words
    from domain.task.commands import RequestTransition
    from domain.task.models import Phase

    def told(state: "TaskState") -> str:
        if state.pending_transition is None:
            return f"in {words(state.phase)} now"
        approve = f"podctl signal approve {task} --message {state.pending_transition.message_id}"
        return f"asked to move to {words(phase.value)}; it does when somebody approves\nto approve it: {approve}"

    tell(task, RequestTransition(to=Phase(phase.value), reason=reason), told, by=by, output=output)


@app.command()
def evaluate(task: TaskArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE) -> None:
    """Have what comes next decided now: pauses before a retry, and what a move back held up, are over."""
    from domain.task.commands import Evaluate
    from domain.task.waits import waits_for

    def told(state: "TaskState") -> str:
        waits = waits_for(state)
        return f"looked at again; it waits\nfor: {waits[0]}" if waits else "looked at again; it waits for nobody"

    tell(task, Evaluate(), told, by=by, output=output)


async def _read(task: str) -> "TaskState":
    return await (await open_client()).task(task)
