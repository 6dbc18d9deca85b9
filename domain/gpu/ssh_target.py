"""SSH lines as people paste them, split into words and understood here; never handed to a shell.

What a line says falls into three kinds:

- **honoured**: everything that decides how the machine is reached and who logs in (``SshTarget``'s fields);
- **left out**: what changes nothing about reaching it. Manners of one session (``-v -q -T -t -N -n -f …``) are dropped
  without a word, since podctl's own commands have their own. What somebody may count on, forwarding above all
  (``-L -R -D -A -X``; Vast.ai's button copies ``-L 8080:localhost:8080`` with every line), is kept in ``left_out``, for
  the command to say: refusing a line that works with ssh would help nobody, dropping that in silence would be a lie;
- **refused by name**: what would have the machine reached otherwise than the line says, what skips the check of the
  host key, and what runs programs (``ProxyCommand``): the line is kept with the pod and read by every worker, so that
  it would run there, for whoever may add a pod. ``~/.ssh/config`` is each machine's own, and may say those things.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Literal

from domain.entity import Value
from domain.errors import BadInput

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,252}\$?")
_LENGTH_LIMIT = 2_000
#: Seconds, counts and hops beyond these are typing errors.
_SECONDS_LIMIT = 3_600
_HOPS_LIMIT = 8
#: ssh's options with a value (getopt string of OpenSSH 9.9).
_WITH_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
#: Manners of one session, or of ssh itself: dropped in silence.
_MANNERS = frozenset("2aEefgkMNnqSTtvxy")
#: Somebody may count on these: dropped, and told.
_TOLD = {
    "A": "podctl forwards no agent",
    "D": "podctl connect makes tunnels to model servers",
    "L": "podctl connect makes tunnels to model servers",
    "R": "podctl forwards nothing to this machine",
    "X": "podctl forwards no X11",
    "Y": "podctl forwards no X11",
}
_REFUSED = {
    "1": "SSH 1 is long gone",
    "B": "put the host into ~/.ssh/config instead, with BindAddress",
    "b": "put the host into ~/.ssh/config instead, with BindAddress",
    "c": "put the host into ~/.ssh/config instead, with Ciphers",
    "F": "put the host into ~/.ssh/config instead",
    "G": "give only how to reach the machine",
    "I": "load the key into the SSH agent instead (ssh-add -s)",
    "K": "podctl logs in with keys only",
    "m": "put the host into ~/.ssh/config instead, with MACs",
    "O": "give only how to reach the machine",
    "P": "put the host into ~/.ssh/config instead",
    "Q": "give only how to reach the machine",
    "s": "give only how to reach the machine, no subsystem",
    "V": "give only how to reach the machine",
    "W": "name the machine itself as the host, and the one before it with -J",
    "w": "podctl forwards no network devices",
}
_HONOURED_LETTERS = "-p, -l, -i, -J, -C, -4, -6 and -o"

#: Options of -o that are manners of one session or of ssh itself, or ways to log in that podctl never takes.
_CONFIG_MANNERS = frozenset(
    {
        "addkeystoagent",
        "batchmode",
        "challengeresponseauthentication",
        "checkhostip",
        "clearallforwardings",
        "connectionattempts",
        "controlmaster",
        "controlpath",
        "controlpersist",
        "enableescapecommandline",
        "escapechar",
        "exitonforwardfailure",
        "fingerprinthash",
        "forkafterauthentication",
        "hashknownhosts",
        "kbdinteractiveauthentication",
        "loglevel",
        "logverbose",
        "nohostauthenticationforlocalhost",
        "numberofpasswordprompts",
        "passwordauthentication",
        "requesttty",
        "sessiontype",
        "stdinnull",
        "streamlocalbindmask",
        "streamlocalbindunlink",
        "syslogfacility",
        "tcpkeepalive",
        "updatehostkeys",
        "verifyhostkeydns",
        "visualhostkey",
    }
)
_CONFIG_TOLD = {
    "dynamicforward": _TOLD["D"],
    "forwardagent": _TOLD["A"],
    "forwardx11": _TOLD["X"],
    "forwardx11trusted": _TOLD["X"],
    "localforward": _TOLD["L"],
    "remoteforward": _TOLD["R"],
    "sendenv": "podctl sends no environment",
    "setenv": "podctl sends no environment",
}
_CONFIG_ADVICE = {
    "hostname": "name it as the host",
    "knownhostscommand": "podctl pins the host key when a pod is added",
    "proxycommand": "a pod's line is read by every worker and runs no programs; a jump host is -J",
    "remotecommand": "give only how to reach the machine, no command",
}
_CONFIG_HONOURED = (
    "AddressFamily, CertificateFile, Compression, ConnectTimeout, HostKeyAlias, IdentitiesOnly, IdentityAgent, "
    "IdentityFile, Port, ProxyJump, ServerAliveCountMax, ServerAliveInterval, User and UserKnownHostsFile"
)


class SshTarget(Value):
    """How a machine is reached: what the person pasted, and what it means.

    ``host`` is a name, an address or an alias of ``~/.ssh/config``; what is None or empty is left to that file.
    """

    command: str
    host: str
    port: int | None = None
    user: str | None = None
    identity_files: tuple[str, ...] = ()
    #: Jump hosts as ``[user@]host[:port]``, comma-separated, first hop first; ``none``: none, whatever that file says.
    jump: str | None = None
    certificate_files: tuple[str, ...] = ()
    #: Only the keys of ``identity_files`` are tried, not others that the agent holds.
    identities_only: bool | None = None
    #: The agent's socket, ``$VARIABLE``, ``SSH_AUTH_SOCK`` or ``none``.
    identity_agent: str | None = None
    #: Where the host key is looked up when it is pinned; None: ``~/.ssh/known_hosts``.
    known_hosts_files: tuple[str, ...] | None = None
    #: The name under which it is looked up there.
    host_key_alias: str | None = None
    address_family: Literal["any", "inet", "inet6"] | None = None
    compression: bool | None = None
    #: Seconds for connecting and for logging in, each.
    connect_timeout: int | None = None
    #: Seconds between signs of life, and how many may go unanswered.
    keepalive_interval: int | None = None
    keepalive_count: int | None = None
    #: What the line asks for beyond reaching the machine, and why podctl does not do it.
    left_out: tuple[str, ...] = ()


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
    return SshTarget.model_validate({"command": command, "host": host, **given.fields()})


def parse_hop(text: str) -> tuple[str | None, str, int | None]:
    """Return user, host and port of a jump host, ``[user@]host[:port]``, an address in brackets if it has colons.

    Raises BadInput.
    """
    user, at, rest = text.strip().removeprefix("ssh://").rpartition("@")
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = rest.partition(":")
    return _user(user) if at else None, _host(host), _port(port) if port else None


class _Given:
    """What the words said so far; a second, different value is refused rather than guessed about."""

    def __init__(self) -> None:
        self._single: dict[str, object] = {}
        self._lists: dict[str, list[str]] = {}

    def set(self, field: str, value: object) -> None:
        before = self._single.setdefault(field, value)
        if before != value:
            what = field.replace("_", " ")
            raise BadInput(f"the SSH line gives two values for the {what}: {before!r} and {value!r}")

    def add(self, field: str, value: str) -> None:
        if value not in self._lists.setdefault(field, []):
            self._lists[field].append(value)

    def fields(self) -> dict[str, object]:
        return {**self._single, **{field: tuple(values) for field, values in self._lists.items()}}


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
        if letter in _WITH_VALUE:
            value = cluster[position + 1 :] or next(words, None)
            if value is None:
                raise BadInput(f"the SSH line ends after -{letter}, which needs a value")
            _read_option(letter, value, given)
            return
        _read_flag(letter, given)


def _read_flag(letter: str, given: _Given) -> None:
    match letter:
        case "4":
            given.set("address_family", "inet")
        case "6":
            given.set("address_family", "inet6")
        case "C":
            given.set("compression", True)
        case _:
            _read_other(letter, "", given)


def _read_option(letter: str, value: str, given: _Given) -> None:
    match letter:
        case "p":
            given.set("port", _port(value))
        case "l":
            given.set("user", _user(value))
        case "i":
            given.add("identity_files", _path(value, "identity file"))
        case "J":
            given.set("jump", _jump(value))
        case "o":
            _read_config_option(value, given)
        case _:
            _read_other(letter, value, given)


def _read_other(letter: str, value: str, given: _Given) -> None:
    if letter in _MANNERS:
        return
    if letter in _TOLD:
        given.add("left_out", f"-{letter}{f' {value}' if value else ''}: {_TOLD[letter]}")
        return
    if letter not in _REFUSED:
        raise BadInput(f"the SSH line has -{letter}, which ssh does not know")
    raise BadInput(f"ssh -{letter} is not honoured: {_REFUSED[letter]}. Honoured are {_HONOURED_LETTERS}")


def _read_config_option(text: str, given: _Given) -> None:
    keyword, _, value = re.sub(r"^\s*(\w+)\s*(?:=|\s)\s*", r"\1=", text, count=1).partition("=")
    value = value.strip()
    if not value:
        raise BadInput(f"the SSH line has -o {text!r}: write it as -o Option=value")
    name = keyword.lower()
    if name in _CONFIG_OPTIONS:
        _CONFIG_OPTIONS[name](keyword, value, given)
    elif name in _CONFIG_TOLD:
        if value.lower() not in {"no", "none"}:
            given.add("left_out", f"-o {keyword}={value}: {_CONFIG_TOLD[name]}")
    elif name not in _CONFIG_MANNERS:
        advice = _CONFIG_ADVICE.get(name, "leave it out, or put it into ~/.ssh/config under a host alias")
        raise BadInput(f"-o {keyword} is not honoured: {advice}. Honoured are {_CONFIG_HONOURED}")


_Reader = Callable[[str, str, _Given], None]


def _one(field: str, read: Callable[[str], object]) -> _Reader:
    return lambda _keyword, value, given: given.set(field, read(value))


def _number(field: str, least: int) -> _Reader:
    def take(keyword: str, value: str, given: _Given) -> None:
        if not re.fullmatch(r"[0-9]{1,4}", value) or not least <= int(value) <= _SECONDS_LIMIT:
            never = ": podctl has to notice a connection that is gone" if value == "0" else ""
            raise BadInput(f"-o {keyword}={value} is not a number from {least} to {_SECONDS_LIMIT}{never}")
        given.set(field, int(value))

    return take


def _yes_or_no(field: str) -> _Reader:
    def take(keyword: str, value: str, given: _Given) -> None:
        if value.lower() not in {"yes", "no", "true", "false"}:
            raise BadInput(f"-o {keyword}={value} is neither yes nor no")
        given.set(field, value.lower() in {"yes", "true"})

    return take


def _paths(field: str, what: str) -> _Reader:
    return lambda _keyword, value, given: given.add(field, _path(value.strip('"'), what))


def _known_hosts(keyword: str, value: str, given: _Given) -> None:
    try:
        files = shlex.split(value)
    except ValueError as error:
        raise BadInput(f"-o {keyword}={value} cannot be split into files: {str(error).lower()}") from error
    given.set("known_hosts_files", tuple(_path(name, "known hosts file") for name in files if name.lower() != "none"))


def _strict_checking(keyword: str, value: str, _given: _Given) -> None:
    if value.lower() not in {"yes", "ask", "accept-new", "true"}:
        raise BadInput(
            f"-o {keyword}={value} is refused: podctl never skips the check of a host key. It shows and pins the key "
            "when a pod is added; leave the option out, and name the key with --accept-host-key where nobody is asked"
        )


def _only_keys(keyword: str, value: str, _given: _Given) -> None:
    allowed = {"yes", "true", "unbound", "host-bound"} if keyword.lower() == "pubkeyauthentication" else {"publickey"}
    if not allowed & {word.strip() for word in value.lower().split(",")}:
        raise BadInput(f"-o {keyword}={value} is refused: podctl logs in with keys only (files, agent, certificates)")


def _address_family(value: str) -> str:
    if value.lower() not in {"any", "inet", "inet6"}:
        raise BadInput(f"-o AddressFamily={value} is none of any, inet and inet6")
    return value.lower()


def _read_destination(text: str, given: _Given) -> str:
    destination = text.removeprefix("ssh://")
    user, at, host = destination.rpartition("@")
    if at:
        given.set("user", _user(user))
    if destination != text:
        host, _, port = host.rstrip("/").partition("]:") if host.startswith("[") else host.rstrip("/").partition(":")
        host = host.strip("[]")
        if port:
            given.set("port", _port(port))
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


def _path(text: str, what: str) -> str:
    if not text:
        raise BadInput(f"the SSH line names an empty {what}")
    return text


def _jump(text: str) -> str:
    if text.lower() == "none":  # OpenSSH's word for going without a jump host that its configuration names
        return "none"
    hops = []
    for hop in text.split(","):
        user, host, port = parse_hop(hop)
        shown = f"[{host}]" if ":" in host else host
        hops.append((f"{user}@" if user else "") + shown + (f":{port}" if port else ""))
    if len(hops) > _HOPS_LIMIT:
        raise BadInput(f"the SSH line goes over {len(hops)} jump hosts; podctl goes over {_HOPS_LIMIT} at most")
    return ",".join(hops)


_CONFIG_OPTIONS: dict[str, _Reader] = {
    "addressfamily": _one("address_family", _address_family),
    "certificatefile": _paths("certificate_files", "certificate file"),
    "compression": _yes_or_no("compression"),
    "connecttimeout": _number("connect_timeout", 1),
    "hostkeyalias": _one("host_key_alias", _host),
    "identitiesonly": _yes_or_no("identities_only"),
    "identityagent": _one("identity_agent", lambda value: _path(value.strip('"'), "agent socket")),
    "identityfile": _paths("identity_files", "identity file"),
    "port": _one("port", _port),
    "preferredauthentications": _only_keys,
    "proxyjump": _one("jump", _jump),
    "pubkeyauthentication": _only_keys,
    "serveralivecountmax": _number("keepalive_count", 1),
    "serveraliveinterval": _number("keepalive_interval", 1),
    "stricthostkeychecking": _strict_checking,
    "user": _one("user", _user),
    "userknownhostsfile": _known_hosts,
}
