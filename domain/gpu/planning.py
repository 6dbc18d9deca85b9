"""What one start becomes: GPUs, share, ports, argv and environment. Pure: nothing is asked of the machine here."""

import re
from collections.abc import Iterable, Sequence

from domain.entity import Value
from domain.errors import Rejected
from domain.gpu.arguments import option_value, with_option
from domain.gpu.catalog import ModelConfiguration, ModelEntry
from domain.gpu.inventory import describe_gpus, foreign_processes, gpu_type, memory_gb
from domain.gpu.leases import SHARE_TOLERANCE, Lease, used_shares
from domain.gpu.models import StartPlan
from domain.gpu.observation import Gpu, Inventory
from domain.gpu.request import StartRequest, check_request

#: Share of a GPU's memory when neither the catalog nor the request says one: vLLM's default for most of its life,
#: passed on explicitly, so that a version with another default agrees with the lease.
DEFAULT_SHARE = 0.9
FIRST_PORT = 8001
FIRST_INTERNAL_PORT = 20_000
#: vLLM scans upward from VLLM_PORT: a few ports per engine and data-parallel rank.
INTERNAL_PORTS = 20
#: Stands in argv for the address of the machine's loopback, which the podlet knows.
LOOPBACK = "{loopback}"
EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - only where a person asked for it
#: The first vLLM that has --shutdown-timeout (vllm-project/vllm#34730); an older one refuses it and exits.
_SHUTDOWN_TIMEOUT_SINCE = (0, 18)
#: Seconds kept from a server's grace for what follows the drain, before KILL.
_AFTER_DRAIN = 5
_ENVIRONMENT = {
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "VLLM_NO_USAGE_STATS": "1",
}
_PARALLEL = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size", "-dp"),
)


class Candidate(Value):
    """One way in which a start could be served on this machine, before looking at what is free."""

    count: int
    gpus: tuple[Gpu, ...]
    arguments: tuple[str, ...]
    environment: dict[str, str]

    @property
    def share(self) -> float:
        """The part of each GPU's memory that it takes."""
        value = option_value(self.arguments, "--gpu-memory-utilization")
        return DEFAULT_SHARE if value is None else _share(value)


def plan_start(
    request: StartRequest,
    inventory: Inventory,
    held: list[Lease],
    ports: Iterable[int] = (),
    *,
    models_path: str | None = None,
) -> StartPlan:
    """Return the plan for a start, given what is leased, which ports are taken and where models are kept.

    Raises Rejected ``no_room`` (the only one that waiting can cure), and whatever ``candidates`` raises.
    """
    ways = candidates(request, inventory)
    for way in ways:
        chosen = _free(way, inventory, held)
        if len(chosen) >= way.count:
            return _plan(request, inventory, way, chosen[: way.count], frozenset(ports), models_path)
    raise Rejected("no_room", _no_room(request, inventory, smallest(ways), held))


def candidates(request: StartRequest, inventory: Inventory) -> list[Candidate]:
    """Return the ways to serve ``request`` on this machine, the preferred one (as a rule most GPUs) first.

    There is at least one. Raises Rejected: the codes of ``check_request``, ``no_gpus``, ``mig_not_supported``,
    ``vllm_too_old``, ``unknown_model_gpus``, ``no_such_count``, ``does_not_fit``, ``bad_argument``.
    """
    check_request(request)
    usable = _usable(inventory)
    if request.arguments is None and request.entry is not None:
        _check_version(request.model, request.entry, inventory.vllm.version)
    if request.arguments is not None:
        ways = [_way(request, _parallel(request.arguments), usable, request.arguments, {})]
    elif request.entry is None:
        if request.gpus is not None:
            raise Rejected(
                "unknown_model_gpus",
                f"--gpus needs a catalog entry, and {request.model!r} has none: give vLLM's own options instead, for "
                f"example --vllm --tensor-parallel-size {request.gpus}",
            )
        ways = [_way(request, 1, usable, (), {})]
    else:
        ways = _known_ways(request, request.entry.configurations, usable)
    fitting = [way for way in ways if len(way.gpus) >= way.count]
    if not fitting:
        raise Rejected("does_not_fit", _does_not_fit(request, inventory, ways))
    fewest = request.entry is not None and request.entry.prefers == "fewest_gpus"
    return sorted(fitting, key=lambda way: way.count, reverse=not fewest)


