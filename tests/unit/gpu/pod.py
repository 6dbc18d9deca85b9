# ruff: noqa: ANN401 - the fields go on to models, which check them
"""A GPU pod's state to play with: commands in, events out, and short ways to make what a machine would report."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from domain.entity import Event
from domain.gpu.commands import (
    AttachServer,
    Command,
    DetachServer,
    Envelope,
    LaunchDone,
    PodInput,
    PodObserved,
    StartServer,
    StopDone,
    StopServer,
)
from domain.gpu.models import GpuPodState, ModelServer
from domain.gpu.observation import ComputeApp, Exit, Gpu, Inventory, Observation, StopResult, Vllm
from domain.gpu.request import StartRequest
from domain.gpu.rules import apply, register_pod
from domain.gpu.schedule import Action, next_actions
from domain.gpu.schedule import Command as Decision
from domain.gpu.ssh_target import parse_ssh

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
H100 = "NVIDIA H100 80GB HBM3"


def gpus(count: int, name: str = H100, memory: int | None = 81_559) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(index=index, uuid=f"GPU-{index}", name=name, memory_total_mib=memory, memory_used_mib=4)
        for index in range(count)
    )


def inventory(
    count: int = 2,
    name: str = H100,
    *,
    boot: str = "boot-1",
    foreign: Sequence[int] = (),
    **fields: Any,
) -> Inventory:
    """A machine with ``count`` GPUs; on those of index ``foreign`` runs a process of somebody else."""
    apps = tuple(ComputeApp(pid=900 + index, gpu_uuid=f"GPU-{index}", used_mib=1_000) for index in foreign)
    return Inventory(
        **{"boot": boot, "gpus": gpus(count, name), "compute_apps": apps, "vllm": Vllm(program="/opt/vllm"), **fields}
    )


def request(name: str = "qwen", model: str = "some/model", **fields: Any) -> StartRequest:
    return StartRequest(name=name, model=model, **fields)


def running(launch_id: str, *, ready: bool = False, **fields: Any) -> Observation:
    values: dict[str, Any] = {
        "state": "running",
        "boot": "boot-1",
        "pid": 100,
        "start_time": 7,
        "members": 3,
        "readiness": "ready" if ready else "process",
        "healthy": True if ready else None,
    }
    return Observation(id=launch_id, **{**values, **fields})


def exited(launch_id: str, code: int | None = 1, signal: int | None = None, **fields: Any) -> Observation:
    return Observation(
        id=launch_id,
        state="exited",
        **{"boot": "boot-1", "pid": 100, "start_time": 7, "exit": Exit(code=code, signal=signal), **fields},
    )


def stopped(launch_id: str, **fields: Any) -> StopDone:
    return StopDone(launch_id=launch_id, result=StopResult(**{"id": launch_id, "state": "stopped", **fields}))


class Pod:
    """Applies commands one after the other and keeps every event."""

    def __init__(self, look: Inventory | None = None, name: str = "box") -> None:
        self.now = EPOCH
        given = PodInput(
            name=name, ssh=parse_ssh("ssh -p 2222 root@203.0.113.7"), host_key="ssh-ed25519 AAAA", by="ann",
            command_id="register",
        )  # fmt: skip
        self.state, self.events = register_pod(given, self.now)
        self._commands = 0
        if look is not None:
            self.do(PodObserved(boot=look.boot, inventory=look, known_boot=None, expected=()))

    def do(self, command: Command, *, by: str = "ann", command_id: str | None = None) -> list[Event]:
        self._commands += 1
        envelope = Envelope(command_id=command_id or f"c-{self._commands}", by=by, command=command)
        self.state, events = apply(self.state, envelope, self.now)
        self.events += events
        return list(events)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def pass_time(self, seconds: float) -> list[Event]:
        """Let time pass, and what was due by then be decided, as the workflow's loop does."""
        self.later(seconds)
        events: list[Event] = []
        while decisions := [action for action in self.actions().values() if isinstance(action, Decision)]:
            for decision in decisions:
                events += self.do(decision.command, by="podctl", command_id=decision.command_id)
        return events

    def start(self, name: str = "qwen", *, wait: bool = True, **fields: Any) -> list[Event]:
        return self.do(StartServer(request=request(name, **fields), wait=wait))

    def attach(self, task: str, name: str = "qwen", **fields: Any) -> list[Event]:
        return self.do(AttachServer(task_id=task, request=request(name, **fields)))

    def detach(self, task: str, name: str = "qwen") -> list[Event]:
        return self.do(DetachServer(task_id=task, name=name))

    def stop(self, name: str = "qwen", **fields: Any) -> list[Event]:
        return self.do(StopServer(name=name, **fields))

    def launched(self, name: str = "qwen", **fields: Any) -> list[Event]:
        launch_id = self.launch_id(name)
        return self.do(LaunchDone(launch_id=launch_id, observation=running(launch_id, **fields)))

    def observe(self, *launches: Observation, boot: str = "boot-1", **fields: Any) -> list[Event]:
        """A complete look, by an activity that knew of everything the pod holds."""
        expected = tuple(s.launch_id for s in self.state.servers.values() if s.holds_lease and s.launch_id)
        return self.do(
            PodObserved(
                **{
                    "boot": boot,
                    "launches": launches,
                    "known_boot": self.state.boot,
                    "expected": expected,
                    **fields,
                }
            )
        )

    def ready(self, name: str = "qwen", **fields: Any) -> list[Event]:
        """Bring a server from launching to ready; every other one of the pod stays as it is."""
        self.launched(name)
        return self.observe_one(running(self.launch_id(name), ready=True, **fields))

    def do_inspect(self, *launches: Observation, boot: str = "boot-1", count: int = 1) -> list[Event]:
        """Answer a look at a machine whose GPUs are free of others."""
        return self.observe(*launches, boot=boot, inventory=inventory(count, boot=boot))

    def observe_one(self, launch: Observation, **fields: Any) -> list[Event]:
        return self.do(
            PodObserved(
                **{
                    "boot": "boot-1",
                    "launches": (launch,),
                    "known_boot": self.state.boot,
                    "expected": (launch.id,),
                    **fields,
                }
            )
        )

    def server(self, name: str = "qwen") -> ModelServer:
        return self.state.servers[name]

    def launch_id(self, name: str = "qwen") -> str:
        launch_id = self.server(name).launch_id
        assert launch_id is not None
        return launch_id

    def actions(self) -> dict[str, Action]:
        return {action.key: action for action in next_actions(self.state, self.now)}


def types(events: Sequence[Event]) -> list[str]:
    return [event.type for event in events]


def pod_with(state: GpuPodState, now: datetime) -> Pod:
    """Go on from a state, as a run that was continued does."""
    pod = Pod()
    pod.state, pod.now, pod.events = state, now, ()
    return pod
