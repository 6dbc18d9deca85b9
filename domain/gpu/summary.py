"""What others see of a GPU pod without asking it: current details, memo and search attributes."""

from pydantic import JsonValue

from domain.entity import Value
from domain.gpu.inventory import describe_gpus
from domain.gpu.leases import leases
from domain.gpu.models import GpuPodState, ModelServer, address, shown_state
from domain.gpu.schedule import detail
from domain.gpu.setup import Setup


class SearchAttributes(Value):
    """Values by which GPU pods are found; names and types of the attributes are the workflows'."""

    state: str
    gpu_pod: str
    models: tuple[str, ...]


def search_attributes(state: GpuPodState) -> SearchAttributes:
    """Return the values for this pod; models are those whose servers are not finished, sorted."""
    models = {server.model for server in state.servers.values() if not server.finished}
    return SearchAttributes(state=pod_state(state), gpu_pod=state.name, models=tuple(sorted(models)))


def pod_state(state: GpuPodState) -> str:
    """Return ``removed``, ``new`` (never reached yet), ``reachable`` or ``unreachable``."""
    if state.removed:
        return "removed"
    if state.reachable is None:
        return "new"
    return "reachable" if state.reachable else "unreachable"


def memo(state: GpuPodState) -> dict[str, JsonValue]:
    """Return what can be read while no worker runs: address, reachability, GPUs, servers by state, who holds them."""
    holders = {task for server in state.servers.values() for task in server.holders}
    counts: dict[str, JsonValue] = {}
    for server in state.servers.values():
        shown = shown_state(state, server)
        before = counts.get(shown, 0)
        counts[shown] = (before if isinstance(before, int) else 0) + 1
    return {
        "address": address(state).model_dump(mode="json"),
        "task_queue": state.task_queue,
        "state": pod_state(state),
        "since": state.since.isoformat(),
        "reason": state.unreachable_reason,
        "gpus": describe_gpus(state.inventory) if state.inventory else "",
        "servers": counts,
        "holders": [*sorted(holders)],
    }


def summary_markdown(state: GpuPodState) -> str:
    """Return the pod for the Temporal Web UI: where it is, its GPUs and who holds them, its servers."""
    lines = [
        f"**{_text(state.name)}** is **{pod_state(state)}** since {state.since:%Y-%m-%d %H:%M:%S} UTC"
        + (f": {_text(state.unreachable_reason)}" if state.unreachable_reason else ""),
        "",
        f"`{_code(state.ssh.command)}`",
    ]
    if state.setup is not None:
        lines += ["", *_setup_lines(state, state.setup)]
    if state.inventory is not None:
        lines += ["", f"GPUs: {_text(describe_gpus(state.inventory))}", *_gpu_lines(state)]
    if state.servers:
        lines += ["", "| server | model | state | launch | port | needed by | |", "|---|---|---|---|---|---|---|"]
        lines += [_server_line(state, server) for server in state.servers.values()]
    if state.orphans:
        lines += ["", "Launches that nobody here owns: " + ", ".join(f"`{o.launch_id}`" for o in state.orphans)]
    return "\n".join(lines)


def _setup_lines(state: GpuPodState, setup: Setup) -> list[str]:
    """Return the setup's state, what it brought, and its steps; no step's progress, which no history holds."""
    lines = [f"Setup {setup.number}: **{setup.state}**, asked for by {_text(setup.by)}"]
    if state.vllm:
        lines += [f"vLLM {_text(state.vllm[-1].version)}: `{_code(state.vllm[-1].program)}`"]
    if state.models_path:
        lines += [f"models in `{_code(state.models_path)}`"]
    if setup.failure is not None:
        lines += [f"{_text(setup.failure.message)}; {_text(setup.failure.advice)}"]
    steps = [f"| {step.name} | {step.state} | {_text(step.message)} |" for step in setup.steps]
    return ["  \n".join(lines), "", "| step | state | |", "|---|---|---|", *steps]


def _gpu_lines(state: GpuPodState) -> list[str]:
    held = leases(state)
    lines = []
    for gpu in state.inventory.gpus if state.inventory else ():
        holders = [f"{_text(lease.server)} {lease.share:.0%}" for lease in held if lease.gpu == gpu.uuid]
        lines.append(f"- GPU {gpu.index} {_text(gpu.name)}: {', '.join(holders) or 'free'}")
    return ["", *lines] if lines else []


def _server_line(state: GpuPodState, server: ModelServer) -> str:
    cells = (
        server.name,
        server.model,
        shown_state(state, server).replace("_", " "),
        server.launch_id or "",
        str(server.plan.port) if server.plan else "",
        ", ".join(server.holders) or ("a person" if server.kept else "nobody"),
        detail(state, server),
    )
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Return ``text`` so that it stays text in one table cell of Markdown."""
    escaped = "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)
    return " ".join(escaped.split())


def _code(text: str) -> str:
    return text.replace("`", "'")
