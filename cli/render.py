"""What people see of pods, model servers and events: rich renderables made of the models, nothing asked."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

    from domain.entity import Event
    from domain.gpu.models import GpuPodState
    from domain.gpu.setup import Setup
    from podctl.listing import OrphanRow, ServerRow

#: Columns for a pipe: no line of ours is longer.
_PIPE_WIDTH = 100_000

GOOD = "green"
BUSY = "cyan"
WAITS = "yellow"
BAD = "red"
QUIET = "dim"

#: Phases, states of workstreams, model servers, pods and processes, results of checks. Others have no colour.
_COLOURS = {
    "attached": GOOD,
    "completed": GOOD,
    "done": GOOD,
    "ok": GOOD,
    "ready": GOOD,
    "reachable": GOOD,
    "running": GOOD,
    "in_progress": BUSY,
    "wip": BUSY,
    "granted": BUSY,
    "workstream_execution": BUSY,
    "launching": BUSY,
    "loading": BUSY,
    "stopping": BUSY,
    "awaiting_input": WAITS,
    "blocked": WAITS,
    "requested": WAITS,
    "interrupted": WAITS,
    "unreachable": WAITS,
    "unhealthy": WAITS,
    "memory_unexplained": WAITS,
    "warning": WAITS,
    "failed": BAD,
    "gone": BAD,
    "lost": BAD,
    "pending": QUIET,
    "todo": QUIET,
    "rejected": QUIET,
    "skipped": QUIET,
    "stopped": QUIET,
    "released": QUIET,
    "cancelled": QUIET,
    "new": QUIET,
}


def plain(text: str) -> str:
    """Return ``text`` without characters that a terminal would obey; line breaks and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def words(state: str) -> str:
    """Return a state as people write it: ``in progress``."""
    return state.replace("_", " ")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``42s``, ``3m 5s``, ``2h 10m``, ``4d 3h``."""
    whole = max(0, int(seconds))
    units = (("d", whole // 86_400), ("h", whole // 3_600 % 24), ("m", whole // 60 % 60), ("s", whole % 60))
    first = next((i for i, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count}{unit}" for unit, count in units[first : first + 2] if count) or "0s"


def ago(at: datetime | None) -> str:
    """Return how long ago ``at`` was; empty for None."""
    return "" if at is None else f"{duration((datetime.now(UTC) - at).total_seconds())} ago"


def state_text(state: str) -> Text:
    """Return a phase or state in its colour."""
    from rich.text import Text

    return Text(words(state), style=_COLOURS.get(state, ""))


def cell_text(text: str) -> Text:
    """Return a cell as text, never as markup (it may be a stranger's), in its colour if it is a state."""
    from rich.text import Text

    return Text(plain(text), style=_COLOURS.get(text, ""))


#: A column whose cells are no longer than this stays whole; wider ones share what room there is.
_SHORT = 16


def columns(headers: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return rows in columns without lines, as ``docker ps`` shows them; long cells go over several lines."""
    from rich.table import Table
    from rich.text import Text

    cells = [[cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, header in enumerate(headers):
        widest = max((row[position].cell_len for row in cells), default=0)
        table.add_column(header, no_wrap=widest <= _SHORT, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def section(name: str, content: RenderableType) -> list[RenderableType]:
    """Return ``content`` under a heading."""
    from rich.padding import Padding
    from rich.text import Text

    return [Text(f"\n{name}", style="bold"), Padding(content, (0, 0, 0, 2))]


class ShellCommand:
    """A command to be copied: where it is too long for a line, it goes on in the next as a shell takes it."""

    def __init__(self, command: str, style: str = BUSY) -> None:
        self._command = plain(command)
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield its lines, none wider than there is room."""
        from rich.text import Text

        for line in continued(self._command, options.max_width):
            yield Text(line, style=self._style, overflow="fold")


def continued(command: str, width: int) -> list[str]:
    """Return a shell command in lines of at most ``width``, broken between its words; a longer word stays whole."""
    from rich.cells import cell_len

    lines: list[str] = []
    line = ""
    for word in _WORD.findall(command):
        # What is not the last word of all has to leave room for the backslash.
        if line and cell_len(f"{line} {word} \\") > width and cell_len(command) > width:
            lines.append(f"{line} \\")
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


#: A word of a shell command, with its quotes.
_WORD = re.compile(r"(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[^\s])+")


def first_line(text: str) -> str:
    """Return the beginning of a text's first line."""
    return text.strip().partition("\n")[0][:160]


# -- GPU pods -----------------------------------------------------------------------------------------------------


def pod_view(state: GpuPodState, servers: Sequence[ServerRow]) -> RenderableType:
    """Return a GPU pod: where it is, since when it answers or not and what is kept, GPUs, servers."""
    from rich.console import Group
    from rich.text import Text

    from cli.output import terminal_table, without_empty
    from domain.gpu.summary import pod_state

    heading = Text()
    heading.append(state.name, style="bold")
    heading.append("  ")
    heading.append_text(state_text(pod_state(state)))
    heading.append(f" since {state.since:%Y-%m-%d %H:%M:%S} UTC ({ago(state.since)})")
    heading.append(f"\n{plain(state.ssh.command)}", style=QUIET)
    parts: list[RenderableType] = [heading]
    note = unreachable_note(state)
    if note:
        parts.append(Text(note, style=WAITS))
    if state.setup is not None:
        parts += section("Setup", _setup(state, state.setup))
    if state.inventory is not None:
        parts += section("Machine", _machine(state))
        parts += section("GPUs", _gpus(state))
    if servers:
        table = terminal_table(*without_empty(SERVER_COLUMNS, [server_cells(row) for row in servers]), cut={"model"})
        parts += section("Model servers", table)
    if state.orphans:
        from podctl.listing import orphan_rows

        table = terminal_table(orphan_columns(), [orphan_cells(row) for row in orphan_rows(state)])
        parts += section(f"Launches of no server here, left alone (podctl pods reap {state.name})", table)
    return Group(*parts)


def unreachable_note(state: GpuPodState) -> str:
    """Return since when an unreachable pod does not answer, and what is kept; empty for one that answers."""
    if state.reachable is not False:
        return ""
    alive = [server.name for server in state.servers.values() if server.may_have_process]
    kept = (
        f"Kept meanwhile: model server{'s' if len(alive) > 1 else ''} {', '.join(alive)}, left alone with "
        f"{'their' if len(alive) > 1 else 'its'} GPUs. "
        if alive
        else ""
    )
    return (
        f"pod {state.name} has been unreachable since {state.since:%Y-%m-%d %H:%M:%S} UTC "
        f"({plain(state.unreachable_reason)}). {kept}What is asked for now is kept and carried out when it is back"
    )


SERVER_COLUMNS = (
    *("name", "model", "state", "since", "port", "gpus", "req", "tok/s", "kv", "idle", "restart", "for", "detail"),
)


def server_cells(row: ServerRow) -> tuple[object, ...]:
    """Return a model server's cells under ``SERVER_COLUMNS``; None or empty where there is nothing to say."""
    waiting = f"+{row.requests_waiting}" if row.requests_waiting else ""
    return (
        row.name,
        row.model,
        row.state,
        ago(row.since),
        row.port,
        ",".join(map(str, row.gpus)) or None,
        None if row.requests_running is None else f"{row.requests_running}{waiting}",
        None if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}",
        None if row.kv_cache_usage is None else f"{row.kv_cache_usage:.0%}",
        None if row.idle_since is None else duration((datetime.now(UTC) - row.idle_since).total_seconds()),
        None if row.restart == "never" else row.restart + (f" {row.restarts}x" if row.restarts else ""),
        # Who started it is worth a word only beside those who also need it.
        ", ".join((*row.holders, *(("you",) if row.kept else ()))) if row.holders else None,
        queue_place(row) + row.detail,
    )


def orphan_columns() -> tuple[str, ...]:
    """Return the column names of ``orphan_cells``."""
    return ("launch", "owner", "gpus", "ports", "since", "state")


def orphan_cells(row: OrphanRow) -> tuple[object, ...]:
    """Return the cells of a launch that no server of its pod owns."""
    return (
        row.launch_id,
        "this pod" if row.ours else row.owner or "unknown",
        ",".join(map(str, row.gpus)) or None,
        ",".join(map(str, row.ports)) or None,
        ago(row.started_at) or None,
        "stopping" if row.reaping else "running",
    )


def state_line(row: ServerRow) -> str:
    """Return what a model server is at in one line, for whoever waits for it."""
    detail = queue_place(row) + plain(row.detail)
    return f"{row.name} is {words(row.state)}{f': {detail}' if detail else ''}"


def queue_place(row: ServerRow) -> str:
    """Return ``number 2 in the queue, `` for a server that waits there; empty for any other."""
    return f"number {row.queue_position} in the queue, " if row.queue_position else ""


def setup_table(setup: Setup, note: str) -> Table:
    """Return the steps of a setup: state, seconds, what came of each; ``note`` is what the current one says."""
    rows = []
    for step in setup.steps:
        ended = step.ended_at or datetime.now(UTC)
        taken = duration((ended - step.started_at).total_seconds()) if step.started_at else ""
        rows.append((step.name, state_text(step.state), taken, note if step.state == "running" else step.message))
    return columns(("STEP", "STATE", "TIME", ""), rows)


def _setup(state: GpuPodState, setup: Setup) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from podctl.setup import note

    heading = Text(f"{setup.state} since {(setup.ended_at or setup.started_at):%Y-%m-%d %H:%M:%S} UTC, asked for by ")
    heading.append(plain(setup.by))
    if state.vllm:
        versions = ", ".join(install.version for install in reversed(state.vllm))
        heading.append(f"\nvLLM, the one in use first: {plain(versions)}")
    if state.models_path:
        heading.append(f"\nmodels in {plain(state.models_path)}")
    parts: list[RenderableType] = [heading, setup_table(setup, note(state, setup, ""))]
    if setup.failure is not None:
        parts.append(Text(plain(f"What to do: {setup.failure.advice}"), style=WAITS))
    return Group(*parts)


def _machine(state: GpuPodState) -> Text:
    from rich.text import Text

    inventory = state.inventory
    if inventory is None:
        return Text("not looked at yet")
    disk = f"{inventory.disk_free_bytes / 1e9:.0f} GB free" if inventory.disk_free_bytes is not None else "unknown"
    vllm = inventory.vllm.version or inventory.vllm.program or "none found on PATH"
    return Text(
        plain(
            f"{inventory.hostname}: {inventory.os}, Python {inventory.python}, driver {inventory.driver or 'none'}, "
            f"vLLM {vllm}, disk {disk}" + (f"\nnvidia-smi: {inventory.gpu_message}" if inventory.gpu_message else "")
        )
    )


def _gpus(state: GpuPodState) -> RenderableType:
    from rich.text import Text

    from domain.gpu.inventory import describe_gpus, foreign_processes
    from domain.gpu.leases import leases

    inventory = state.inventory
    if inventory is None or not inventory.gpus:
        return Text(describe_gpus(inventory) if inventory else "not looked at yet")
    held = leases(state)
    foreign = foreign_processes(inventory)
    rows = []
    for gpu in inventory.gpus:
        users = [f"{lease.server} {lease.share:.0%}" for lease in held if lease.gpu == gpu.uuid]
        users += [f"process {pid} of somebody else" for pid in foreign.get(gpu.uuid, ())]
        memory = f"{gpu.memory_total_mib:,} MiB" if gpu.memory_total_mib is not None else "unknown"
        rows.append((str(gpu.index), gpu.name + (" (MIG)" if gpu.mig else ""), memory, ", ".join(users) or "free"))
    return columns(("GPU", "NAME", "MEMORY", "USED BY"), rows)


# -- events -------------------------------------------------------------------------------------------------------


def event_line(event: Event) -> Text:
    """Return one event as a line: number, local time, type, sender and what it carries."""
    from rich.text import Text

    line = Text()
    line.append(f"{event.sequence:>5}  ", style=QUIET)
    line.append(f"{event.at.astimezone():%Y-%m-%d %H:%M:%S}  ", style=QUIET)
    line.append(f"{event.type:<24}", style=_COLOURS.get(event.type.rpartition("_")[2], ""))
    client = f" ({plain(event.client)})" if event.client else ""
    line.append(f"  {plain(event.by)}{client}", style=QUIET)
    carried = _carried(event.payload)
    if carried:
        line.append(f"  {carried}")
    return line


def _carried(payload: Mapping[str, Any]) -> str:
    parts = []
    for name, value in payload.items():
        if value is None or value in ("", [], {}):
            continue
        text = value if isinstance(value, str) else _compact(value)
        parts.append(f"{name}={first_line(plain(text))}")
    return " ".join(parts)


def _compact(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def print_view(view: RenderableType) -> None:
    """Print a view on stdout: fitted to a terminal, with lines of any length and no colours for a pipe."""
    import io
    import sys

    from rich.console import Console

    if sys.stdout.isatty():
        Console().print(view)
        return
    console = Console(file=io.StringIO(), width=_PIPE_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(view)
    # Rich fills every line up to the width.
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)
