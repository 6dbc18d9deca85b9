"""SSH connections to GPU pods.

Invariants: one connection per pod and process, shared by all callers (channels are multiplexed), and another one only
when the machine lets no more channels into those that there are (sshd's ``MaxSessions``, 10 unless its owner says
otherwise); the host key is the pinned one or there is no connection; after a failed try the next one waits, longer each
time, so that a machine that comes back is not stormed.
"""

import asyncio
import contextlib
import errno
import random
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import SshTarget
from remote.errors import AuthenticationFailed, HostKeyChanged, RemoteError, SshSetupError, Unreachable
from remote.known_hosts import KnownHost, look_up
from remote.ssh_config import KEEPALIVE_COUNT, KEEPALIVE_INTERVAL, Hop, jump_hops, read_hop
from remote.ssh_keys import Keys, Passphrases, keys_for

#: Seconds before the first new try after a failed one; doubled each time up to the maximum, with jitter.
BACKOFF_FIRST = 0.5
BACKOFF_MAXIMUM = 15.0
#: Jump hosts before jump hosts, as ``~/.ssh/config`` may say; more is a ring.
_DEPTH_LIMIT = 8

_Connection = asyncssh.SSHClientConnection


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


@dataclass(frozen=True)
class ShownHostKey:
    """The host key that a machine shows now, and what this user's ``known_hosts`` files say of it."""

    key: HostKey
    #: Where that very key stands for the host; None: nowhere.
    known_at: str | None
    #: Another key that stands there instead, or that this one is revoked: a sentence with file and line.
    contradiction: str | None


async def fetch_host_key(
    pod: str, target: SshTarget, *, expected: HostKey | None = None, passphrases: Passphrases | None = None
) -> ShownHostKey:
    """Return the host key that the machine shows now, without logging in there (on jump hosts it logs in).

    A machine has several: asked for is the kind of the ``expected`` one, else of those that are known, if it has it.
    Raises ``Unreachable``, ``SshSetupError``, and for a jump host what ``connect`` raises.
    """
    way = _Way(pod, passphrases)
    hop = await asyncio.to_thread(read_hop, target)
    known = await asyncio.to_thread(look_up, hop.known_hosts_files, hop.host_key_name, hop.port)
    wished = [asyncssh.import_public_key(expected.public)] if expected else [known.key for known in known.keys]
    tunnel = await way.before(hop)
    try:
        return _shown(hop, known, await way.host_key(hop, tunnel, wished))
    except (OSError, asyncssh.Error, ValueError) as error:
        raise _failure(pod, hop, error) from error
    finally:
        if tunnel is not None:
            tunnel.abort()


async def connect(address: PodAddress, passphrases: Passphrases | None = None) -> _Connection:
    """Return a new connection to the pod, its host key checked against the pinned one.

    ``passphrases`` None: nobody is asked. Raises ``Unreachable``, ``AuthenticationFailed``, ``HostKeyChanged`` or
    ``SshSetupError``.
    """
    pinned = asyncssh.import_public_key(address.host_key)
    way = _Way(address.pod, passphrases)
    hop = await asyncio.to_thread(read_hop, address.ssh)
    tunnel = await way.before(hop)
    with _ended_on_error(tunnel):
        try:
            return await way.log_in(hop, tunnel, ([pinned], [], []), address.ssh)
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
            raise await _host_key_error(address, hop, way, tunnel, error) from error


