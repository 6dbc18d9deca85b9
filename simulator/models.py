"""What a simulated machine is made of and how it behaves: the values that its folder keeps and its owner sets."""

from __future__ import annotations

import uuid
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Value(BaseModel):
    """A frozen value; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gpu(Value):
    """One pretend GPU. The defaults are an H100 as nvidia-smi shows it."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory_mib: int = Field(81_559, ge=1)
    mig: bool = False


class Settings(Value):
    """How the machine and the pretend model servers that start from now on behave; the defaults are healthy.

    A launch overrides those of model servers for itself by its environment: ``PRETEND_VLLM_LOAD_SECONDS=0.3``.
    """

    download_seconds: float = Field(0.0, ge=0, description="of progress lines and bytes written, before loading begins")
    load_seconds: float = Field(3.0, ge=0, description="from the engine's start until it is ready, download aside")
    shards: int = Field(4, ge=1, description="pieces in which weights are loaded, each with a log line")
    stall_loading: bool = Field(
        default=False, description="half of the weights are loaded, then only one line comes again and again, for ever"
    )
    tokens_per_second: float = Field(60.0, gt=0, description="of each request")
    start_failure: (
        Literal["out_of_memory", "kv_cache", "gated_model", "missing_model", "cuda_mismatch", "engine_init"] | None
    ) = None
    crash_after_seconds: float | None = Field(None, ge=0, description="the engine crashes this long after it is ready")
    crash_after_requests: int | None = Field(None, ge=0, description="the engine answers so many, then crashes")
    hang: bool = Field(default=False, description="/health answers 200, completions never end")
    swallow_first_term: bool = Field(default=False, description="the first TERM or INT during start-up has no effect")
    hang_on_term: Literal["never", "client_connected", "always"] = "never"
    leave_shared_memory: bool = Field(default=False, description="shared-memory files stay after an orderly stop too")
    seconds_from_engine_death_to_exit: float = Field(4.0, ge=0)
    nvidia_smi: Literal["ok", "missing", "no_driver", "not_available", "insufficient_permissions", "no_processes"] = (
        "ok"
    )
    install_seconds: float = Field(0.0, ge=0, description="that uv takes to install vLLM")
    install_failure: Literal["no_network", "disk_full", "package_not_found"] | None = None
    mount_failure: Literal["refused"] | None = None
    login_output: str = Field("", description="written to stdout before every command, as some login scripts do")


class MachineConfig(Value):
    """A machine to simulate; ``port`` None: 2222 where that is free on an address of its own."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    gpus: tuple[Gpu, ...] = (Gpu(),)
    port: int | None = Field(None, ge=1, le=65_535)
    settings: Settings = Settings()


class MachineGpu(Gpu):
    """A pretend GPU in its machine."""

    index: int
    uuid: str


class MachineRecord(Value):
    """``machine.json``: what a machine is, for as long as its folder exists."""

    name: str
    user: str
    address: str
    port: int
    gpus: tuple[MachineGpu, ...]


class Process(Value):
    """A living process of a machine; ``start_time`` in the kernel's clock ticks."""

    pid: int
    parent: int
    session: int
    start_time: int
    name: str
    arguments: tuple[str, ...]

    @property
    def title(self) -> str:
        """The command line in one piece, as ps shows it."""
        return " ".join(argument for argument in self.arguments if argument)

    @property
    def role(self) -> Literal["api_server", "engine", "worker", "other"]:
        """What it is in a pretend model server."""
        if self.title.startswith("VLLM::EngineCore"):
            return "engine"
        if self.title.startswith("VLLM::Worker"):
            return "worker"
        is_server = any(
            program.endswith("/bin/vllm") and argument == "serve"
            for program, argument in zip(self.arguments, self.arguments[1:], strict=False)
        )
        return "api_server" if is_server else "other"


def machine_gpus(name: str, gpus: tuple[Gpu, ...]) -> tuple[MachineGpu, ...]:
    """Number the GPUs of machine ``name``; the same name and index always give the same UUID."""
    return tuple(
        MachineGpu(**gpu.model_dump(), index=index, uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{index}.{name}')}")
        for index, gpu in enumerate(gpus)
    )