def smallest(ways: Sequence[Candidate]) -> Candidate:
    """Return the way that takes the fewest GPUs."""
    return min(ways, key=lambda way: way.count)


def reserve(request: StartRequest, inventory: Inventory, held: list[Lease]) -> list[Lease]:
    """Return leases that keep later starts off the GPUs that a waiting one will get: it must not starve.

    Whole GPUs: those of its smallest way that are nearest to being free.
    """
    way = smallest(candidates(request, inventory))
    foreign = foreign_processes(inventory)
    used = used_shares(held)
    nearest = sorted(way.gpus, key=lambda gpu: (gpu.uuid in foreign, used.get(gpu.uuid, 0.0), gpu.index))
    return [
        Lease(gpu=gpu.uuid, share=1.0, server=f"{request.name} (first in the queue)") for gpu in nearest[: way.count]
    ]


def _usable(inventory: Inventory) -> list[Gpu]:
    if not inventory.gpus:
        raise Rejected(
            "no_gpus",
            f"this pod has no GPU to start on: {describe_gpus(inventory)}. Check `nvidia-smi` on the machine",
        )
    usable = [gpu for gpu in inventory.gpus if not gpu.mig]
    if not usable:
        raise Rejected(
            "mig_not_supported",
            "every GPU of this pod is in MIG mode, which is not supported: switch it off with `nvidia-smi -mig 0`",
        )
    return usable


def _check_version(model: str, entry: ModelEntry, version: str | None) -> None:
    """Refuse what an older vLLM on the machine cannot serve; one whose version is not known may try."""
    there, needed = _release(version), _release(entry.min_vllm_version)
    if there is not None and needed is not None and there < needed:
        raise Rejected(
            "vllm_too_old",
            f"{model} needs vLLM {entry.min_vllm_version} or newer; this pod has {version}. Install a newer one, or "
            "say with --vllm and its own arguments that this one can serve it",
        )


def _release(version: str | None) -> tuple[int, ...] | None:
    """Return the numbers of a release; None for what names none, such as a build of the main branch (``0.1.dev…``)."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    return tuple(int(part or 0) for part in found.groups()) if found and "dev" not in (version or "") else None


def _known_ways(
    request: StartRequest, configurations: Sequence[ModelConfiguration], usable: Sequence[Gpu]
) -> list[Candidate]:
    ways: dict[int, Candidate] = {}
    for configuration in configurations:
        matching = [gpu for gpu in usable if _matches(configuration, gpu)]
        way = _way(request, configuration.gpus, matching, configuration.arguments, configuration.environment)
        first = ways.get(way.count)
        if first is None or len(first.gpus) < way.count <= len(way.gpus):
            ways[way.count] = way
    if request.gpus is None:
        return list(ways.values())
    if request.gpus not in ways:
        raise Rejected(
            "no_such_count",
            f"{request.model} has no entry for {request.gpus} GPUs; it has: "
            + "; ".join(configuration.describe() for configuration in configurations),
        )
    return [ways[request.gpus]]


def _matches(configuration: ModelConfiguration, gpu: Gpu) -> bool:
    if configuration.types and gpu_type(gpu.name) not in configuration.types:
        return False
    if configuration.minimum_memory_gb is None:
        return True
    size = memory_gb(gpu)
    return size is not None and size >= configuration.minimum_memory_gb


def _way(
    request: StartRequest,
    count: int,
    gpus: Sequence[Gpu],
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> Candidate:
    if request.memory is not None:
        arguments = with_option(arguments, "--gpu-memory-utilization", f"{request.memory:g}")
    if request.context is not None:
        arguments = with_option(arguments, "--max-model-len", str(request.context))
    return Candidate(count=count, gpus=tuple(gpus), arguments=arguments, environment=environment)


def _parallel(arguments: Sequence[str]) -> int:
    """Return how many GPUs vLLM's own arguments ask for: the product of its parallel sizes."""
    count = 1
    for names in _PARALLEL:
        value = option_value(arguments, *names)
        if value is None:
            continue
        if not re.fullmatch(r"[1-9][0-9]{0,3}", value):
            raise Rejected("bad_argument", f"{names[0]} {value!r} is not a number of GPUs")
        count *= int(value)
    return count


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Rejected("bad_argument", f"--gpu-memory-utilization {value!r} is not a number above 0 and at most 1")
    return share


