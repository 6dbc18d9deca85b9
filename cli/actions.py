"""`podctl action …`: what happens only after a person's yes, once."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsOption, ProgramPodOption, ProgramServerOption, ProgramTimeoutOption, TaskArgument
from cli.output import Format, OutputOption, print_json, print_table
from cli.task_commands import read_task, tell

if TYPE_CHECKING:
    from domain.task.models import ProposedAction, TaskState

app = typer.Typer(no_args_is_help=True, help="Actions that need a person's yes: propose, look, grant, reject, end.")

ActionArgument = Annotated[str, typer.Argument(metavar="ACTION", help="The action's id: action-1, …")]
CommentOption = Annotated[str, typer.Option(help="Kept with it, for people.")]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="action", rich_help_panel="Tasks")


@app.command("list")
def list_actions(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """List a task's actions, the oldest first. Needs no worker."""
    from cli.render import ago
    from podctl.actions import action_views

    views = action_views(read_task(task))
    if output is Format.JSON:
        print_json(views)
        return
    print_table(
        ("id", "status", "asked by", "when", "decided by", "what"),
        [(v.action_id, v.status, v.requested_by, ago(v.requested_at), v.decided_by, v.description) for v in views],
        empty=f"nobody has proposed an action in task {task}: podctl action request {task} --help",
    )


@app.command()
def show(task: TaskArgument, action: ActionArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show an action: all that it does, who asked and who decided, what came of it. Needs no worker."""
    from cli.render_tracker import action_lines
    from podctl.actions import action_view

    view = action_view(read_task(task), action)
    if output is Format.JSON:
        print_json(view)
    else:
        print("\n".join(action_lines(view)))


@app.command()
def request(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    program: Annotated[
        list[str] | None, typer.Argument(metavar="-- PROGRAM…", help="The program to run once, with its arguments.")
    ] = None,
    *,
    text: Annotated[
        str | None,
        typer.Option("--json", metavar="JSON", help="Another action, as podctl explain request_action says."),
    ] = None,
    pod: ProgramPodOption = None,
    server: ProgramServerOption = None,
    timeout: ProgramTimeoutOption = None,
    reason: Annotated[str, typer.Option(help="Why; who grants it reads this.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Propose an action: a program that runs once on a GPU pod, or one given as JSON. A person is asked."""
    from domain.task.models import RunAction
    from podctl.actions import read_action
    from podctl.typed import typed, typed_executor

    if (text is None) == (not program):
        raise typer.BadParameter("give either a program, after --, or an action with --json")
    if text is not None:
        if pod is not None or server is not None or timeout is not None:
            raise typer.BadParameter("--pod, --server and --timeout are for a program; the JSON says it all")
        propose(task, read_action(text), reason, by, output)
        return
    executor = typed_executor(program or (), pod=pod, server=server, timeout_seconds=timeout)
    propose(task, typed(RunAction, {"executor": executor}), reason, by, output)


@app.command()
def grant(
    task: TaskArgument,
    action: ActionArgument,
    *,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let a proposed action happen, once."""
    from domain.task.commands import GrantAction

    def told(state: "TaskState") -> str:
        approval = state.actions.get(action)
        if approval is None or approval.status != "granted":
            return f"{action} is granted and done"
        return f"{action} is granted\nhow far it is: podctl action show {task} {action}"

    tell(task, GrantAction(action_id=action, comment=comment), told, by=by, output=output)


@app.command()
def reject(
    task: TaskArgument,
    action: ActionArgument,
    *,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Refuse a proposed action; say why with --comment."""
    from domain.task.commands import RejectAction

    tell(task, RejectAction(action_id=action, comment=comment), f"{action} is rejected", by=by, output=output)


@app.command()
def interrupt(
    task: TaskArgument,
    action: ActionArgument,
    *,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the action.")] = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """End a granted action that is not over. What runs of it is stopped, and it is not repeated."""
    from domain.task.commands import InterruptAction

    command = InterruptAction(action_id=action, reason=reason)
    tell(task, command, f"{action} is interrupted", by=by, output=output)


def propose(task: str, action: "ProposedAction", reason: str, by: str | None, output: Format) -> None:
    """Propose an action, and say under which id and how it is granted."""
    from domain.task.commands import RequestAction

    def told(state: "TaskState") -> str:
        # The newest is ours, unless somebody else proposed one in this very moment.
        newest = list(state.actions)[-1]
        return f"{newest} is proposed\nto let it happen: podctl action grant {task} {newest}"

    tell(task, RequestAction(action=action, reason=reason), told, by=by, output=output)
