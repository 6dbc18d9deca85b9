"""The parent of simulated machines: forks one process per machine, after everything is imported, and ends them all.

Run as ``python -m simulator.host`` it reads one line of JSON (``{"folder": …, "machines": [MachineConfig, …]}``),
answers with one line, and ends the machines when its stdin is closed, which the death of its owner does as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from simulator import process_table
from simulator.folder import MachineFolder, SimulationError
from simulator.machine import Machine, become_subreaper, reap
from simulator.models import MachineConfig


class Host:
    """Machines below this process, from entering the context to leaving it."""

    def __init__(self, folder: Path, machines: Sequence[MachineConfig]) -> None:
        self._folder = folder
        self._configs = machines
        self._pids: dict[int, str] = {}

    def __enter__(self) -> list[MachineFolder]:
        """Start the machines; return their folders. Raises SimulationError; none is left then."""
        become_subreaper()
        self._lifeline, self._held = os.pipe()
        try:
            return [self._start(config) for config in self._configs]
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End every machine with everything on it; return when no process is left."""
        os.close(self._held)
        os.close(self._lifeline)
        while self._pids:
            pid, _ = os.waitpid(-1, 0)
            self._pids.pop(pid, None)
        # only if a machine process was killed: its processes are ours now
        while below := process_table.descendants(os.getpid()):
            for stat in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(stat.pid, signal.SIGKILL)
            reap()

    def _start(self, config: MachineConfig) -> MachineFolder:
        folder = MachineFolder(self._folder / config.name)
        listener = folder.prepare(config)
        reading, writing = os.pipe()
        # pages that the collector does not touch stay shared with the parent
        gc.freeze()
        pid = os.fork()
        if not pid:
            os.close(reading)
            os.close(self._held)
            _be_machine(folder, listener, self._lifeline, writing)
        self._pids[pid] = config.name
        os.close(writing)
        listener.close()
        with os.fdopen(reading, "rb") as ready:
            if ready.read() != b"ready":
                raise SimulationError(f"machine {config.name} did not come up; the error is above")
        return folder


def _be_machine(folder: MachineFolder, listener: socket.socket, lifeline: int, ready: int) -> NoReturn:
    code = 1

    def say_ready() -> None:
        os.write(ready, b"ready")
        os.close(ready)

    try:
        # a group of its own: Ctrl-C at the terminal reaches the parent, which ends the machines in order
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)

        async def run() -> None:
            await Machine(folder, listener).run(lifeline, say_ready)

        asyncio.run(run())
        code = 0
    except BaseException:  # noqa: BLE001 - shown, and this process ends
        traceback.print_exc()
    finally:
        os._exit(code)


def wait_for_end(watched: Sequence[int] = ()) -> None:
    """Wait for TERM or INT, or until one of the file descriptors ``watched`` has something to read or has ended."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    select.select([reading, *watched], [], [])


def main() -> None:
    """Serve one owner over stdin and stdout."""
    request = json.loads(sys.stdin.buffer.readline())
    machines = [MachineConfig.model_validate(machine) for machine in request["machines"]]
    try:
        with Host(Path(request["folder"]), machines):
            print(json.dumps({"started": len(machines)}), flush=True)
            wait_for_end([0])
    except SimulationError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
