"""Pods of this user: added with a pinned host key, moved, removed.

The pod's workflow owns everything about the machine; `pods.json` says which pods this user knows. Both are changed
here, the workflow first: what is in the file alone would be a pod that nobody watches.

```
HostKeyRefused      the host key that the machine shows is not the one that is accepted
```
"""

import shlex
from dataclasses import dataclass

from domain.gpu.commands import PodInput, Remove, SetAddress
from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import SshTarget, parse_ssh
from domain.ids import check_name
from podctl.client import AlreadyExists, ClientError, NotFound, PodctlClient, new_command_id
from podctl.pods_file import KnownPod, KnownPods, PodsFile
from remote.errors import Unreachable
from remote.ssh import HostKey, fetch_host_key


class HostKeyRefused(ClientError):
    """The machine shows a host key that was not accepted; nothing was changed."""

    def __init__(self, message: str, shown: HostKey) -> None:
        super().__init__(message)
        self.shown = shown


@dataclass(frozen=True)
class Added:
    """What adding a pod did."""

    name: str
    fingerprint: str
    #: False: the server had this very pod already, and only this user did not know it.
    registered: bool
    active: bool


async def add_pod(
    client: PodctlClient,
    file: PodsFile,
    name: str,
    ssh: str,
    *,
    fingerprint: str | None,
    by: str,
    task_queue: str | None = None,
) -> Added:
    """Register a machine under ``name`` and remember it; the first pod of a user becomes active.

    The host key is pinned if it has the ``fingerprint`` (``SHA256:…``) that the caller accepts; None accepts none and
    is the way to learn it. Raises ``HostKeyRefused``, BadInput for a name or SSH line that cannot be used,
    ``remote.errors.Unreachable``, and ``AlreadyExists`` if the name belongs to another machine.
    """
    check_name("pod", name)
    target = parse_ssh(ssh)
    file.read()  # a broken file is told before anything is registered
    key = await fetch_host_key(name, target)
    if key.fingerprint != fingerprint:
        first = f"pod {name}: {target.host} shows the host key {key.fingerprint}"
        second = f", not {fingerprint}" if fingerprint else ""
        then = (
            f"If that is the right one: podctl pods add {name} {shlex.quote(ssh)} --accept-host-key {key.fingerprint}"
        )
        raise HostKeyRefused(f"{first}{second}. {then}", key)
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
    return Added(name, key.fingerprint, registered, active=known.active == name)


async def set_pod(
    client: PodctlClient, file: PodsFile, name: str, ssh: str | None, *, fingerprint: str | None, by: str
) -> str:
    """Change a pod's address (None: it stays), and pin its host key anew if ``fingerprint`` is what it shows now.

    Returns the fingerprint that is pinned then. Without ``fingerprint`` the pinned key stays: the machine has to show
    that one, or not to answer yet, since every worker checks it before it says a word there. Raises as ``add_pod``
    does, and what ``PodctlClient.execute_pod`` raises.
    """
    target = parse_ssh(ssh) if ssh is not None else None
    before = await client.pod_address(name)
    pinned = HostKey.parse(before.host_key)
    try:
        shown = await fetch_host_key(name, target or before.ssh)
    except Unreachable:
        if fingerprint is not None or target is None:
            raise
        shown = pinned
    if shown.fingerprint != (fingerprint or pinned.fingerprint):
        address = f" {shlex.quote(ssh)}" if ssh is not None else ""
        accepted = f"accepted: {fingerprint}" if fingerprint else f"pinned: {pinned.fingerprint}"
        raise HostKeyRefused(
            f"pod {name}: the machine shows another host key. Shown: {shown.fingerprint}; {accepted}. If it was "
            f"rebuilt: podctl pods set {name}{address} --accept-host-key {shown.fingerprint}",
            shown,
        )
    changed = None if shown.fingerprint == pinned.fingerprint else shown.public
    await client.execute_pod(name, SetAddress(ssh=target or before.ssh, host_key=changed), by=by)
    _remember_address(file, name, target or before.ssh)
    return shown.fingerprint


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
