"""What people see of GPU pods and model servers: rich renderables made of the models, nothing asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli.output import terminal_table, without_empty
from cli.render import QUIET, WAITS, ago, columns, duration, plain, section, state_text, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from domain.gpu.models import GpuPodState
    from domain.gpu.setup import Setup
    from podctl.listing import OrphanRow, ServerRow


def pod_view(state: GpuPodState, servers: Sequence[ServerRow]) -> RenderableType:
    """Return a GPU pod: where it is, since when it answers or not and what is kept, GPUs, servers."""
    from rich.console import Group
    from rich.text import Text

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
