"""`podctl list`: model servers, and what they are doing."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import chosen_pod, open_client, pods_file
from cli.options import PodOption
from cli.output import (
    Format,
    OutputOption,
    print_json,
    print_progress,
    print_table,
    run_async,
    terminal_table,
    without_empty,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domain.gpu.models import GpuPodState
    from domain.gpu.observation import Beat
    from podctl.client import PodctlClient
    from podctl.listing import ServerRow

    Look = tuple[GpuPodState, Mapping[str, Beat]]

#: Seconds between looks with --watch. What servers say of themselves is renewed about as often.
LOOK_INTERVAL = 2.0
#: What is cut on a narrow terminal; the other columns stay whole.
_CUT = frozenset({"model"})


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command("list", rich_help_panel="Model servers")(list_servers)


def list_servers(
    *,
    pod: PodOption = None,
    all_pods: Annotated[bool, typer.Option("--all-pods", "-A", help="Those of all your pods.")] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing them, until Ctrl-C.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """List model servers, in whatever state: their place in the queue, what they are doing, why they don't run.

    `req` are the requests that a server works on, and + those that wait inside it; `kv` is how full its KV cache is.
    With --watch JSON is a list a line, and in a pipe a server that changed is a line.
    """
    if all_pods and pod is not None:
        raise typer.BadParameter("--all-pods shows those of --pod too: give one of them")
    pods = [*pods_file().read().pods] if all_pods else [chosen_pod(pod)]
    again = "podctl list --all-pods" if all_pods else f"podctl list --pod {pods[0]}"
    if not pods:
        print_progress('you know no pods yet: podctl pods add NAME "ssh …"')
    hint = f"nothing was changed: `{again}` again"
    if watch:
        run_async(_watch(pods, output, all_pods=all_pods), when_interrupted=hint)
        return
    looks = run_async(_look_once(pods, all_pods=all_pods), when_interrupted=hint)
    rows = _rows(looks)
    if output is Format.JSON:
        print_json(rows)
    else:
        where = f"no model server was started on pod {pods[0]} yet: podctl start MODEL --name NAME --pod {pods[0]}"
        empty = "no model server was started on any pod yet: podctl start MODEL --name NAME" if all_pods else where
        columns, cells = _cells(rows, all_pods=all_pods)
        print_table(columns, cells, empty=empty, cut=_CUT)
    for note in _notes(looks):
        print_progress(note)


async def _look_once(pods: "Sequence[str]", *, all_pods: bool) -> "list[Look]":
    return await _look(await open_client(), pods, all_pods=all_pods)


async def _look(client: "PodctlClient", pods: "Sequence[str]", *, all_pods: bool) -> "list[Look]":
    """Return the pods' states, and what their watches say, all asked at once."""
    import asyncio

    from podctl.client import NotFound
    from podctl.pod_cache import remember

    async def ask(pod: str) -> "Look | None":
        try:
            return await client.look_at_pod(pod)
        except NotFound:
            if not all_pods:
                raise
            return None  # known to this user alone: `podctl pods` says so

    looks = [look for look in await asyncio.gather(*(ask(pod) for pod in pods)) if look is not None]
    remember(pods_file(), [state for state, _ in looks])
    return looks


async def _watch(pods: "Sequence[str]", output: Format, *, all_pods: bool) -> None:
    import asyncio

    from cli.render_pods import server_cells

    client = await open_client()
    if output is Format.TABLE and sys.stdout.isatty():
        await _watch_live(client, pods, all_pods=all_pods)
    shown: dict[tuple[str, str], tuple[object, ...]] = {}
    while True:
        rows = _rows(await _look(client, pods, all_pods=all_pods))
        if output is Format.JSON:
            _print_json_line(rows)
        else:
            for row in rows:
                # Times and figures move on without end: what people wait for are the others.
                now = (row.state, row.port, row.gpus, row.detail)
                if shown.get((row.pod, row.name)) != now:
                    shown[row.pod, row.name] = now
                    parts = (row.pod, *server_cells(row)) if all_pods else server_cells(row)
                    print("  ".join(str(part) for part in parts if part not in {None, ""}), flush=True)
        await asyncio.sleep(LOOK_INTERVAL)


async def _watch_live(client: "PodctlClient", pods: "Sequence[str]", *, all_pods: bool) -> None:
    import asyncio

    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            looks = await _look(client, pods, all_pods=all_pods)
            columns, cells = _cells(_rows(looks), all_pods=all_pods)
            notes = [Text(note, style="yellow") for note in _notes(looks)]
            live.update(Group(terminal_table(columns, cells, cut=_CUT), *notes), refresh=True)
            await asyncio.sleep(LOOK_INTERVAL)


def _rows(looks: "Sequence[Look]") -> "list[ServerRow]":
    from podctl.listing import server_rows

    return [row for state, beats in looks for row in server_rows(state, beats)]


def _notes(looks: "Sequence[Look]") -> list[str]:
    from cli.render_pods import unreachable_note

    return [note for state, _ in looks if (note := unreachable_note(state))]


def _cells(rows: "Sequence[ServerRow]", *, all_pods: bool) -> "tuple[Sequence[str], Sequence[Sequence[object]]]":
    """Return columns and cells; the pod only where there may be several."""
    from cli.render_pods import SERVER_COLUMNS, server_cells

    pods = [(row.pod,) if all_pods else () for row in rows]
    columns = (*(("pod",) if all_pods else ()), *SERVER_COLUMNS)
    return without_empty(columns, [(*pod, *server_cells(row)) for pod, row in zip(pods, rows, strict=True)])


def _print_json_line(rows: "Sequence[ServerRow]") -> None:
    from pydantic import TypeAdapter

    print(TypeAdapter(list).dump_json(list(rows)).decode(), flush=True)
