"""The demonstration, step by step. Everything in it is real but the GPUs: SSH, Temporal, processes, and the kill."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from demo.proof import Proof, gather_proof
from domain.entity import Event
from domain.gpu.models import GpuPodState
from domain.ids import task_workflow_id
from domain.task.models import TaskState, WorkstreamStatus
from podctl import embedded
from podctl.client import PodctlClient
from podctl.connection import connect
from podctl.live import follow_pod, follow_task
from podctl.paths import PodctlPaths
from podctl.processes import free_ports
from simulator.api import Gpu, MachineConfig, Settings, SimulatedMachine, simulate

TASK = "kitchen-timer"
POD = "sim"
#: The workstreams that run side by side when the worker is killed.
SIDE_BY_SIDE = ("use", "care")
#: Tokens per second of the pretend model: the two parts then take some eight seconds, time enough to die in.
TOKENS_PER_SECOND = 20.0
LOAD_SECONDS = 1.5
#: Seconds that any one step may take, far above what a slow machine needs.
PATIENCE = 120.0


class DemoFailed(Exception):
    """The demonstration did not go as it should; the message says where."""


@dataclass
class Story:
    """What the steps share."""

    paths: PodctlPaths
    console: Console
    machine: SimulatedMachine
    client: PodctlClient | None = None
    told: int = 0
    workers: list[int] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Print what happens next."""
        self.console.print()
        self.console.print(Text(f"■ {text}", style="bold"), soft_wrap=True)

    async def podctl(self, *words: str) -> str:
        """Run a real ``podctl`` command as a user would, showing it and what it prints; return its output."""
        self.console.print(Text(f"  $ podctl {shlex.join(words)}", style="cyan"), soft_wrap=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "cli",
            *words,
            env=_environment(self.paths),
            cwd=self.paths.data,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode(errors="replace")
        for line in output.splitlines():
            self.console.print(Text(f"    {line}"), soft_wrap=True)
        if process.returncode != 0:
            raise DemoFailed(f"podctl {shlex.join(words)} ended with exit code {process.returncode}")
        return output

    @property
    def server(self) -> PodctlClient:
        """The client, once there is a server."""
        if self.client is None:
            raise DemoFailed("no server yet")
        return self.client


async def run_demo(*, keep: bool, console: Console) -> None:
    """Tell the story; raises ``DemoFailed``. Leaves nothing running unless ``keep``."""
    folder = Path(tempfile.mkdtemp(prefix="podctl-demo-"))
    paths = PodctlPaths(config=folder / "config", data=folder / "data")
    paths.data.mkdir()
    os.environ.update(paths.environment())
    settings = Settings(load_seconds=LOAD_SECONDS, tokens_per_second=TOKENS_PER_SECOND)
    machine = MachineConfig(name=POD, gpus=(Gpu(),), settings=settings)
    console.print(f"Everything of this demonstration lives in {folder}")
    try:
        async with simulate(folder / "machines", [machine]) as [simulated]:
            story = Story(paths, console, simulated)
            async with _temporal(story):
                _show_proof(story, await _tell(story))
                if keep:
                    await _stay(story)
    except DemoFailed as error:
        raise DemoFailed(f"{error}. Nothing is left running; logs and files are in {folder}") from error
    if not keep:
        # Only after all went well: what went wrong is looked for in these files.
        await asyncio.to_thread(shutil.rmtree, folder)
        console.print("\nNothing is left. To keep it up and look around: podctl demo --keep")


@asynccontextmanager
async def _temporal(story: Story) -> AsyncIterator[None]:
    port, ui_port = free_ports(2)
    story.heading("Temporal and a worker start on this machine")
    try:
        await story.podctl("up", "--detach", "--port", str(port), "--ui-port", str(ui_port))
        story.client = PodctlClient(await connect(story.paths))
        story.workers.append(_worker_pid(story.paths))
        yield
    finally:
        await embedded.down(story.paths, lambda _: None)


async def _tell(story: Story) -> Proof:
    story.heading("A GPU pod is added over SSH (a simulated machine: real SSH server, pretend GPU and vLLM)")
    await story.podctl("pods", "add", POD, story.machine.ssh_command, "--accept-host-key", story.machine.fingerprint)

    story.heading("A wish becomes a task, and a person approves spec and plan")
    spec, plan = _write_files(story.paths.data)
    await story.podctl(
        "task", "create", "A leaflet about kitchen timers", "--id", TASK, "--spec", str(spec), "--plan", str(plan)
    )
    await story.podctl("signal", "approve-spec", TASK, "--as", "ann")
    await story.podctl("signal", "approve-plan", TASK, "--as", "ann", "--comment", "go")

    story.heading("The model server starts on the pod, then the workstreams run")
    await _until(story, "both parts of the leaflet are being written", _both_run)

    story.heading("The worker is killed with SIGKILL while two workstreams run")
    _kill_worker(story)
    await story.podctl("status")
    story.heading("A new worker takes over: what runs on the pod is found again, not started twice")
    await story.podctl("up", "--detach")
    story.workers.append(_worker_pid(story.paths))
    await _until(story, "the work waits for a person's review", lambda task: task.review.revision > 0)

    await story.podctl("signal", "approve-review", TASK, "--as", "ann", "--comment", "well written")
    await _until(story, "the task is completed", lambda task: task.final)
    await _until_released(story)

    story.heading("The finished task")
    await story.podctl("task", "show", TASK)
    story.console.print(Text(f"  In the Temporal Web UI: {_web_ui(story.paths)}"), soft_wrap=True)
    story.heading("Its event log, read from Temporal's history")
    await story.podctl("events", TASK)
    story.heading("On the GPU pod")
    await story.podctl("list")
    return await gather_proof(story.server, story.machine, POD, TASK, workers=tuple(story.workers))


def _show_proof(story: Story, proof: Proof) -> None:
    story.heading("Proof")
    for line in proof.lines:
        mark = Text("  ✔ ", style="green") if line.holds else Text("  ✘ ", style="red")
        story.console.print(mark + Text(line.text), soft_wrap=True)
    if not proof.holds:
        raise DemoFailed("what is marked ✘ should not be")


async def _stay(story: Story) -> None:
    story.heading("Everything is kept up: look around, then press Ctrl-C")
    story.console.print(f"  Web UI: {_web_ui(story.paths)}", soft_wrap=True)
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in story.paths.environment().items())
    story.console.print(f"  In another terminal: export {exports}", soft_wrap=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


async def _until(story: Story, what: str, reached: Callable[[TaskState], bool]) -> None:
    """Print events as they happen until the task is as ``reached`` says."""
    try:
        async with asyncio.timeout(PATIENCE):
            async for task in follow_task(story.server, TASK):
                await _print_new_events(story)
                if reached(task):
                    return
    except TimeoutError:
        raise DemoFailed(f"it took longer than {PATIENCE:.0f} s until {what}") from None
    raise DemoFailed(f"the task ended before {what}")


async def _until_released(story: Story) -> None:
    """Wait until the pod's model server is stopped, verified: nobody needs it any more."""

    def released(pod: GpuPodState) -> bool:
        return all(server.finished for server in pod.servers.values())

    try:
        async with asyncio.timeout(PATIENCE):
            async for pod in follow_pod(story.server, POD):
                if released(pod):
                    return
    except TimeoutError:
        raise DemoFailed(f"the model server had not stopped within {PATIENCE:.0f} s") from None


async def _print_new_events(story: Story) -> None:
    log = await story.server.log(task_workflow_id(TASK))
    for event in log.events:
        if event.sequence > story.told:
            story.told = event.sequence
            story.console.print(Text(f"    {_line(event)}", style="dim"), soft_wrap=True)


def _line(event: Event) -> str:
    about = event.payload.get("workstream") or event.payload.get("server") or event.payload.get("to") or ""
    return f"{event.at.astimezone():%H:%M:%S}  {event.type:<24} {about}"


def _both_run(task: TaskState) -> bool:
    return all(
        name in task.workstreams and task.workstreams[name].status is WorkstreamStatus.IN_PROGRESS
        for name in SIDE_BY_SIDE
    )


def _kill_worker(story: Story) -> None:
    worker = embedded.status(story.paths).worker
    if worker is None or not worker.process.is_alive():
        raise DemoFailed("there is no worker to kill")
    os.kill(worker.process.pid, signal.SIGKILL)
    story.console.print(Text(f"  $ kill -9 {worker.process.pid}", style="red"))


def _worker_pid(paths: PodctlPaths) -> int:
    worker = embedded.status(paths).worker
    if worker is None:
        raise DemoFailed("podctl up started no worker")
    return worker.process.pid


def _web_ui(paths: PodctlPaths) -> str:
    server = embedded.status(paths).server
    if server is None:
        raise DemoFailed("podctl up started no server")
    return f"{server.ui_address}/namespaces/default/workflows/{quote(task_workflow_id(TASK), safe='')}"


def _write_files(folder: Path) -> tuple[Path, Path]:
    """Put the demonstration's spec and plan where a user could look at them."""
    written = []
    for name in ("spec.md", "plan.yaml"):
        path = folder / name
        path.write_text(resources.files("demo").joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
        written.append(path)
    return written[0], written[1]


def _environment(paths: PodctlPaths) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    return {**kept, **paths.environment()}
