"""What this user's OpenSSH knows of a host: its keys in ``known_hosts`` files, read line by line.

A line that cannot be read is skipped, as OpenSSH does; asyncssh would refuse the whole file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

_PATTERN_CHARACTERS = frozenset("|*?!/")


@dataclass(frozen=True)
class KnownKey:
    """A key that stands for the host, and where: ``/home/ann/.ssh/known_hosts line 3``."""

    key: asyncssh.SSHKey
    place: str


@dataclass(frozen=True)
class KnownHost:
    """Everything that stands for one host."""

    keys: tuple[KnownKey, ...] = ()
    #: Keys of authorities that may sign the host's key.
    authorities: tuple[asyncssh.SSHKey, ...] = ()
    revoked: tuple[KnownKey, ...] = ()

    def trusts(self, key: asyncssh.SSHKey) -> KnownKey | None:
        """Return the entry with this very key, unless it is revoked."""
        if self.revokes(key):
            return None
        return next((known for known in self.keys if known.key.public_data == key.public_data), None)

    def contradicts(self, key: asyncssh.SSHKey) -> KnownKey | None:
        """Return an entry with another key of the same type; one of another type says nothing about this one."""
        if self.trusts(key):
            return None
        return next((known for known in self.keys if known.key.algorithm == key.algorithm), None)

    def revokes(self, key: asyncssh.SSHKey) -> KnownKey | None:
        """Return the entry that revokes this key."""
        return next((known for known in self.revoked if known.key.public_data == key.public_data), None)


def look_up(files: Sequence[Path], name: str, port: int) -> KnownHost:
    """Return what the files say of a host; a file that is missing or cannot be read says nothing."""
    keys: list[KnownKey] = []
    authorities: list[asyncssh.SSHKey] = []
    revoked: list[KnownKey] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found = _match(line, name.lower(), port)
            if found is not None:
                place = f"{file} line {number}"
                keys += [KnownKey(key, place) for key in found[0]]
                authorities += found[1]
                revoked += [KnownKey(key, place) for key in found[2]]
    return KnownHost(tuple(keys), tuple(authorities), tuple(revoked))


def _match(
    line: str, name: str, port: int
) -> tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]] | None:
    words = line.split()
    hosts = words[1] if words and words[0].startswith("@") and len(words) > 1 else words[0] if words else "#"
    # Most lines of a long file are about others: their keys need not be read.
    if hosts.startswith("#") or not (_PATTERN_CHARACTERS & set(hosts) or name in hosts.lower()):
        return None
    if not hosts.startswith("|"):
        line = line.replace(hosts, hosts.lower(), 1)
    try:
        entry = asyncssh.import_known_hosts(line)
        found = entry.match(name, "", None if port == asyncssh.DEFAULT_PORT else port)
    except ValueError:
        return None
    return found[0], found[1], found[2]