class _Way:
    """The way to one machine: over its jump hosts, each logged in to and checked, to the machine itself."""

    def __init__(self, pod: str, passphrases: Passphrases | None) -> None:
        self._pod = pod
        self._passphrases = passphrases

    async def before(self, hop: Hop, depth: int = 0) -> _Connection | None:
        """Return a connection to the last jump host before ``hop``, None if there is none before it."""
        if hop.jump is None:
            return None
        if depth == _DEPTH_LIMIT:
            raise SshSetupError(f"{self._who} the jump hosts of {hop.name} in ~/.ssh/config go round in a ring")
        tunnel: _Connection | None = None
        for target in jump_hops(hop.jump):
            jump = await asyncio.to_thread(read_hop, target)
            if tunnel is None:
                tunnel = await self.before(jump, depth + 1)
            with _ended_on_error(tunnel):
                tunnel = await self._log_in_on_the_way(jump, tunnel)
        return tunnel

    async def log_in(
        self, hop: Hop, tunnel: _Connection | None, trusted: Sequence[Sequence[asyncssh.SSHKey]], target: SshTarget
    ) -> _Connection:
        """Return a connection to ``hop``, which owns the ``tunnel`` that it goes through.

        ``trusted`` are host keys, keys of authorities that may sign one, and revoked ones. Raises ``RemoteError``, and
        asyncssh's errors about the host key.
        """
        patience = _Patience(hop.timeout)
        asks = None if self._passphrases is None else patience.without(self._passphrases.of)
        async with keys_for(hop, asks) as keys:
            if not keys.pairs:
                raise AuthenticationFailed(
                    f"{self._who} there is no key to log in to {hop.shown} with: {self._help(keys)}"
                )
            try:
                async with patience.limit():
                    connection = await asyncssh.connect(
                        hop.name,
                        known_hosts=lambda *_: trusted,
                        client_keys=keys.pairs,
                        # Its keys are among those already, in their order.
                        agent_path="",
                        preferred_auth="publickey",
                        connect_timeout=None,
                        login_timeout=0,
                        keepalive_interval=target.keepalive_interval or KEEPALIVE_INTERVAL,
                        keepalive_count_max=target.keepalive_count or KEEPALIVE_COUNT,
                        tunnel=tunnel,
                        **hop.options,
                    )
            except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed):
                raise
            except asyncssh.PermissionDenied as error:
                raise AuthenticationFailed(
                    f"{self._who} {hop.shown} refused the login of {hop.user} ({error.reason}); {self._help(keys)}"
                ) from error
            except asyncssh.DisconnectError as error:
                if "authentication failures" in error.reason:
                    raise AuthenticationFailed(
                        f"{self._who} {hop.shown} refused to look at more keys ({error.reason}): name the one that "
                        f"opens it with podctl pods set {self._pod} 'ssh -i KEY -o IdentitiesOnly=yes …'; "
                        f"{keys.account()}"
                    ) from error
                raise _failure(self._pod, hop, error) from error
            except (OSError, asyncssh.Error, ValueError) as error:
                raise _failure(self._pod, hop, error) from error
        if tunnel is not None:
            connection.set_tunnel(tunnel)
        return connection

    async def host_key(
        self, hop: Hop, tunnel: _Connection | None, wished: Sequence[asyncssh.SSHKey]
    ) -> asyncssh.SSHKey:
        """Return the host key that ``hop`` shows, of a kind of the ``wished`` ones if it has that."""
        options = {name: value for name, value in hop.options.items() if name in {"port", "family", "proxy_command"}}
        kinds = [kind.decode() for key in wished for kind in key.sig_algorithms]
        if kinds:
            with contextlib.suppress(asyncssh.KeyExchangeFailed):
                return await self._host_key(hop, tunnel, server_host_key_algs=kinds, **options)
        return await self._host_key(hop, tunnel, **options)

    @staticmethod
    async def _host_key(hop: Hop, tunnel: _Connection | None, **options: Any) -> asyncssh.SSHKey:  # noqa: ANN401
        async with asyncio.timeout(hop.timeout):
            key = await asyncssh.get_server_host_key(hop.name, tunnel=tunnel, **options)
        if key is None:
            raise asyncssh.KeyExchangeFailed("it showed no host key")
        return key

    async def _log_in_on_the_way(self, jump: Hop, tunnel: _Connection | None) -> _Connection:
        known = await asyncio.to_thread(look_up, jump.known_hosts_files, jump.host_key_name, jump.port)
        trusted = [known.key for known in known.keys], known.authorities, [revoked.key for revoked in known.revoked]
        target = SshTarget(command=jump.name, host=jump.name)
        try:
            return await self.log_in(jump, tunnel, trusted, target)
        except (asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed) as error:
            raise await self._jump_not_trusted(jump, tunnel, known, error) from error
        except Unreachable as error:
            raise Unreachable(self._pod, f"on the way, at jump host {jump.name}: {error.reason}") from error

    async def _jump_not_trusted(
        self, jump: Hop, tunnel: _Connection | None, known: KnownHost, error: asyncssh.Error
    ) -> RemoteError:
        try:
            shown = _shown(jump, known, await self.host_key(jump, tunnel, [known.key for known in known.keys]))
        except (OSError, asyncssh.Error):
            return _failure(self._pod, jump, error)
        if shown.contradiction:
            return HostKeyChanged(
                f"{self._who} jump host {jump.shown} shows the host key {shown.key.fingerprint}, but "
                f"{shown.contradiction}. If it was rebuilt: ssh-keygen -R "
                f"{_host_pattern(jump)}, then log in once with ssh. If not, somebody may be listening in"
            )
        if shown.known_at:
            return _failure(self._pod, jump, error)
        return SshSetupError(
            f"{self._who} nothing here knows the host key {shown.key.fingerprint} of jump host {jump.shown}. Log in "
            f"there once with ssh from this machine, and accept the key if it is the right one: ssh -p {jump.port} "
            f"{jump.user}@{jump.host}"
        )

    def _help(self, keys: Keys) -> str:
        return (
            f"{keys.account()}. Name the key with podctl pods set {self._pod} 'ssh -i KEY …', or load it into the SSH "
            "agent (ssh-add KEY)"
        )

    @property
    def _who(self) -> str:
        return f"pod {self._pod}:"


