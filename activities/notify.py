"""The notify hook: a program of the user's, on the worker's machine, that tells a person that something waits."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from temporalio import activity

from activities.support import heartbeating
from workflows import names
from workflows.messages import NotifyInput, NotifyOutput

#: Seconds that a hook may take.
HOOK_LIMIT = 30.0
#: All that a hook gets of the worker's environment, which may hold secrets.
ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
#: Seconds between looks at a hook that runs.
_LOOK = 0.02
#: Bytes kept of what it says on its standard error.
_TAIL = 2_000
#: Bytes of it that are read at a look: what says more than that is slowed down.
_READ = 1 << 18


@activity.defn(name=names.NOTIFY)
async def notify(given: NotifyInput) -> NotifyOutput:
    """Call the hook once, the notification as JSON on its standard input; it is gone when this returns."""
    async with heartbeating():
        return NotifyOutput(error=await call_hook(given.argv, json.dumps(given.notification, ensure_ascii=False)))


async def call_hook(argv: Sequence[str], text: str, *, limit: float = HOOK_LIMIT) -> str:
    """Run a hook, ``text`` on its standard input, and return why it failed; empty if it did well.

    Without a shell, in the home folder, in a group of its own: what is left of that afterwards is killed.
    """
    try:
        hook = _start(argv)
    except OSError as error:
        return f"the notify hook {argv[0]} cannot be started: {error.strerror or error}"
    try:
        return await _outcome(hook, text, limit)
    finally:
        # Before it is waited for: until then nobody else can have its number.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(hook.pid, signal.SIGKILL)
        await _reap(hook)
        for stream in (hook.stdin, hook.stderr):
            if stream is not None:
                stream.close()


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=Path.home(),
        env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        start_new_session=True,
    )


async def _outcome(hook: subprocess.Popen[bytes], text: str, limit: float) -> str:
    if hook.stdin is None or hook.stderr is None:
        raise AssertionError("pipes were asked for")
    said, to_say = b"", memoryview(text.encode())
    for stream in (hook.stdin, hook.stderr):
        os.set_blocking(stream.fileno(), False)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        to_say = _say(hook.stdin, to_say)
        ended = _ended(hook)
        said = (said + (hook.stderr.read(_READ) or b""))[-_TAIL:]
        if ended is not None:
            return _failure(ended, said)
        await asyncio.sleep(_LOOK)
    return f"the notify hook took longer than {limit:g} s and was killed"


def _say(stdin: IO[bytes], text: memoryview) -> memoryview:
    """Write what fits into the pipe, close it after the last of it, and return the rest."""
    try:
        # None: the pipe is full.
        rest = text[stdin.write(text) or 0 :] if text else text
    except BrokenPipeError:
        rest = text[:0]  # a hook need not read it
    if not rest:
        stdin.close()
    return rest


def _ended(hook: subprocess.Popen[bytes]) -> os.waitid_result | None:
    """Return how the hook ended, without taking its number from it; None while it runs."""
    return os.waitid(os.P_PID, hook.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)


def _failure(ended: os.waitid_result, said: bytes) -> str:
    if ended.si_code == os.CLD_EXITED and ended.si_status == 0:
        return ""
    how = f"exit code {ended.si_status}" if ended.si_code == os.CLD_EXITED else f"ended by signal {ended.si_status}"
    lines = said.decode(errors="replace").strip().splitlines()
    return f"the notify hook failed: {how}" + (f" ({lines[-1].strip()})" if lines else "")


async def _reap(hook: subprocess.Popen[bytes]) -> None:
    """Take the exit status of a killed hook. One that the kernel holds (a network disk) is left to the collector."""
    for _ in range(250):
        if hook.poll() is not None:
            return
        await asyncio.sleep(_LOOK)
