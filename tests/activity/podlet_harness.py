"""A machine for the podlet in a folder of its own: real processes, a pretend nvidia-smi, hooks, a boot of its own.

``PODLET_PYTHON`` names another interpreter to run the podlet with (the oldest supported one, say).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from podctl.processes import free_ports
from podlet import podlet

PODLET = Path(__file__).parents[2] / "podlet" / "podlet.py"
FAKE_SERVER = Path(__file__).with_name("podlet_fake_server.py")
FAKE_NVIDIA_SMI = Path(__file__).with_name("podlet_fake_nvidia_smi.py")
DEADLINE = 60.0

Json = dict[str, Any]
T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str) -> T:
    """Return the first true value of ``condition``, or fail saying ``what`` did not come true."""
    deadline = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {DEADLINE:g} s still not: {what}")
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """Return whether a process lives (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def free_port() -> int:
    """Return a port on which nobody listens, and which no outgoing connection is given before it is used."""
    return free_ports(1)[0]


def kill(pid: int) -> None:
    """Kill a process unless it is gone, or going."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def replace(file: Path, text: str) -> None:
    """Write a file that somebody may be reading."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.rename(file)


class PodletError(Exception):
    """The podlet answered with an error line."""

    def __init__(self, line: Json) -> None:
        super().__init__(f"{line['code']}: {line['message']}")
        self.code: str = line["code"]
        self.message: str = line["message"]


class Conversation:
    """One running podlet: lines are read as they come, stdin stays open until told otherwise."""

    def __init__(self, request: bytes, environment: dict[str, str]) -> None:
        python = os.environ.get("PODLET_PYTHON", sys.executable)
        self.process = subprocess.Popen(
            [python, "-I", "-S", str(PODLET)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin
        self.process.stdin.write(request + b"\n")
        self.process.stdin.flush()
        self.lines: list[Json] = []
        self._buffer = b""

    def read(self, seconds: float = DEADLINE) -> Json | None:
        """Return the next line, or None at the end of the output; fail if neither comes in time."""
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                if line.startswith(b'{"podlet": 1'):
                    self.lines.append(json.loads(line))
                    return self.lines[-1]
                assert not line, line
                continue
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no line within {seconds} s after {self.lines[-1:]}"
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                assert not self._buffer, self._buffer
                return None
            self._buffer += piece

    def read_until(self, condition: Callable[[Json], object], what: str) -> Json:
        """Return the first line for which ``condition`` holds; beats come for ever, and are not waited for so long."""
        deadline = time.monotonic() + 2 * DEADLINE
        while True:
            line = self.read()
            assert line is not None, f"the output ended before: {what}; {self.error_text()}"
            assert time.monotonic() < deadline, f"after {2 * DEADLINE:g} s still not: {what}; {line}"
            if condition(line):
                return line

    def end_stdin(self) -> None:
        """Tell the podlet that nobody is interested any more."""
        assert self.process.stdin
        self.process.stdin.close()

    def result(self) -> Json:
        """Read to the end and return the result, or raise ``PodletError``."""
        while self.read() is not None:
            pass
        code = self.process.wait(DEADLINE)
        assert self.lines, self.error_text()
        last = self.lines[-1]
        assert [line["type"] in ("result", "error") for line in self.lines].count(True) == 1, self.lines
        assert code == (0 if last["type"] == "result" else 1), (code, last)
        self.close()
        if last["type"] == "error":
            raise PodletError(last)
        result: Json = last["result"]
        return result

    def kill(self) -> None:
        """Kill the podlet (not what it launched) without warning."""
        self.process.kill()
        self.process.wait()

    def error_text(self) -> str:
        """Return what it wrote to stderr, for failures of tests."""
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def close(self) -> None:
        """End it, if it still runs, and close its pipes."""
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


class Machine:
    """A folder that is a machine to the podlet. ``with`` ends everything that was launched in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "podctl"
        self.notes = folder / "notes"
        self.hooks = folder / "hooks"
        self.gpu = folder / "gpu"
        self.answers = folder / "answers"
        for path in (self.notes, self.hooks, self.answers, folder / "home", folder / "bin", self.gpu / "memory"):
            path.mkdir(parents=True)
        self.boot("first")
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PODLET_BOOT_FILE": str(folder / "boot"),
            "PODLET_HOOKS": str(self.hooks),
            "FAKE_GPU_FOLDER": str(self.gpu),
        }
        self._conversations: list[Conversation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for conversation in self._conversations:
            conversation.close()
        for hook in self.hooks.iterdir():
            hook.unlink()
        for path in self.root.glob("launches/*/*/*/process.json"):
            supervisor = json.loads(path.read_text())["supervisor"]  # None: it was adopted
            for descendant in podlet.descendants(supervisor) if supervisor else []:
                kill(descendant)
        for pid in self.noted().values():
            if lives(pid):
                kill(pid)
        for path in self.root.glob("launches/*/*/*"):
            shutil.rmtree(
                podlet.Root(str(self.root)).launch("/".join(path.parts[-3:])).socket_folder(), ignore_errors=True
            )
            wait_until(partial(self.is_left_alone, path), f"the supervisor of {path} is gone")

    # Requests

    def start(self, verb: str, **fields: object) -> Conversation:
        """Begin a request and return its conversation."""
        request = {"verb": verb, "root": str(self.root), **fields}
        conversation = Conversation(json.dumps(request).encode(), self.environment)
        self._conversations.append(conversation)
        return conversation

    def call(self, verb: str, **fields: object) -> Json:
        """Make a request and return its result, or raise ``PodletError``."""
        return self.start(verb, **fields).result()

    def observe(self, launch_id: str) -> Json:
        """Return the observation of one launch."""
        observation: Json = self.call("observe", ids=[launch_id])["launches"][0]
        return observation

    def await_state(self, launch_id: str, state: str) -> Json:
        """Wait until a launch is in a state and return its observation."""
        wait_until(lambda: self.observe(launch_id)["state"] == state, f"{launch_id} is {state}")
        return self.observe(launch_id)

    def run(self, launch_id: str, *argv: str, **fields: object) -> Json:
        """Launch a run and return its first observation."""
        return self.call("launch", id=launch_id, kind="run", argv=argv, **fields)

    def serve(self, launch_id: str, *options: str, **fields: object) -> Json:
        """Launch the pretend server, wait until its whole tree stands, and return the observation."""
        observation = self.call("launch", **self.server(launch_id, *options, **fields))
        roles = ["root"] + (["engine", "worker"] if "--engine" in options else [])
        for role in roles + (["daemon"] if "--daemon" in options else []):
            self.pid(role)
        return observation

    def server(self, launch_id: str, *options: str, **fields: object) -> Json:
        """Return a launch request for the pretend server."""
        argv = [sys.executable, "-I", "-S", str(FAKE_SERVER), "--notes", str(self.notes), *options]
        return {"id": launch_id, "kind": "server", "argv": argv, "served_name": "tiny", **fields}

    # The machine

    def boot(self, name: str) -> None:
        """Give the machine another boot identity."""
        (self.folder / "boot").write_text(name + "\n")

    def gpus(self, count: int = 1, **settings: object) -> None:
        """Give the machine a pretend nvidia-smi. ``settings`` as podlet_fake_nvidia_smi.py reads them."""
        replace(self.gpu / "settings.json", json.dumps({"count": count, **settings}))
        # Replaced as a whole: one that is being run may not be written to.
        new = self.folder / "bin" / "nvidia-smi.new"
        new.write_text(f"#!{sys.executable} -IS\n" + FAKE_NVIDIA_SMI.read_text())
        new.chmod(0o755)
        new.rename(self.folder / "bin" / "nvidia-smi")

    def hold(self, point: str) -> None:
        """Make the podlet wait at a hook."""
        (self.hooks / point).touch()

    def reached(self, point: str) -> None:
        """Wait until the podlet is at a hook."""
        wait_until((self.hooks / f"{point}.reached").exists, f"hook {point} reached")

    def release(self, point: str) -> None:
        """Let the podlet go on."""
        (self.hooks / point).unlink()

    def path(self, launch_id: str, name: str = "") -> Path:
        """Return the path of a launch's file."""
        return self.root / "launches" / launch_id / name

    def read(self, launch_id: str, name: str) -> Json:
        """Return one of a launch's records."""
        record: Json = json.loads(self.path(launch_id, name).read_text())
        return record

    def pid(self, role: str) -> int:
        """Return the pid of one process of a pretend server: root, engine, worker or daemon."""
        note = self.notes / role
        return int(wait_until(lambda: note.exists() and note.read_text(), f"the {role} noted its pid"))

    def alive(self) -> set[str]:
        """Return the roles of the pretend server's living processes."""
        return {role for role, pid in self.noted().items() if lives(pid)}

    def noted(self) -> dict[str, int]:
        """Return the pid of every process of a pretend server that has noted it, by role."""
        notes = [note for note in self.notes.iterdir() if not note.name.startswith(".")]  # one that is being written
        return {note.name: int(note.read_text()) for note in notes}

    def variables(self, pid: int) -> dict[str, str]:
        """Return the environment that a process was started with, which shows when its program is in place."""
        shown = wait_until(Path(f"/proc/{pid}/environ").read_text, f"process {pid} shows its environment")
        return dict(line.split("=", 1) for line in shown.split("\0") if line)

    def kill(self, role: str) -> None:
        """Kill one process of a pretend server and wait until it is gone."""
        pid = self.pid(role)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid), f"{role} is gone")

    def kill_supervisor(self, launch_id: str) -> None:
        """Kill a launch's supervisor and wait until it is gone."""
        pid: int = self.read(launch_id, "process.json")["supervisor"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid), "the supervisor is gone")

    def supervised(self, launch: Path) -> bool:
        """Return whether the supervisor of a launch lives."""
        if not (launch / "process.json").exists():
            return False
        return lives(json.loads((launch / "process.json").read_text())["supervisor"])

    def is_left_alone(self, launch: Path) -> bool:
        """Return whether the supervisor of a launch is gone."""
        return not self.supervised(launch)


