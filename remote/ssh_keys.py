"""The keys that are tried on an SSH server, in OpenSSH's manner, and the passphrases that only a person can give.

Tried in this order: the keys that the line or ``~/.ssh/config`` names (held by the agent, or their files), with their
certificates first; the agent's other keys, unless ``IdentitiesOnly``; and where nothing is named the default files
last. A passphrase is asked for only once the server has said that it would take that key.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from remote.ssh_config import Hop

#: How often a person may mistype a passphrase, as with OpenSSH.
_TRIES = 3

Ask = Callable[[str], Awaitable[str | None]]
PassphraseOf = Callable[[str], Awaitable[str]]


class NoPassphrase(ValueError):
    """Nobody gave the right passphrase: the key is not tried. asyncssh goes on to the next one upon a ValueError."""


class Passphrases:
    """Asks a person for the passphrase of each key file once, and keeps the answers in memory, nowhere else."""

    def __init__(self, ask: Ask) -> None:
        """``ask`` shows its argument and returns what was typed, None if nobody is there."""
        self._ask = ask
        self._given: dict[str, str] = {}
        self._refused: set[str] = set()
        self._lock = asyncio.Lock()

    async def of(self, file: str) -> str:
        """Return the passphrase of a key file, tried out. Raises ``NoPassphrase``, from then on at once."""
        # The lock keeps two connections from asking at once, and the second from asking at all.
        async with self._lock:
            if file not in self._given and file not in self._refused:
                await self._ask_for(file)
            if file in self._refused:
                raise NoPassphrase(f"no passphrase for {file}")
            return self._given[file]

    async def _ask_for(self, file: str) -> None:
        for number in range(_TRIES):
            again = "" if number == 0 else "that is not it. "
            answer = await self._ask(f"{again}Passphrase of {file}: ")
            if not answer:
                break
            with contextlib.suppress(ValueError):
                await asyncio.to_thread(asyncssh.read_private_key, file, answer)
                self._given[file] = answer
                return
        self._refused.add(file)


@dataclass
class Keys:
    """Key pairs in the order in which they are tried, and what was looked at, for the error if none is taken."""

    pairs: list[asyncssh.SSHKeyPair] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    #: What was not tried, and why.
    passed_over: list[str] = field(default_factory=list)

    def accounted(self, passphrase: PassphraseOf) -> PassphraseOf:
        """Return ``passphrase``, with a key that got none counted as one that was not tried."""

        async def ask(file: str) -> str:
            try:
                return await passphrase(file)
            except NoPassphrase as error:
                self.tried = [tried for tried in self.tried if tried != file]
                self.passed_over.append(str(error))
                raise

        return ask

    def account(self) -> str:
        """Return what was tried and what was not, as words."""
        tried = ", ".join(self.tried) or "nothing"
        return f"tried: {tried}" + (f"; not tried: {'; '.join(self.passed_over)}" if self.passed_over else "")


@contextlib.asynccontextmanager
async def keys_for(hop: Hop, passphrase: PassphraseOf | None) -> AsyncIterator[Keys]:
    """Give the keys for a server; the agent's work while the context lasts. ``passphrase`` None: nobody is asked."""
    async with contextlib.AsyncExitStack() as stack:
        keys = Keys()
        ask = None if passphrase is None else keys.accounted(passphrase)
        agent = await _open_agent(hop.agent, stack, keys)
        held = list(await agent.get_keys()) if agent else []
        certificates = _certificates(hop, keys)
        used: set[bytes] = set()
        for path in hop.identity_files:
            public = _public_key(path)
            in_agent = (
                agent is not None and public is not None and any(p.public_data == public.public_data for p in held)
            )
            if agent is not None and public is not None and in_agent:
                keys.pairs += await _from_agent(agent, public, [*_own_certificate(path), *certificates])
                keys.tried.append(f"{path} (in the SSH agent)")
                used.add(public.public_data)
            elif not hop.default_identities:
                await _add_file(keys, path, certificates, ask)
        if not hop.identities_only:
            others = [pair for pair in held if pair.public_data not in used]
            keys.pairs += others
            if others:
                keys.tried.append(f"{len(others)} {'other ' if used else ''}keys of the SSH agent")
        if hop.default_identities:
            for path in hop.identity_files:
                public = _public_key(path)
                if path.exists() and (public is None or public.public_data not in used):
                    await _add_file(keys, path, certificates, ask)
        yield keys