@contextlib.contextmanager
def _ended_on_error(tunnel: _Connection | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if tunnel is not None:
            tunnel.abort()
        raise


class _Patience:
    """Limits how long a block may take, in seconds; the time in which a person types does not count."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    def limit(self) -> asyncio.Timeout:
        """Return the context manager of the one block."""
        self._timeout = asyncio.timeout(self._seconds)
        return self._timeout

    def without(self, ask: Callable[[str], Awaitable[str]]) -> Callable[[str], Awaitable[str]]:
        """Return ``ask`` so that it takes none of the time."""

        async def asked(file: str) -> str:
            limited = self._timeout.when() is not None
            if not limited:
                return await ask(file)
            self._timeout.reschedule(None)
            try:
                return await ask(file)
            finally:
                self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)

        return asked


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

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, passphrases: Passphrases | None = None) -> None:
        """``passphrases`` asks a person for those of encrypted keys; without, as in a worker, nobody is asked."""
        self._slots: dict[str, _Slot] = {}
        self._clock = clock
        self._passphrases = passphrases

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
                connection = await connect(address, self._passphrases)
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


def _shown(hop: Hop, known: KnownHost, key: asyncssh.SSHKey) -> ShownHostKey:
    trusted, other, revoked = known.trusts(key), known.contradicts(key), known.revokes(key)
    contradiction = None
    if revoked is not None:
        contradiction = f"{revoked.place} says that this key was revoked"
    elif other is not None:
        contradiction = f"{other.place} has another one for {hop.host_key_name}: {other.key.get_fingerprint()}"
    return ShownHostKey(HostKey.of(key), trusted.place if trusted else None, contradiction)


def _host_pattern(hop: Hop) -> str:
    name = hop.host_key_name
    return name if hop.port == asyncssh.DEFAULT_PORT else f"'[{name}]:{hop.port}'"


async def _host_key_error(
    address: PodAddress, hop: Hop, way: _Way, tunnel: _Connection | None, error: asyncssh.Error
) -> RemoteError:
    pinned = asyncssh.import_public_key(address.host_key)
    try:
        key = await way.host_key(hop, tunnel, [pinned])
    except (OSError, asyncssh.Error):
        return _failure(address.pod, hop, error)
    shown, wanted = key.get_fingerprint(), pinned.get_fingerprint()
    if shown == wanted:
        return _failure(address.pod, hop, error)
    return HostKeyChanged(
        f"pod {address.pod}: the host key of {hop.shown} has changed. Pinned: {wanted}; shown now: "
        f"{shown}. If the machine was rebuilt, pin the new one with: podctl pods set {address.pod} "
        f"--accept-host-key {shown}. If not, somebody may be listening in"
    )


def _failure(pod: str, hop: Hop, error: BaseException) -> RemoteError:
    """Return what went wrong on the way to ``hop``: what, where, what to do next."""
    if isinstance(error, ValueError):
        return SshSetupError(f"pod {pod}: SSH to {hop.shown} cannot be set up here: {error}. Look at ~/.ssh/config")
    if hop.proxy_command and isinstance(error, FileNotFoundError):
        return SshSetupError(
            f"pod {pod}: the ProxyCommand of {hop.shown} in ~/.ssh/config names a program that is not here: "
            f"{error.filename or error}"
        )
    if isinstance(error, asyncssh.KeyExchangeFailed):
        offered = error.reason.partition(" and received ")[2]
        return SshSetupError(
            f"pod {pod}: {hop.shown} and podctl have no algorithm in common"
            f"{f'; it offers {offered}' if offered else f': {error.reason}'}. Old servers need more in "
            "~/.ssh/config: KexAlgorithms, HostKeyAlgorithms, Ciphers or MACs"
        )
    return Unreachable(pod, _reason(hop, error))


def _reason(hop: Hop, error: BaseException) -> str:
    where = hop.shown
    match error:
        case OSError():
            return _os_reason(hop, error)
        case asyncssh.ChannelOpenError():
            return (
                f"jump host {hop.jump} makes no connection to {where}: {error.reason}. Look from there, or at its "
                "AllowTcpForwarding"
            )
        case asyncssh.ConnectionLost():
            return _hung_up(hop)
        case asyncssh.DisconnectError():
            return f"{where} says: {error.reason or type(error).__name__}"
        case _:
            return f"{where}: {error or type(error).__name__}"


def _hung_up(hop: Hop) -> str:
    return (
        f"{hop.shown} ended the connection before the login: too many at once there, no SSH server on that "
        "port, or no algorithm in common (its log says)"
    )


def _os_reason(hop: Hop, error: OSError) -> str:
    where = hop.shown
    moved = "Rented machines move: podctl pods set gives the new address"
    if isinstance(error, TimeoutError):
        return f"no answer from {where} within {hop.timeout:.0f} s. Is it running, and its port open? {moved}"
    if isinstance(error, socket.gaierror):
        return f"the name {hop.host} is not known here ({error.strerror}). Is it spelt right, or in ~/.ssh/config?"
    # Where a name has several addresses, asyncio tells of each in words only.
    if error.errno == errno.ECONNREFUSED or f"Errno {errno.ECONNREFUSED}" in str(error):
        return f"{where} refuses connections. Does sshd run there, on that port? {moved}"
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return _hung_up(hop)
    if error.errno in {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return f"there is no way to {where} from here ({error.strerror}). {moved}"
    return f"{where}: {error.strerror or error}"