def serve(machine: Machine, launch_id: str, *options: str) -> Json:
    """Launch a server that answers as the files in the machine's folder ``answers`` say."""
    port = free_port()
    answers = f"--answers={machine.answers}"
    return machine.serve(launch_id, f"--port={port}", answers, *options, ports=[port], api_key=True)


def say(machine: Machine, what: str, status: object) -> None:
    """Make the server answer a path with a status from now on (0: not at all)."""
    replace(machine.answers / what, str(status))


def seen(watch: Conversation, launch_id: str, **fields: object) -> Json:
    """Read until a change tells these values of a launch; return its observation."""

    def find(line: Json) -> bool:
        return line["type"] == "change" and any(
            launch["id"] == launch_id and all(launch[name] == value for name, value in fields.items())
            for launch in line["launches"]
        )

    line = watch.read_until(find, f"{launch_id} has {fields}")
    observation: Json = next(launch for launch in line["launches"] if launch["id"] == launch_id)
    return observation


def beat_of(watch: Conversation, launch_id: str, condition: Callable[[Json], object], what: str) -> Json:
    """Read until a beat tells something of a launch that fulfils a condition, and return that."""
    found: list[Json] = []

    def find(line: Json) -> list[Json]:
        launches = line["launches"] if line["type"] == "beat" else []
        found[:] = [launch for launch in launches if launch["id"] == launch_id and condition(launch)]
        return found

    watch.read_until(find, what)
    return found[0]
