"""`podctl plan …`: how a task is to be done, in YAML."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption
from cli.spec import InstructionsOption, ReadRevisionOption, ReasonOption, SpecFileArgument
from cli.task_commands import read_task, tell

if TYPE_CHECKING:
    from domain.task.models import PlanDraft, TaskState

app = typer.Typer(no_args_is_help=True, help="How a task is to be done: read the plan, write it, go back to it.")


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="plan", rich_help_panel="Tasks")


@app.command()
def show(
    task: TaskArgument,
    *,
    tree: Annotated[bool, typer.Option("--tree", help="Show what follows what, and how far it is.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the plan as the file that it is: on a terminal with numbered lines and the open review threads."""
    from cli.render import print_view
    from cli.render_documents import heading, plan_tree, print_document
    from podctl.documents import document_view

    state = read_task(task)
    view = document_view(state, "plan")
    if tree and output is Format.TABLE:
        print_view(heading(view))
        print_view(plan_tree(state))
    else:
        print_document(view, output)


@app.command()
def edit(task: TaskArgument, *, by: AsOption = None, output: OutputOption = Format.TABLE) -> None:
    """Edit the plan in $VISUAL or $EDITOR; one with mistakes is opened again, with them on top."""
    from cli import editing
    from podctl.documents import check_writable, current_plan_text, plan_mistakes, plan_update

    state = read_task(task)
    check_writable(state, "plan")
    revision = 0 if state.plan is None else state.plan.revision
    name = f"{task}.plan.yaml"
    buffer = editing.Buffer(
        name=name,
        text=current_plan_text(state),
        notes=(
            f"The plan of task {task}, revision {revision}. Save to write the next revision; leave it unchanged, or",
            "empty, to change nothing. What can stand here: podctl schema plan. Comments are not kept.",
        ),
        comment="#: ",
    )
    text = editing.edit(buffer, lambda text, above: plan_mistakes("\n" * above + text, name))
    if text is not None:
        with editing.kept_if_refused(name, text):
            tell(task, plan_update(state, _read(text, name)), _written, by=by, output=output)


@app.command("set")
def set_(
    task: TaskArgument,
    file: SpecFileArgument,
    *,
    revision: ReadRevisionOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the plan from a file in YAML."""
    from podctl.documents import plan_update
    from podctl.task_input import read_input

    plan = _read(read_input(file), str(file) if str(file) != "-" else "standard input")
    state = read_task(task)
    tell(task, plan_update(state, plan, revision), _written, by=by, output=output)


@app.command()
def generate(
    task: TaskArgument,
    *,
    instructions: InstructionsOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Have the task's planner write the plan, or write it anew."""
    from domain.task.commands import GeneratePlan

    tell(task, GeneratePlan(instructions=instructions), "the planner is asked", by=by, output=output)


@app.command()
def reopen(
    task: TaskArgument,
    *,
    reason: ReasonOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Go back to the plan while nothing of it runs: its approval ends."""
    from domain.task.commands import ReopenPlan

    tell(task, ReopenPlan(reason=reason), "back to the plan", by=by, output=output)


def _read(text: str, source: str) -> "PlanDraft":
    from domain.task.plan_file import read_plan

    return read_plan(text, source)


def _written(state: "TaskState") -> str:
    plan = state.plan
    return "the plan is written" if plan is None else f"plan revision {plan.revision} is written"
