"""SSH connections to GPU pods.

Invariants: one connection per pod and process, shared by all callers (channels are multiplexed), and another one only
when the machine lets no more channels into those that there are (sshd's ``MaxSessions``, 10 unless its owner says
otherwise); the host key is the pinned one or there is no connection; after a failed try the next one waits, longer each
time, so that a machine that comes back is not stormed.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import SshTarget
from remote.errors import AuthenticationFailed, HostKeyChanged, RemoteError, Unreachable

#: A connection that answered none of KEEPALIVE_COUNT requests, KEEPALIVE_INTERVAL seconds apart, is dead.
KEEPALIVE_INTERVAL = 3.0
KEEPALIVE_COUNT = 3
#: Seconds for TCP connect and for SSH key exchange with authentication, each.
CONNECT_TIMEOUT = 10.0
#: Seconds before the first new try after a failed one; doubled each time up to the maximum, with jitter.
BACKOFF_FIRST = 0.5
BACKOFF_MAXIMUM = 15.0


@dataclass(frozen=True)
class HostKey:
    """A machine's public host key in OpenSSH format (type and base64), and its SHA256 fingerprint."""

    public: str
    fingerprint: str

    @classmethod
    def of(cls, key: asyncssh.SSHKey) -> "HostKey":
        """Return the public part of ``key``, without its comment."""
        public = " ".join(key.export_public_key().decode().split()[:2])
        return cls(public=public, fingerprint=key.get_fingerprint())

    @classmethod
    def parse(cls, public: str) -> "HostKey":
        """Return the host key that ``public`` (OpenSSH format) says."""
        return cls.of(asyncssh.import_public_key(public))


async def fetch_host_key(pod: str, target: SshTarget) -> HostKey:
    """Return the host key that the machine shows now, without authenticating. Raises ``Unreachable``."""
    options = _address_options(target)
    options.pop("username", None)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            key = await asyncssh.get_server_host_key(target.host, **options)
    except TimeoutError:
        raise Unreachable(pod, f"no answer from {target.host} within {CONNECT_TIMEOUT:.0f} s") from None
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(pod, _reason(error)) from error
    if key is None:
        raise Unreachable(pod, f"{target.host} showed no host key")
    return HostKey.of(key)


async def connect(address: PodAddress) -> asyncssh.SSHClientConnection:
    """Return a new connection to the pod, its host key checked against the pinned one.

    Raises ``Unreachable``, ``AuthenticationFailed`` or ``HostKeyChanged``.
    """
    pinned = asyncssh.import_public_key(address.host_key)

    def trusted(_host: str, _address: str, _port: int | None) -> tuple[list[asyncssh.SSHKey], list[Any], list[Any]]:
        return [pinned], [], []

    options = _address_options(address.ssh)
    identity_files = _identity_files(address.ssh)
    if identity_files:
        options["client_keys"] = identity_files
    try:
        async with asyncio.timeout(2 * CONNECT_TIMEOUT):
            return await asyncssh.connect(
                address.ssh.host,
                known_hosts=trusted,
                connect_timeout=CONNECT_TIMEOUT,
                login_timeout=CONNECT_TIMEOUT,
                keepalive_interval=KEEPALIVE_INTERVAL,
                keepalive_count_max=KEEPALIVE_COUNT,
                **options,
            )
    except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
        raise await _host_key_error(address, error) from error
    except asyncssh.PermissionDenied as error:
        keys = ", ".join(identity_files) or "the SSH agent and the default keys"
        raise AuthenticationFailed(
            f"pod {address.pod}: {address.ssh.host} refused the login ({error.reason}); tried {keys}. Give the key "
            f"with podctl pods set {address.pod} 'ssh -i KEY …', or load it into the SSH agent"
        ) from error
    except asyncssh.KeyImportError as error:
        raise AuthenticationFailed(
            f"pod {address.pod}: a key file cannot be used ({error}). Workers never ask for a passphrase: load an "
            "encrypted key into the SSH agent"
        ) from error
    except FileNotFoundError as error:
        raise AuthenticationFailed(
            f"pod {address.pod}: this process has no key file {error.filename}; another worker may have it"
        ) from error
    except TimeoutError as error:
        raise Unreachable(address.pod, f"no answer from {address.ssh.host}") from error
    except (OSError, asyncssh.Error) as error:
        raise Unreachable(address.pod, _reason(error)) from error


