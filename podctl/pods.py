"""Pods of this user: added with a pinned host key, moved, removed.

The pod's workflow owns everything about the machine; `pods.json` says which pods this user knows. Both are changed
here, the workflow first: what is in the file alone would be a pod that nobody watches.

```
HostKeyRefused      the host key that the machine shows is not the one that is accepted
```
"""

import shlex
from dataclasses import dataclass

from domain.errors import BadInput
from domain.gpu.commands import PodInput, Remove, SetAddress, SetTaskQueue
from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import SshTarget, parse_ssh
from domain.ids import check_name
from podctl.client import AlreadyExists, ClientError, NotFound, PodctlClient, new_command_id
from podctl.pods_file import KnownPod, KnownPods, PodsFile
from remote.errors import Unreachable
from remote.ssh import HostKey, ShownHostKey, fetch_host_key
from remote.ssh_keys import Passphrases
from workflows.task_queues import DEFAULT_TASK_QUEUE


class HostKeyRefused(ClientError):
    """The machine shows a host key that was not accepted; nothing was changed.

    ``contradiction`` says where this user's OpenSSH knows another key for it.
    """

    def __init__(self, message: str, shown: ShownHostKey) -> None:
        super().__init__(message)
        self.shown = shown.key
        self.contradiction = shown.contradiction


@dataclass(frozen=True)
class Added:
    """What adding a pod did."""

    name: str
    fingerprint: str
    #: False: the server had this very pod already, and only this user did not know it.
    registered: bool
    active: bool
    #: Where this user's OpenSSH knew the host key already: nobody had to accept it. None: a fingerprint was accepted.
    known_at: str | None
    #: What the SSH line asks for beyond reaching the machine.
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Pinned:
    """What changing a pod's address did: the fields are those of ``Added``."""

    fingerprint: str
    known_at: str | None
    left_out: tuple[str, ...]


async def add_pod(  # noqa: PLR0913 - what a person may say of a machine
    client: PodctlClient,
    file: PodsFile,
    name: str,
    ssh: str,
    *,
    fingerprint: str | None,
    by: str,
    task_queue: str | None = None,
    passphrases: Passphrases | None = None,
) -> Added:
    """Register a machine under ``name`` and remember it; the first pod of a user becomes active.

    The host key is pinned if it has the ``fingerprint`` (``SHA256:…``) that the caller accepts; None accepts what this
    user's ``known_hosts`` has for the machine, else none, and is the way to learn it. Raises ``HostKeyRefused``,
    BadInput for a name or SSH line that cannot be used, ``remote.errors.Unreachable``, and ``AlreadyExists`` if the
    name belongs to another machine.
    """
    check_name("pod", name)
    target = parse_ssh(ssh)
    file.read()  # a broken file is told before anything is registered
    shown = await fetch_host_key(name, target, passphrases=passphrases)
    key = shown.key
    if fingerprint != key.fingerprint and not (fingerprint is None and shown.known_at):
        first = f"pod {name}: {target.host} shows the host key {key.fingerprint}"
        second = f", not {fingerprint}" if fingerprint else ""
        third = f", but {shown.contradiction}" if shown.contradiction else ""
        then = (
            f"If that is the right one: podctl pods add {name} {shlex.quote(ssh)} --accept-host-key {key.fingerprint}"
        )
        raise HostKeyRefused(f"{first}{second}{third}. {then}", shown)
    registered = True
    try:
        await client.register_pod(
            PodInput(
                name=name, ssh=target, host_key=key.public, task_queue=task_queue, by=by, command_id=new_command_id()
            )
        )
    except AlreadyExists:
        if not _same_machine(await client.pod_address(name), target, key):
            raise
        registered = False
    known = _remember_address(file, name, target)
    return Added(
        name,
        key.fingerprint,
        registered,
        active=known.active == name,
        known_at=None if fingerprint else shown.known_at,
        left_out=target.left_out,
    )


async def pinned_fingerprint(client: PodctlClient, name: str) -> str | None:
    """Return the fingerprint of the host key that is pinned for a pod; None if the server has no such pod."""
    try:
        return HostKey.parse((await client.pod_address(name)).host_key).fingerprint
    except NotFound:
        return None


