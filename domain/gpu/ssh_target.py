"""SSH lines as people paste them, split into words and understood here; never handed to a shell."""

import re
import shlex
from collections.abc import Iterator

from domain.entity import Value
from domain.errors import BadInput

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,252}\$?")
#: ssh's own options (getopt string of OpenSSH 9.9); those with a value, and those without.
_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_FLAGS = frozenset("1246AaCfGgKkMNnqsTtVvXxYy")
_ADVICE = {
    "A": "agent forwarding is not used",
    "D": "podctl forwards what it needs itself",
    "F": "put the host into ~/.ssh/config instead",
    "L": "podctl forwards what it needs itself",
    "R": "podctl forwards what it needs itself",
    "StrictHostKeyChecking": "podctl pins the host key when a pod is added, and never skips the check",
    "UserKnownHostsFile": "podctl pins the host key when a pod is added",
}
_LENGTH_LIMIT = 2_000


class SshTarget(Value):
    """How a machine is reached: what the person pasted, and what it means.

    ``host`` is a name, an address or an alias of ``~/.ssh/config``; what is None is left to that file.
    """

    command: str
    host: str
    port: int | None = None
    user: str | None = None
    identity_files: tuple[str, ...] = ()
    #: Jump hosts as ``[user@]host[:port]``, comma-separated, first hop first.
    jump: str | None = None


def parse_ssh(text: str) -> SshTarget:
    """Return what an SSH line means: ``ssh -p 2222 -i key -J jump root@host``, ``root@host``, or an alias.

    Raises BadInput for what is not such a line, and for each option that podctl does not honour, by name.
    """
    command = text.strip()
    if len(command) > _LENGTH_LIMIT or any(ord(c) < 32 or ord(c) == 127 for c in command):
        raise BadInput(f"an SSH line is one line of at most {_LENGTH_LIMIT} characters, without control characters")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BadInput(f"the SSH line {command!r} cannot be split into words: {str(error).lower()}") from error
    if words and words[0].rpartition("/")[2] == "ssh":
        words = words[1:]
    given = _Given()
    destination = _read_words(iter(words), given)
    if destination is None:
        raise BadInput(f"the SSH line {command!r} names no host: write for example 'ssh -p 2222 root@203.0.113.7'")
    host = _read_destination(destination, given)
    return SshTarget(
        command=command,
        host=host,
        port=_port(given.port) if given.port is not None else None,
        user=_user(given.user) if given.user is not None else None,
        identity_files=tuple(given.identity_files),
        jump=_jump(given.jump) if given.jump is not None else None,
    )


class _Given:
    """What the words said so far; a second, different value is refused rather than guessed about."""

    def __init__(self) -> None:
        self.port: str | None = None
        self.user: str | None = None
        self.jump: str | None = None
        self.identity_files: list[str] = []

    def set(self, what: str, value: str) -> None:
        before = getattr(self, what)
        if before is not None and before != value:
            raise BadInput(f"the SSH line gives two values for the {what}: {before!r} and {value!r}")
        setattr(self, what, value)

    def add_identity_file(self, path: str) -> None:
        if not path:
            raise BadInput("the SSH line names an empty identity file")
        if path not in self.identity_files:
            self.identity_files.append(path)


def _read_words(words: Iterator[str], given: _Given) -> str | None:
    """Read options and the one destination; as in OpenSSH, options may also follow it."""
    destination: str | None = None
    options_ended = False
    for word in words:
        if word == "--" and not options_ended:
            options_ended = True
        elif word.startswith("-") and len(word) > 1 and not options_ended:
            _read_options(word[1:], words, given)
        elif destination is None:
            destination = word
        else:
            raise BadInput(
                f"the SSH line goes on after the host {destination!r} with {word!r}: give only how to reach the "
                "machine, no command"
            )
    return destination


def _read_options(cluster: str, words: Iterator[str], given: _Given) -> None:
    for position, letter in enumerate(cluster):
        if letter in _FLAGS:
            _refuse(letter)
        if letter not in _WITH_VALUE:
            raise BadInput(f"the SSH line has -{letter}, which ssh does not know")
        value = cluster[position + 1 :] or next(words, None)
        if value is None:
            raise BadInput(f"the SSH line ends after -{letter}, which needs a value")
        _read_option(letter, value, given)
        return


def _read_option(letter: str, value: str, given: _Given) -> None:
    match letter:
        case "p":
            given.set("port", value)
        case "l":
            given.set("user", value)
        case "i":
            given.add_identity_file(value)
        case "J":
            given.set("jump", value)
        case "o":
            _read_config_option(value, given)
        case _:
            _refuse(letter)


def _read_config_option(text: str, given: _Given) -> None:
    keyword, _, value = re.sub(r"^\s*(\w+)\s*(?:=|\s)\s*", r"\1=", text).partition("=")
    value = value.strip()
    if not value:
        raise BadInput(f"the SSH line has -o {text!r}: write it as -o Option=value")
    match keyword.lower():
        case "port":
            given.set("port", value)
        case "user":
            given.set("user", value)
        case "identityfile":
            given.add_identity_file(value.strip('"'))
        case "proxyjump":
            given.set("jump", value)
        case _:
            advice = next((words for name, words in _ADVICE.items() if name.lower() == keyword.lower()), None)
            raise BadInput(
                f"-o {keyword} is not honoured{f' ({advice})' if advice else ''}: leave it out, or put it into "
                "~/.ssh/config under a host alias. Honoured are Port, User, IdentityFile and ProxyJump"
            )


def _refuse(letter: str) -> None:
    advice = f" ({_ADVICE[letter]})" if letter in _ADVICE else ""
    raise BadInput(f"ssh -{letter} is not honoured{advice}: leave it out. Honoured are -p, -l, -i, -J and -o")


def _read_destination(text: str, given: _Given) -> str:
    destination = text.removeprefix("ssh://")
    user, at, host = destination.rpartition("@")
    if at:
        given.set("user", user)
    if destination != text:
        host, _, port = host.rstrip("/").partition("]:") if host.startswith("[") else host.rstrip("/").partition(":")
        host = host.strip("[]")
        if port:
            given.set("port", port)
    return _host(host)


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise BadInput(
            f"{text[:80]!r} is not a host: use a name, an address or an alias of ~/.ssh/config "
            "(letters, digits, '.', '-', '_', ':')"
        )
    return text


def _user(text: str) -> str:
    if not _USER.fullmatch(text):
        raise BadInput(f"{text[:80]!r} is not a user name")
    return text


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise BadInput(f"{text[:80]!r} is not a port: use a number from 1 to 65535")
    return int(text)


def _jump(text: str) -> str | None:
    if text.lower() == "none":  # OpenSSH's word for going without a jump host that its configuration names
        return None
    hops = []
    for hop in text.split(","):
        user, at, rest = hop.strip().removeprefix("ssh://").rpartition("@")
        if rest.startswith("["):
            host, _, port = rest[1:].partition("]")
            port = port.removeprefix(":")
        else:
            host, _, port = rest.partition(":")
        _host(host)
        shown = f"[{host}]" if ":" in host else host
        hops.append((f"{_user(user)}@" if at else "") + shown + (f":{_port(port)}" if port else ""))
    return ",".join(hops)
