"""One SSH server on the way to a machine, as the pasted line and this machine's ``~/.ssh/config`` say it is reached.

The line comes first, the file fills in the rest, as with OpenSSH. asyncssh reads the file (``Host``, ``Match``,
``Include`` …); decided here is what podctl does itself: which keys are tried in which order, which agent is asked,
where host keys are looked up. The file's ``ServerAliveInterval`` is not taken: ``Host *`` often asks for a minute, and
podctl has to know sooner that a connection is gone.
"""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from domain.gpu.ssh_target import SshTarget, parse_hop
from remote.errors import SshSetupError

#: A connection that answered none of KEEPALIVE_COUNT requests, KEEPALIVE_INTERVAL seconds apart, is dead.
#: Longer than a watch's beats are apart: a machine that is heard of anyway is not asked.
KEEPALIVE_INTERVAL = 5.0
KEEPALIVE_COUNT = 2
#: Seconds for reaching an SSH server and logging in there.
CONNECT_TIMEOUT = 10.0
#: What OpenSSH reads where nothing else is named.
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_DEFAULT_IDENTITIES = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")


@dataclass(frozen=True)
class Hop:
    """An SSH server, with everything decided; paths are this machine's, expanded."""

    #: As the line calls it, and what the file makes of that.
    name: str
    host: str
    port: int
    user: str
    #: Jump hosts before it; None: none.
    jump: str | None
    #: What asyncssh is told so that it decides the same.
    options: Mapping[str, Any]
    #: A program of the file makes the connection.
    proxy_command: bool
    identity_files: tuple[Path, ...]
    #: Nobody named them: they are those that everybody has, or has not.
    default_identities: bool
    certificate_files: tuple[Path, ...]
    identities_only: bool
    agent: str | None
    known_hosts_files: tuple[Path, ...]
    host_key_name: str
    timeout: float

    @property
    def shown(self) -> str:
        """The server as an error names it."""
        where = self.host if self.port == asyncssh.DEFAULT_PORT else f"{self.host} port {self.port}"
        return where if self.host == self.name else f"{self.name} ({where})"


def read_hop(target: SshTarget) -> Hop:
    """Return how ``target`` is reached from here. Raises ``SshSetupError`` for a file that cannot be used."""
    given = _options(target)
    try:
        # Without keys: which ones are loaded is decided below.
        options = asyncssh.SSHClientConnectionOptions(
            config=(), host=target.host, client_keys=None, known_hosts=None, agent_path=None, **given
        )
        if options.config.has_match_final():
            options.update(reload=True, final=True)
    except (ValueError, OSError) as error:
        raise SshSetupError(f"~/.ssh/config cannot be used for {target.host}: {error}. Mend that there") from error
    file = options.config.get
    tokens = _tokens(target.host, options)
    named = [_path(name, tokens) for name in target.identity_files]
    named += [_path(str(name), tokens) for name in _list(file("IdentityFile"))]
    certificates = (*target.certificate_files, *map(str, _list(file("CertificateFile"))))
    only = target.identities_only if target.identities_only is not None else bool(file("IdentitiesOnly", False))
    agent = target.identity_agent or file("IdentityAgent", "SSH_AUTH_SOCK")
    known = target.known_hosts_files
    if known is None:
        # The file's own word for "none" leaves an empty list.
        known = tuple(map(str, _list(file("UserKnownHostsFile", [*_KNOWN_HOSTS]))))
    known += tuple(map(str, _list(file("GlobalKnownHostsFile", [*_GLOBAL_KNOWN_HOSTS]))))
    timeout = target.connect_timeout or file("ConnectTimeout") or CONNECT_TIMEOUT
    return Hop(
        name=target.host,
        host=options.host,
        port=options.port,
        user=options.username,
        jump=_jump(target, options),
        options=given,
        proxy_command=bool(options.proxy_command),
        identity_files=tuple(named) or tuple(Path("~/.ssh", name).expanduser() for name in _DEFAULT_IDENTITIES),
        default_identities=not named,
        certificate_files=tuple(_path(name, tokens) for name in certificates),
        identities_only=only,
        agent=_agent(str(agent) if agent else "none", tokens),
        known_hosts_files=tuple(_path(name, tokens) for name in known),
        host_key_name=target.host_key_alias or str(file("HostKeyAlias") or options.host),
        timeout=float(str(timeout)),
    )


def jump_hops(jump: str) -> list[SshTarget]:
    """Return the jump hosts of ``[user@]host[:port],…``, each reached as its own entry in ``~/.ssh/config`` says.

    Only the first may have jump hosts of its own there: the others are reached through the one before.
    """
    hops = []
    for number, text in enumerate(jump.split(",")):
        user, host, port = parse_hop(text)
        hops.append(SshTarget(command=text, host=host, user=user, port=port, jump="none" if number else None))
    return hops


def _options(target: SshTarget) -> dict[str, Any]:
    """Return what the line says, for asyncssh; what is absent comes from ``~/.ssh/config``."""
    options: dict[str, Any] = {
        # Of this machine's file nothing but how to get there: a command or a terminal would spoil the podlet's lines.
        "command": None,
        "request_pty": False,
        "agent_forwarding": False,
        "x11_forwarding": False,
        "env": None,
        "send_env": None,
    }
    if target.port is not None:
        options["port"] = target.port
    if target.user is not None:
        options["username"] = target.user
    if target.jump is not None:
        # As with OpenSSH, the one that comes first wins: a jump host on the line leaves no room for the file's program.
        options["proxy_command"] = None
    if target.address_family is not None:
        options["family"] = asyncssh_family(target.address_family)
    if target.compression is not None:
        options["compression_algs"] = "zlib@openssh.com,zlib,none" if target.compression else "none"
    if target.host_key_alias is not None:
        options["host_key_alias"] = target.host_key_alias
    return options


def asyncssh_family(name: str) -> int:
    """Return the socket family of OpenSSH's ``any``, ``inet`` and ``inet6``."""
    import socket

    return {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}[name]


def _jump(target: SshTarget, options: asyncssh.SSHClientConnectionOptions) -> str | None:
    jump = target.jump if target.jump is not None else options.config.get("ProxyJump")
    return None if not jump or str(jump).lower() == "none" else str(jump)


def _tokens(name: str, options: asyncssh.SSHClientConnectionOptions) -> dict[str, str]:
    return {
        "%": "%",
        "d": str(Path.home()),
        "h": options.host,
        "n": name,
        "p": str(options.port),
        "r": options.username,
        "u": getpass.getuser(),
    }


def _path(text: str, tokens: Mapping[str, str]) -> Path:
    text = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), text)
    return Path(re.sub("%(.)", lambda found: tokens.get(found[1], found[0]), text)).expanduser()


def _agent(text: str, tokens: Mapping[str, str]) -> str | None:
    if text.lower() == "none":
        return None
    if text == "SSH_AUTH_SOCK" or re.fullmatch(r"\$\w+", text):
        return os.environ.get(text.removeprefix("$"))
    return str(_path(text, tokens))


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else []