async def set_pod(
    client: PodctlClient,
    file: PodsFile,
    name: str,
    ssh: str | None,
    *,
    fingerprint: str | None,
    by: str,
    passphrases: Passphrases | None = None,
) -> Pinned:
    """Change a pod's address (None: it stays), and pin its host key anew if ``fingerprint`` is what it shows now.

    Without ``fingerprint`` the pinned key stays: the machine has to show that one, or one that this user's
    ``known_hosts`` has for a new address, or not to answer yet, since every worker checks it before it says a word
    there. Raises as ``add_pod`` does, and what ``PodctlClient.execute_pod`` raises.
    """
    target = parse_ssh(ssh) if ssh is not None else None
    before = await client.pod_address(name)
    pinned = HostKey.parse(before.host_key)
    wanted = fingerprint or pinned.fingerprint
    try:
        # A new address may be another machine's: then its own known key counts, whatever its kind.
        shown = await fetch_host_key(name, target or before.ssh, expected=pinned, passphrases=passphrases)
        if shown.key.fingerprint != wanted:
            shown = await fetch_host_key(name, target or before.ssh, passphrases=passphrases)
    except Unreachable:
        if fingerprint is not None or target is None:
            raise
        shown = ShownHostKey(pinned, known_at=None, contradiction=None)
    known = target is not None and fingerprint is None and shown.known_at is not None
    if shown.key.fingerprint != wanted and not known:
        address = f" {shlex.quote(ssh)}" if ssh is not None else ""
        accepted = f"accepted: {fingerprint}" if fingerprint else f"pinned: {pinned.fingerprint}"
        other = f"; and {shown.contradiction}" if shown.contradiction else ""
        raise HostKeyRefused(
            f"pod {name}: the machine shows another host key. Shown: {shown.key.fingerprint}; {accepted}{other}. If it "
            f"was rebuilt: podctl pods set {name}{address} --accept-host-key {shown.key.fingerprint}",
            shown,
        )
    new = shown.key.fingerprint != pinned.fingerprint
    command = SetAddress(ssh=target or before.ssh, host_key=shown.key.public if new else None)
    await client.execute_pod(name, command, by=by)
    _remember_address(file, name, target or before.ssh)
    return Pinned(
        shown.key.fingerprint,
        known_at=shown.known_at if known and new else None,
        left_out=target.left_out if target is not None else (),
    )


async def set_task_queue(client: PodctlClient, name: str, queue: str, *, by: str) -> None:
    """Let the workers of ``queue`` do everything on the machine; the common queue is named as every other.

    Raises BadInput, and what ``PodctlClient.execute_pod`` raises.
    """
    if not queue.strip() or len(queue) > 200:
        raise BadInput("a task queue's name is 1 to 200 characters")
    await client.execute_pod(name, SetTaskQueue(task_queue=None if queue == DEFAULT_TASK_QUEUE else queue), by=by)


async def remove_pod(client: PodctlClient, file: PodsFile, name: str, *, lost: bool, by: str) -> bool:
    """End a pod's workflow and forget the pod; return whether the server still had it.

    ``lost``: the machine is gone with everything on it. Raises ``Refused`` while servers run there, ``NotFound`` if
    neither the server nor the file knows it.
    """
    known = file.read()
    existed = True
    try:
        await client.execute_pod(name, Remove(lost=lost), by=by)
    except NotFound:
        if name not in known.pods:
            raise
        existed = False
    if name in known.pods:
        file.remove(name)
    return existed


def _remember_address(file: PodsFile, name: str, target: SshTarget) -> KnownPods:
    """Write a pod's address into the file: the server has just confirmed it, whatever stood there before."""
    if name in file.read().pods:
        return file.update(name, ssh=target.command)
    return file.add(name, KnownPod(ssh=target.command))


def _same_machine(registered: PodAddress, target: SshTarget, key: HostKey) -> bool:
    return registered.host_key == key.public and (registered.ssh.host, registered.ssh.port, registered.ssh.user) == (
        target.host,
        target.port,
        target.user,
    )