async def _open_agent(path: str | None, stack: contextlib.AsyncExitStack, keys: Keys) -> asyncssh.SSHAgentClient | None:
    if not path:
        return None
    try:
        agent: asyncssh.SSHAgentClient = await stack.enter_async_context(asyncssh.connect_agent(path))
        await agent.get_keys()
    except (OSError, ValueError, asyncssh.Error) as error:
        keys.passed_over.append(f"the SSH agent at {path} does not answer ({error})")
        return None
    return agent


async def _from_agent(
    agent: asyncssh.SSHAgentClient, public: asyncssh.SSHKey, certificates: Sequence[asyncssh.SSHCertificate]
) -> list[asyncssh.SSHKeyPair]:
    """Return the agent's key, with each certificate of it first."""
    pairs = []
    for certificate in certificates:
        if certificate.key.public_data == public.public_data:
            # A pair of its own for each: a certificate changes the pair that it is set on.
            pair = await _agents_pair(agent, public)
            pair.set_certificate(certificate)
            pairs.append(pair)
    return [*pairs, await _agents_pair(agent, public)]


async def _agents_pair(agent: asyncssh.SSHAgentClient, public: asyncssh.SSHKey) -> asyncssh.SSHKeyPair:
    return next(iter(await agent.get_keys([public.public_data])))


async def _add_file(
    keys: Keys, path: Path, certificates: Sequence[asyncssh.SSHCertificate], passphrase: PassphraseOf | None
) -> None:
    try:
        pairs = await _from_file(path, certificates, passphrase)
    except (OSError, ValueError) as error:
        keys.passed_over.append(_why_not(path, error))
    else:
        keys.pairs += pairs
        keys.tried.append(str(path))


class _NotUsable(ValueError):
    """Says itself why a key file is not used, and what to do."""


async def _from_file(
    path: Path, certificates: Sequence[asyncssh.SSHCertificate], passphrase: PassphraseOf | None
) -> Sequence[asyncssh.SSHKeyPair]:
    if not await asyncio.to_thread(_is_locked, path):
        return await asyncio.to_thread(asyncssh.load_keypairs, [str(path)], None, list(certificates))
    if passphrase is None:
        raise _NotUsable(
            f"{path} has a passphrase, which workers never ask for: load it into the SSH agent (ssh-add {path})"
        )
    if _public_key(path) is None:
        # Nothing that could be offered without decrypting it.
        key = asyncssh.read_private_key(path, await passphrase(str(path)))
        return asyncssh.load_keypairs([key], certlist=list(certificates))
    later: Any = passphrase  # asyncssh's types leave out what it documents: a coroutine function that it calls later
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(asyncssh.load_keypairs, [str(path)], later, list(certificates), loop=loop)


def _is_locked(path: Path) -> bool:
    """Return whether a private key has a passphrase. Raises ValueError and OSError if the file cannot be used."""
    locked = False
    try:
        asyncssh.read_private_key(path)
    except asyncssh.KeyImportError as error:
        locked = str(error).startswith("Passphrase")
        if not locked and _public_key(path) is not None:
            raise _NotUsable(f"{path} is a public key, and the SSH agent does not hold it: ssh-add it") from error
        if not locked:
            raise
    status = path.stat()
    if status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise _NotUsable(f"{path} may be read by others, so ssh would not use it either: chmod 600 {path}")
    return locked


def _why_not(path: Path, error: Exception) -> str:
    if isinstance(error, (_NotUsable, NoPassphrase)):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no key file {path} here"
    if isinstance(error, OSError):
        return f"the key file {path} cannot be read: {error.strerror}"
    return f"the key file {path} cannot be used: {error}"


def _public_key(path: Path) -> asyncssh.SSHKey | None:
    """Return the public part of a key as far as it can be read without a passphrase."""
    for name in (f"{path}.pub", str(path)):
        with contextlib.suppress(OSError, ValueError):
            return asyncssh.read_public_key(name)
    with contextlib.suppress(OSError, ValueError):
        return asyncssh.read_private_key(path).convert_to_public()
    return None


def _own_certificate(path: Path) -> list[asyncssh.SSHCertificate]:
    with contextlib.suppress(OSError, ValueError):
        return [asyncssh.read_certificate(f"{path}-cert.pub")]
    return []


def _certificates(hop: Hop, keys: Keys) -> list[asyncssh.SSHCertificate]:
    found = []
    for path in hop.certificate_files:
        try:
            found.append(asyncssh.read_certificate(path))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            keys.passed_over.append(f"the certificate {path} cannot be used: {reason}")
    return found