def _free(way: Candidate, inventory: Inventory, held: list[Lease]) -> list[Gpu]:
    """Return the GPUs that have room for one share of ``way``, least used first, ties by index."""
    foreign = foreign_processes(inventory)
    used = used_shares(held)
    free = [
        gpu
        for gpu in way.gpus
        if gpu.uuid not in foreign and used.get(gpu.uuid, 0.0) + way.share <= 1 + SHARE_TOLERANCE
    ]
    return sorted(free, key=lambda gpu: (used.get(gpu.uuid, 0.0), gpu.index))


def _plan(
    request: StartRequest,
    inventory: Inventory,
    way: Candidate,
    chosen: Sequence[Gpu],
    ports: frozenset[int],
    models_path: str | None,
) -> StartPlan:
    port = _first_free(FIRST_PORT, 1, 1, ports)
    arguments = way.arguments
    if option_value(arguments, "--gpu-memory-utilization") is None:
        arguments = (*arguments, "--gpu-memory-utilization", f"{way.share:g}")
    served_name = option_value(arguments, "--served-model-name")
    if served_name is None:
        served_name = request.model
        arguments = ("--served-model-name", served_name, *arguments)
    if _has_shutdown_timeout(inventory.vllm.version):
        arguments = ("--shutdown-timeout", str(max(0, int(request.grace) - _AFTER_DRAIN)), *arguments)
    program = inventory.vllm.program or "vllm"
    # Nothing but the models: HF_HOME would take the user's token file away too.
    cache = {"HF_HUB_CACHE": f"{models_path}/huggingface/hub"} if models_path else {}
    host = EVERY_INTERFACE if request.expose else LOOPBACK
    return StartPlan(
        gpus=tuple(gpu.uuid for gpu in sorted(chosen, key=lambda gpu: gpu.index)),
        share=way.share,
        port=port,
        internal_ports=(_first_free(FIRST_INTERNAL_PORT, INTERNAL_PORTS, INTERNAL_PORTS, ports), INTERNAL_PORTS),
        argv=(program, "serve", request.model, "--host", host, "--port", str(port), *arguments),
        environment={**_ENVIRONMENT, **cache, **way.environment},
        served_name=served_name,
    )


def _first_free(first: int, count: int, step: int, taken: frozenset[int]) -> int:
    """Return the lowest of ``first, first + step, …`` from which ``count`` ports are free."""
    port = first
    while any(candidate in taken for candidate in range(port, port + count)):
        port += step
    if port + count > 65536:
        raise Rejected("no_ports", f"no free port from {first} on")
    return port


def _has_shutdown_timeout(version: str | None) -> bool:
    release = _release(version)
    return release is None or release >= _SHUTDOWN_TIMEOUT_SINCE


def _does_not_fit(request: StartRequest, inventory: Inventory, ways: Sequence[Candidate]) -> str:
    entry = request.entry if request.arguments is None else None
    if entry is None:
        needs = f"{ways[0].count} GPUs" + (f" ({len(ways[0].gpus)} usable)" if ways[0].gpus else "")
    else:
        wanted = [c for c in entry.configurations if request.gpus in (None, c.gpus)]
        needs = "; or ".join(configuration.describe() for configuration in wanted)
    return f"{request.model} needs {needs}; this pod has {describe_gpus(inventory)}"


def _no_room(request: StartRequest, inventory: Inventory, way: Candidate, held: list[Lease]) -> str:
    foreign = foreign_processes(inventory)
    parts = []
    for gpu in sorted(way.gpus, key=lambda gpu: gpu.index):
        holders = [f"{lease.server} ({lease.share:g})" for lease in held if lease.gpu == gpu.uuid]
        if gpu.uuid in foreign:
            pids = ", ".join(str(pid) for pid in foreign[gpu.uuid][:3])
            holders.append(f"a process of somebody else (pid {pids})")
        if holders:
            parts.append(f"GPU {gpu.index} is used by {' and '.join(holders)}")
    wants = f"{way.share:g} of {'a GPU' if way.count == 1 else f'each of {way.count} GPUs'}"
    return f"{request.name} needs {wants}: " + "; ".join(parts)