@dataclass
class _Slot:
    """The connections of a pod, and when the next try may be made."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    address: PodAddress | None = None
    connections: list[asyncssh.SSHClientConnection] = field(default_factory=list)
    failures: int = 0
    next_try: float = 0.0
    last_error: RemoteError | None = None


class SshPool:
    """Shared connections to pods."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots: dict[str, _Slot] = {}
        self._clock = clock

    async def connection(
        self, address: PodAddress, full: Collection[asyncssh.SSHClientConnection] = ()
    ) -> asyncssh.SSHClientConnection:
        """Return a living connection to the pod that is none of ``full``, making one if there is none.

        While the pause after a failed try lasts, raises that try's error again (``Unreachable.retry_after`` says how
        long). Raises what ``connect`` raises.
        """
        slot = self._slots.setdefault(address.pod, _Slot())
        # The lock makes callers who arrive while a connection is being made wait for that one, not make their own.
        async with slot.lock:
            if slot.address != address:
                self._drop(slot)
                slot.address, slot.failures, slot.next_try = address, 0, 0.0
            slot.connections = [connection for connection in slot.connections if not connection.is_closed()]
            for connection in slot.connections:
                if connection not in full:
                    return connection
            wait = slot.next_try - self._clock()
            if wait > 0 and slot.last_error is not None:
                if isinstance(slot.last_error, Unreachable):
                    raise Unreachable(address.pod, slot.last_error.reason, retry_after=wait)
                raise slot.last_error
            try:
                connection = await connect(address)
            except RemoteError as error:
                pause = self._pause_after(slot.failures)
                slot.failures += 1
                slot.next_try = self._clock() + pause
                slot.last_error = error
                if isinstance(error, Unreachable):
                    error.retry_after = pause
                raise
            slot.connections.append(connection)
            slot.failures, slot.next_try, slot.last_error = 0, 0.0, None
            return connection

    async def close(self) -> None:
        """Close every connection. Work on the pods goes on."""
        slots, self._slots = list(self._slots.values()), {}
        dropped = [connection for slot in slots for connection in self._drop(slot)]
        await asyncio.gather(*(connection.wait_closed() for connection in dropped), return_exceptions=True)

    @staticmethod
    def _pause_after(failures: int) -> float:
        # Full jitter over the upper half: workers that lost the machine together do not come back together.
        ceiling = min(BACKOFF_MAXIMUM, BACKOFF_FIRST * 2.0 ** min(failures, 10))
        return ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing

    @staticmethod
    def _drop(slot: _Slot) -> list[asyncssh.SSHClientConnection]:
        dropped, slot.connections = slot.connections, []
        for connection in dropped:
            connection.abort()
        return dropped


def _identity_files(target: SshTarget) -> list[str]:
    return [str(Path(name).expanduser()) for name in target.identity_files]


def _address_options(target: SshTarget) -> dict[str, Any]:
    """Return only what the user named: what is absent comes from ``~/.ssh/config``, as with OpenSSH."""
    options: dict[str, Any] = {}
    if target.port is not None:
        options["port"] = target.port
    if target.user is not None:
        options["username"] = target.user
    if target.jump is not None:
        options["tunnel"] = target.jump
    return options


async def _host_key_error(address: PodAddress, error: asyncssh.Error) -> RemoteError:
    pinned = HostKey.parse(address.host_key)
    try:
        shown = (await fetch_host_key(address.pod, address.ssh)).fingerprint
    except Unreachable:
        return Unreachable(address.pod, _reason(error))
    if shown == pinned.fingerprint:
        return Unreachable(address.pod, _reason(error))
    return HostKeyChanged(
        f"pod {address.pod}: the host key of {address.ssh.host} has changed. Pinned: {pinned.fingerprint}; shown now: "
        f"{shown}. If the machine was rebuilt, pin the new one with: podctl pods set {address.pod} "
        f"--accept-host-key {shown}. If not, somebody may be listening in"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncssh.DisconnectError):
        return error.reason or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
