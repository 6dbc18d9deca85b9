"""What the simulator's tests share: a machine to break, SSH and HTTP to it, and model servers on it."""

import asyncio
import contextlib
import http.client
import json
import os
import shlex
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from simulator.api import SimulatedMachine

T = TypeVar("T")

PATIENCE = 60.0  # seconds until a condition that does not come is a failure
MODEL = "org/tiny"
PORT = 8001


async def eventually(ask: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Return the first true answer of ``ask``; fails after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = await ask()
        if answer:
            return answer
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never came true: {what}")


@contextlib.asynccontextmanager
async def connected(
    machine: SimulatedMachine, host_key: str | None = None
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    known = asyncssh.import_known_hosts(f"[{machine.address}]:{machine.port} {host_key or machine.host_key}\n")
    async with asyncssh.connect(
        machine.address,
        machine.port,
        username=machine.user,
        client_keys=[str(machine.client_key)],
        known_hosts=known,
        config=None,
        agent_path=None,
    ) as connection:
        yield connection


async def shell(machine: SimulatedMachine, command: str) -> tuple[int | None, str, str]:
    """Run ``command`` on the machine: exit code, stdout, stderr."""
    async with connected(machine) as connection:
        result = await connection.run(command)
        return result.returncode, str(result.stdout), str(result.stderr)


class ModelServer:
    """A pretend vLLM that runs as the command of an SSH session."""

    def __init__(
        self, machine: SimulatedMachine, process: asyncssh.SSHClientProcess[str], arguments: list[str], log: Path
    ) -> None:
        self.machine = machine
        self.process = process
        self._arguments = tuple(arguments)
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    async def pids(self, role: str) -> list[int]:
        return [process.pid for process in await self.machine.processes() if process.role == role]

    async def ready(self) -> None:
        async def healthy() -> bool:
            assert self.process.returncode is None, self.log
            return (await ask(self.machine, "GET", "/health"))[0] == 200

        await eventually(healthy, f"ready; log: {self.log if self._log.exists() else 'none'}")

    async def logged(self, text: str) -> None:
        async def there() -> bool:
            return self._log.exists() and text in self.log

        await eventually(there, f"{text!r} in the log")

    async def ended(self) -> int | None:
        """Wait for the root's end: exit code, negative for a signal."""
        return (await asyncio.wait_for(self.process.wait(), PATIENCE)).returncode

    async def stop(self) -> None:
        """Send TERM to the root alone and wait for an orderly end."""
        processes = await self.machine.processes()
        [root] = [
            p for p in processes if p.role == "api_server" and p.arguments[-len(self._arguments) :] == self._arguments
        ]
        os.kill(root.pid, signal.SIGTERM)
        assert await self.ended() == 0

    async def kill(self, role: str, number: signal.Signals) -> None:
        await self.machine.signal_servers(role, number)  # type: ignore[arg-type] # a test's typo fails the test


@contextlib.asynccontextmanager
async def served(machine: SimulatedMachine, *flags: str, **environment: str) -> AsyncIterator[ModelServer]:
    """Run ``vllm serve`` with ``flags`` on the machine; its processes are the machine's, which ends them."""
    arguments = ["serve", MODEL, "--port", str(PORT), *flags]
    variables = [f"{name}={value}" for name, value in environment.items()]
    log = machine.folder / "home" / f"server-{time.monotonic_ns()}.log"
    async with connected(machine) as connection:
        command = f"exec env {shlex.join([*variables, 'vllm', *arguments])} > {shlex.quote(str(log))} 2>&1"
        yield ModelServer(machine, await connection.create_process(command), arguments, log)


async def ask(
    machine: SimulatedMachine, method: str, path: str, body: object = None, key: str | None = None, port: int = PORT
) -> tuple[int, str]:
    """Make one HTTP request to a model server: status and body; (0, why) when there is no connection."""

    def request() -> tuple[int, str]:
        connection = http.client.HTTPConnection(machine.address, port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError as error:
            return 0, str(error)
        finally:
            connection.close()

    return await asyncio.to_thread(request)


async def complete(machine: SimulatedMachine, prompt: str, **fields: object) -> tuple[int, Any]:
    status, text = await ask(machine, "POST", "/v1/completions", {"model": MODEL, "prompt": prompt, **fields})
    return status, json.loads(text)


async def metric(machine: SimulatedMachine, name: str) -> float:
    _, text = await ask(machine, "GET", "/metrics")
    values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(f"vllm:{name}{{")]
    assert values, f"no vllm:{name} in the metrics"
    return sum(float(value) for value in values)
