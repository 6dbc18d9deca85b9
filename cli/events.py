"""`podctl events`, `podctl watch`: what happened, and what happens."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_pod, complete_task
from cli.context import open_client
from cli.options import TaskArgument
from cli.output import Format, OutputOption, print_progress, run_async, while_read

if TYPE_CHECKING:
    from rich.console import RenderableType

    from domain.entity import Event
    from domain.task.models import TaskState

PANEL = "Tasks"


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (events, watch):
        app.command(rich_help_panel=PANEL)(command)


def events(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", autocompletion=complete_task, help="The task's id.")
    ] = None,
    *,
    pod: Annotated[
        str | None, typer.Option(metavar="POD", autocompletion=complete_pod, help="A GPU pod's events instead.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events happen, until it is over.")] = False,
    since: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Only those after this number.")] = 0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show the events of a task or a GPU pod, read from the history: needs no worker. JSON is one event a line."""
    from domain.ids import gpu_pod_workflow_id, task_workflow_id

    if (task is None) == (pod is None):
        raise typer.BadParameter("name a TASK, or a GPU pod with --pod POD")
    workflow_id = task_workflow_id(task) if task is not None else gpu_pod_workflow_id(pod or "")
    again = f"podctl events {task or f'--pod {pod}'} --follow"
    run_async(
        while_read(_show_events(workflow_id, since=since, follow=follow, output=output)),
        when_interrupted=f"nothing was changed; look again with: {again}",
    )


def watch(task: TaskArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show a task as it changes, until it is over. Where no terminal is, each event is a line; JSON: a state a line."""
    hint = f"the task goes on; look again with: podctl watch {task}"
    if output is Format.JSON:
        run_async(while_read(_watch_as_json(task)), when_interrupted=hint)
    elif sys.stdout.isatty():
        run_async(_watch_live(task), when_interrupted=hint)
    else:
        from domain.ids import task_workflow_id

        showing = _show_events(task_workflow_id(task), since=0, follow=True, output=output)
        run_async(while_read(showing), when_interrupted=hint)


async def _show_events(workflow_id: str, *, since: int, follow: bool, output: Format) -> None:
    client = await open_client()
    if follow:
        async for event in client.follow(workflow_id, since):
            if event.sequence > since + 1:
                _tell_missing(since + 1, event.sequence - 1)
            since = event.sequence
            _print_event(event, output)
        return
    log = await client.log(workflow_id)
    if log.missing_through > since:
        _tell_missing(since + 1, log.missing_through)
    if not log.events:
        print_progress("no events yet: no worker has taken it up (podctl status, podctl up)")
    for event in log.events:
        if event.sequence > since:
            _print_event(event, output)


def _tell_missing(first: int, last: int) -> None:
    print_progress(f"events {first} to {last}: past the server's retention (podctl export keeps what is there now)")


def _print_event(event: "Event", output: Format) -> None:
    from cli.render import event_view, print_view

    if output is Format.JSON:
        print(event.model_dump_json(), flush=True)
    else:
        print_view(event_view(event, whole=not sys.stdout.isatty()))


async def _watch_as_json(task: str) -> None:
    import json

    from podctl.listing import task_document
    from podctl.live import follow_task

    async for state in follow_task(await open_client(), task):
        print(json.dumps(task_document(state), ensure_ascii=False), flush=True)


async def _watch_live(task: str) -> None:
    from rich.console import Console
    from rich.live import Live

    from cli.render_task import task_view
    from podctl.live import follow_task

    console = Console()
    shown: list[TaskState] = []

    def view() -> "RenderableType":
        # Asked once a second for the times in it; the state changes when the server says so.
        return task_view(shown[-1], documents=False)

    states = follow_task(await open_client(), task)
    shown.append(await anext(states))
    with Live(get_renderable=view, console=console, refresh_per_second=1, vertical_overflow="crop") as live:
        async for state in states:
            shown[0] = state
            live.refresh()
