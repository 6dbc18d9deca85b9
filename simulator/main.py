"""Simulated machines for people: one in the foreground until Ctrl-C, and faults for one that runs.

``podctl simulate`` calls ``run`` and ``fault``; ``python -m simulator`` does the same without podctl.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from simulator.api import SimulatedMachine
from simulator.folder import SimulationError
from simulator.host import Host, wait_for_end
from simulator.models import Gpu, MachineConfig, Settings

# name → (what a value after it means, what it does)
FAULTS: dict[str, tuple[str, str]] = {
    "drop": ("", "cut every SSH connection"),
    "unreachable": ("SECONDS", "let nothing through for so long; without a number until 'reachable'"),
    "refuse": ("SECONDS", "the same, and new connections are refused instead of hanging"),
    "reachable": ("", "end an outage now"),
    "reboot": ("SECONDS", "kill everything, stay away for so long, come back with a new boot identity"),
    "host-key": ("", "show another host key from now on"),
    "slow-load": ("SECONDS", "model servers that start from now on take so long to load"),
    "out-of-memory": ("", "model servers that start from now on run out of GPU memory while loading"),
    "crash": ("SERVER", "kill the engine of every model server, or of the one of that name"),
    "kill-root": ("SERVER", "kill the API server and leave its engine behind"),
    "hang": ("SERVER", "stop the engine: /health stays 200, completions never end"),
    "resume": ("SERVER", "let a stopped engine go on"),
    "set": ("NAME=VALUE", f"change a setting: {', '.join(Settings.model_fields)}"),
    "healthy": ("", "put every setting back"),
}


def run(
    folder: Path,
    *,
    name: str = "sim",
    gpus: int = 1,
    gpu: Gpu | None = None,
    port: int | None = None,
    settings: Settings | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Simulate the machine ``name`` from ``folder/name`` until TERM or INT; then end everything on it.

    A folder that exists goes on: same address, keys and home. Raises SimulationError when it cannot be started and
    pydantic's ValidationError (a ValueError) for a bad name, count or port.
    """
    machine = MachineConfig(name=name, gpus=(gpu or Gpu(),) * gpus, port=port, settings=settings or Settings())
    with Host(folder, [machine]) as [started]:
        handle = SimulatedMachine(started.path)
        models = ", ".join(sorted({gpu.name for gpu in handle.gpus})) or "none"
        say(f"{name} is up: a simulated machine with {gpus} GPUs ({models}); its folder is {handle.folder}")
        say(f"  {handle.ssh_command}")
        say(f"  host key {handle.fingerprint}")
        say("Let podctl know it:")
        say(f"  podctl pods add {name} {shlex.quote(handle.ssh_command)} --accept-host-key {handle.fingerprint}")
        say("Ctrl-C ends it with everything that runs on it.")
        wait_for_end()
        say(f"ending {name} …")
    say(f"{name} has ended; nothing of it is left running.")


def fault(folder: Path, name: str, what: str, value: str | None = None) -> str:
    """Do one of FAULTS to the machine that runs from ``folder/name``; return a sentence about what was done.

    Raises SimulationError for an unknown machine, fault or value.
    """
    if what not in FAULTS:
        raise SimulationError(f"unknown fault {what!r}; there are {', '.join(FAULTS)}")
    if value is not None and not FAULTS[what][0]:
        raise SimulationError(f"{what} takes no value, got {value!r}")
    if not (folder / name / "machine.json").exists():
        known = sorted(path.parent.name for path in folder.glob("*/machine.json"))
        raise SimulationError(f"no simulated machine {name!r} in {folder}; there are {', '.join(known) or 'none'}")
    return asyncio.run(_fault(SimulatedMachine(folder / name), what, value))


async def _fault(machine: SimulatedMachine, what: str, value: str | None) -> str:
    name = machine.name
    if what in {"crash", "kill-root", "hang", "resume"}:
        return await _signal(machine, what, value)
    if what in {"slow-load", "out-of-memory", "set", "healthy"}:
        settings = await machine.settings(**_settings(what, value))
        changed = settings.model_dump(exclude_defaults=True)
        return f"{name}: settings that differ from a healthy machine's: {changed or 'none'}"
    if what in {"unreachable", "refuse"}:
        seconds = _seconds(value)
        await machine.unreachable(seconds, "hang" if what == "unreachable" else "refuse")
        return f"{name} is unreachable " + (f"for {seconds:g} s" if seconds is not None else "until 'reachable'")
    if what == "reboot":
        return f"{name} was rebooted; its boot identity is {await machine.reboot(_seconds(value) or 0.0)}"
    if what == "host-key":
        return f"{name} shows another host key now: {await machine.change_host_key()}"
    simple: dict[str, Callable[[], Awaitable[None]]] = {
        "drop": machine.drop_connections,
        "reachable": machine.reachable,
    }
    await simple[what]()
    return f"{name}: every SSH connection was cut" if what == "drop" else f"{name} is reachable"


async def _signal(machine: SimulatedMachine, what: str, server: str | None) -> str:
    if what == "kill-root":
        pids = await machine.signal_servers("api_server", signal.SIGKILL, server)
        return f"{machine.name}: killed API server {', '.join(map(str, pids))}; the engine lives on"
    number = {"crash": signal.SIGKILL, "hang": signal.SIGSTOP, "resume": signal.SIGCONT}[what]
    pids = await machine.signal_servers("engine", number, server)
    return f"{machine.name}: {number.name} to engine {', '.join(map(str, pids))}"


def _settings(what: str, value: str | None) -> dict[str, object]:
    if what == "healthy":
        return Settings().model_dump()
    if what == "out-of-memory":
        return {"start_failure": "out_of_memory"}
    if what == "slow-load":
        return {"load_seconds": _seconds(value or "")}
    field, equals, text = (value or "").partition("=")
    if not equals:
        raise SimulationError("set takes NAME=VALUE, for example load_seconds=30")
    return {field: None if text in {"", "none"} else text}


def _seconds(value: str | None) -> float | None:
    try:
        seconds = None if value is None else float(value)
    except ValueError:
        seconds = -1.0
    if seconds is not None and seconds < 0:
        raise SimulationError(f"a number of seconds is needed, not {value!r}")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m simulator``; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description="GPU machines without GPUs.")
    parser.add_argument("--folder", type=Path, required=True, help="where machines have their folders")
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run", help="simulate a machine until Ctrl-C")
    runner.add_argument("--name", default="sim")
    runner.add_argument("--gpus", type=int, default=1)
    breaker = commands.add_parser("fault", help="break a machine that runs")
    breaker.add_argument("name")
    breaker.add_argument("what", choices=FAULTS)
    breaker.add_argument("value", nargs="?")
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            run(options.folder, name=options.name, gpus=options.gpus)
        else:
            print(fault(options.folder, options.name, options.what, options.value))
    except (SimulationError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
