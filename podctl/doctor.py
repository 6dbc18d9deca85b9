"""`podctl doctor`: everything that podctl needs on this machine, what was found, and what to do."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import asyncssh
from temporalio.client import Client
from temporalio.service import RPCError

from domain.errors import BadInput
from podctl import embedded
from podctl.connection import NoServer, Target, connect_to, target
from podctl.namespace import missing_search_attributes, pollers
from podctl.paths import PodctlPaths
from podctl.pods_file import PodsFile
from workflows.task_queues import DEFAULT_TASK_QUEUE

#: Ids of people's accounts on Linux (`UID_MIN` and `UID_MAX` of login.defs; beyond are containers and nobody).
PEOPLE = range(1000, 60_001)


class Result(StrEnum):
    """How a check ended; a warning is something to know, podctl works."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what was found, and what to do (empty if nothing)."""

    name: str
    result: Result
    found: str
    advice: str = ""


async def examine(paths: PodctlPaths) -> tuple[Check, ...]:
    """Make every check that can be made; changes nothing."""
    checks = [_python(), _temporal_program(), _data_folder(paths), _pods_file(paths)]
    try:
        chosen = target(paths)
    except BadInput as error:
        checks.append(Check("server", Result.FAILED, str(error), "mend or remove that configuration"))
    else:
        checks += await _server(paths, chosen)
    checks += [await _ssh_keys(), _other_people(paths)]
    return tuple(checks)


def _python() -> Check:
    return Check("Python", Result.OK, f"{sys.version.split()[0]} at {sys.executable}")


def _temporal_program() -> Check:
    try:
        program = embedded.temporal_program()
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    except (embedded.StartError, OSError, subprocess.SubprocessError) as error:
        # A warning: with a cluster elsewhere nothing here needs it.
        return Check("temporal program", Result.WARNING, "cannot be run", f"`podctl up` needs it: {error}")
    return Check("temporal program", Result.OK, f"{version.strip()} at {program}")


def _data_folder(paths: PodctlPaths) -> Check:
    # The folder itself may not be there yet: then the nearest one above it has to let us make it.
    folder = next(each for each in (paths.data, *paths.data.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("data folder", Result.OK, str(paths.data))
    except OSError as error:
        advice = "give it to this user, or name another folder in PODCTL_DATA_DIR"
        return Check("data folder", Result.FAILED, f"{paths.data} cannot be written: {error.strerror}", advice)


def _pods_file(paths: PodctlPaths) -> Check:
    try:
        known = PodsFile(paths.pods_file).read()
    except BadInput as error:
        return Check("pods.json", Result.FAILED, str(error), "mend that line; podctl never overwrites a broken file")
    active = f", {known.active} is active" if known.active else ""
    return Check("pods.json", Result.OK, f"{len(known.pods)} pods{active} ({paths.pods_file})")


async def _server(paths: PodctlPaths, chosen: Target) -> list[Check]:
    try:
        client = await connect_to(chosen)
        found = [Check("server", Result.OK, f"{chosen.address}, namespace {client.namespace} ({chosen.source})")]
        return [*found, await _search_attributes(client), await _workers(paths, chosen, client)]
    except NoServer as error:
        return [Check("server", Result.FAILED, f"{chosen.address} does not answer", str(error))]
    except RPCError as error:
        return [Check("server", Result.FAILED, f"{chosen.address} refuses: {error}", f"check {chosen.source}")]


async def _search_attributes(client: Client) -> Check:
    missing = [key.name for key in await missing_search_attributes(client)]
    if not missing:
        return Check("search attributes", Result.OK, "all registered")
    advice = (
        "`podctl up` registers them on its own server; on a cluster an operator does: "
        "temporal operator search-attribute create (docker-compose.temporal.yml shows how)"
    )
    return Check("search attributes", Result.FAILED, f"missing: {', '.join(missing)}", advice)


async def _workers(paths: PodctlPaths, chosen: Target, client: Client) -> Check:
    found = await pollers(client, DEFAULT_TASK_QUEUE)
    processes = embedded.status(paths)
    start = "`podctl up` starts one on this machine, `podctl worker` another"
    if chosen.embedded and processes.worker is not None and not processes.worker_alive:
        # The server goes on listing a killed worker for minutes; the process tells at once.
        return Check("worker", Result.FAILED, f"process {processes.worker.process.pid} has ended", start)
    if not found:
        return Check("worker", Result.FAILED, f"none polls task queue {DEFAULT_TASK_QUEUE}", start)
    names = ", ".join(poller.identity for poller in found)
    return Check("worker", Result.OK, f"{names} (the server lists a worker for some minutes after its death)")


async def _ssh_keys() -> Check:
    usable, locked = [], []
    if socket := os.environ.get("SSH_AUTH_SOCK"):
        try:
            async with asyncssh.connect_agent(socket) as agent:
                usable += [f"{len(list(await agent.get_keys()))} in the agent"]
        except (OSError, ValueError):
            locked.append(f"the agent at {socket} does not answer")
    for key in _key_files():
        try:
            asyncssh.read_private_key(key)
            usable.append(key.name)
        except asyncssh.KeyEncryptionError:
            locked.append(f"{key.name} has a passphrase")
        except (asyncssh.KeyImportError, OSError):
            locked.append(f"{key.name} cannot be read")
    advice = "workers use the SSH agent and keys without a passphrase: ssh-add KEY, or pods with `ssh -i KEY …`"
    if not usable or usable == ["0 in the agent"]:
        return Check("SSH keys", Result.WARNING, "; ".join([*usable, *locked]) or "none", advice)
    return Check("SSH keys", Result.OK, "; ".join([*usable, *locked]))


def _key_files() -> Iterator[Path]:
    for public in sorted((Path.home() / ".ssh").glob("id_*.pub")):
        if public.with_suffix("").exists():
            yield public.with_suffix("")


def _other_people(paths: PodctlPaths) -> Check:
    others = [
        account.pw_name
        for account in pwd.getpwall()
        if account.pw_uid in PEOPLE
        and account.pw_uid != os.getuid()
        and Path(account.pw_shell).name not in {"nologin", "false", ""}
    ]
    if not others or not embedded.status(paths).server_alive:
        return Check("other people", Result.OK, f"{len(others)} other accounts can log in")
    advice = (
        "the server of `podctl up` asks nobody who they are: whoever can log in here can read and approve your tasks. "
        "Use a Temporal cluster (TEMPORAL_ADDRESS, docker-compose.temporal.yml) on a shared machine"
    )
    return Check("other people", Result.WARNING, f"can log in: {', '.join(others[:5])}", advice)
