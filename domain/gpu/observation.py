"""What the podlet reports from a machine.

Fields that are not known here are ignored: the podlet on a pod may be newer than the worker that reads it.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Reported(BaseModel):
    """A frozen model of something that another program reports; unknown fields are dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Gpu(Reported):
    """One GPU as nvidia-smi lists it; a figure that it does not give (``[N/A]``) is None."""

    index: int
    uuid: str
    name: str
    memory_total_mib: int | None = None
    memory_used_mib: int | None = None
    mig: bool = False


class ComputeApp(Reported):
    """One process that holds GPU memory; ``launch`` is None for a process that no launch of ours owns."""

    pid: int
    gpu_uuid: str
    used_mib: int | None = None
    launch: str | None = None


class Vllm(Reported):
    """The vLLM program that was found on the machine, if any."""

    program: str | None = None
    version: str | None = None


class Inventory(Reported):
    """The machine: its GPUs, who uses them, its disk and its vLLM."""

    boot: str
    hostname: str = ""
    os: str = ""
    python: str = ""
    home: str = ""
    root: str = ""
    disk_free_bytes: int | None = None
    driver: str | None = None
    gpus: tuple[Gpu, ...] = ()
    gpu_state: Literal["ok", "no_nvidia_smi", "no_driver", "error"] = "ok"
    gpu_message: str = ""
    compute_apps: tuple[ComputeApp, ...] = ()
    vllm: Vllm = Vllm()


class Exit(Reported):
    """How a launch's root process ended. ``unknown``: nobody saw it (supervisor lost, or the machine rebooted)."""

    code: int | None = None
    signal: int | None = None
    error: str | None = None
    unknown: bool = False
    at: datetime | None = None


class MemoryReading(Reported):
    """Memory used on one GPU, in MiB: before the launch and after its stop."""

    before: int | None = None
    now: int | None = None


class StopResult(Reported):
    """A verified stop. ``memory_unexplained``: no process is left, yet the memory did not come back."""

    id: str
    state: Literal["stopped", "memory_unexplained"]
    exit: Exit | None = None
    killed: int = 0
    seconds: float = 0.0
    processes_left: int = 0
    gpu_processes_left: int = 0
    ports_closed: bool = True
    shared_memory_removed: tuple[str, ...] = ()
    sockets_removed: tuple[str, ...] = ()
    memory: dict[str, MemoryReading] = {}


class GpuShare(Reported):
    """The part of one GPU's memory that a launch was given, 0 < share <= 1."""

    uuid: str
    share: float


#: Readiness in the order in which it grows.
Readiness = Literal["none", "process", "health", "models", "ready"]


class Observation(Reported):
    """One launch as the podlet sees it. ``members`` counts its living processes, re-parented ones included."""

    id: str
    #: ``server`` or ``run``; None where there is no record.
    kind: str | None = "server"
    #: Who launched it, as its launch said; None for a launch that did not say.
    owner: str | None = None
    state: Literal["absent", "starting", "running", "exited"]
    #: The boot that it was launched in; None while it has no process.
    boot: str | None = None
    pid: int | None = None
    start_time: int | None = None
    started_at: datetime | None = None
    exit: Exit | None = None
    members: int = 0
    readiness: Readiness = "none"
    healthy: bool | None = None
    #: Why a ready server counts as unhealthy.
    unhealthy_reason: str | None = None
    stage: str | None = None
    #: Seconds since the last request of a ready server; only a watch tells.
    idle_seconds: float | None = None
    #: Seconds since a server that is not ready yet last made progress; only a watch tells.
    silent_seconds: float | None = None
    log_size: int = 0
    last_line: str | None = None
    ports: tuple[int, ...] = ()
    #: First and count of the ports that it uses inside; empty: none.
    internal_ports: tuple[int, ...] = ()
    gpus: tuple[GpuShare, ...] = ()
    stop_requested: bool = False
    stopped: StopResult | None = None

    @property
    def alive(self) -> bool:
        """Whether a process of this launch lives, or may be about to."""
        return self.state in {"starting", "running"}

    @property
    def inner_ports(self) -> tuple[int, ...]:
        """Every port of its inner block."""
        return tuple(range(self.internal_ports[0], sum(self.internal_ports))) if len(self.internal_ports) == 2 else ()


class Metrics(Reported):
    """What a ready model server says of its work; None: it did not say. ``kv_cache_usage`` is from 0 to 1."""

    running: float | None = None
    waiting: float | None = None
    generation_tokens: float | None = None
    prompt_tokens: float | None = None
    kv_cache_usage: float | None = None
    #: Generated tokens between the last two looks, per second.
    tokens_per_second: float | None = None


class Beat(Reported):
    """What only moves on about a living launch: told every few seconds, kept in no history."""

    id: str
    stage: str | None = None
    readiness: Readiness = "none"
    log_size: int = 0
    #: The first byte of its log that is still kept.
    log_start: int = 0
    last_line: str | None = None
    metrics: Metrics | None = None
    idle_seconds: float | None = None
    idle_since: datetime | None = None
    silent_seconds: float | None = None


class StopStep(Reported):
    """How far the stop of a launch is: ``term``, ``kill`` or ``verify``, and how many of its processes live."""

    launch: str
    step: str | None = None
    members: int | None = None


class PodObservation(Reported):
    """The podlet's answer to ``observe``: every launch asked for, at one moment of one boot."""

    boot: str
    now: datetime | None = None
    launches: tuple[Observation, ...] = ()
