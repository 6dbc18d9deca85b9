"""Real OpenSSH servers, keys, certificates and agents, each on its own: the ways to a machine."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import parse_ssh
from podctl.processes import free_ports
from tests.system.sshd import has_penalties, sshd_program
from tests.workflow.support import eventually

ADDRESS = "127.0.0.1"


async def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run an OpenSSH program and return what it says; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{command}: {out.decode()}"
    return out.decode()


async def make_key(path: Path, passphrase: str = "", kind: str = "ed25519", form: str = "RFC4716") -> Path:
    """Make a key pair as a person does; ``form``: RFC4716 is OpenSSH's own, PEM the old one."""
    arguments = ["-t", kind, "-N", passphrase, "-f", str(path), "-C", path.name]
    await run("ssh-keygen", "-q", *arguments, *(["-m", form] if form != "RFC4716" else []))
    return path


def public_of(key: Path) -> str:
    """Return what stands in the public file of a key."""
    return Path(f"{key}.pub").read_text()


class Door:
    """One sshd on a port of its own, which lets in whoever holds ``key``."""

    def __init__(self, folder: Path, key: Path | None) -> None:
        self.folder = folder
        self.host_key = folder / "host_key"
        self.key = key
        [self.port] = free_ports(1)
        self.log = folder / "log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def public(self) -> str:
        return " ".join(public_of(self.host_key).split()[:2])

    @property
    def known(self) -> str:
        """Its line in a known_hosts file."""
        return f"[{ADDRESS}]:{self.port} {self.public}\n"

    @property
    def hop(self) -> str:
        return f"{ADDRESS}:{self.port}"

    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")

    def _starts(self) -> int:
        return self.log.read_text().count("Server listening") if self.log.exists() else 0

    def pod(self, line: str = "", *, port: int | None = None) -> PodAddress:
        """Return a pod of this machine, reached with ``line`` before port and host."""
        ssh = parse_ssh(f"ssh {line} -p {port or self.port} {ADDRESS}")
        return PodAddress(pod="one", ssh=ssh, host_key=self.public, root="~/.podctl")

    async def open(self, *settings: str) -> None:
        """Start sshd, with lines of its configuration; return when it listens."""
        if not self.host_key.exists():
            await make_key(self.host_key)
        authorized = self.folder / "authorized_keys"
        authorized.write_text(public_of(self.key) if self.key else "")
        configuration = self.folder / "sshd_config"
        # The first of two settings of a name counts.
        configuration.write_text(
            "\n".join(
                (
                    *settings,
                    f"ListenAddress {ADDRESS}",
                    f"Port {self.port}",
                    f'HostKey "{self.host_key}"',
                    f'AuthorizedKeysFile "{authorized}"',
                    "PidFile none",
                    "StrictModes no",
                    "UsePAM no",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "PerSourcePenalties no" if await has_penalties() else "",
                    "",
                )
            )
        )
        before = self._starts()
        self._process = await asyncio.create_subprocess_exec(
            sshd_program(), "-D", "-f", str(configuration), "-E", str(self.log), stdin=asyncio.subprocess.DEVNULL
        )

        async def listens() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, self.log.read_text()
            return self._starts() > before

        await eventually(listens, "sshd listens")

    async def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
            self._process = None


@contextlib.asynccontextmanager
async def agent(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Run an ssh-agent; give the environment in which it is found."""
    socket = folder / "agent"
    process = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", str(socket), stdout=-3)

    async def answers() -> bool:
        asked = await asyncio.create_subprocess_exec(
            "ssh-add", "-l", env={**os.environ, "SSH_AUTH_SOCK": str(socket)}, stdout=-3, stderr=-3
        )
        return await asked.wait() == 1  # it holds no key yet; 2: it was not reached

    try:
        await eventually(answers, "the agent answers")
        yield {"SSH_AUTH_SOCK": str(socket)}
    finally:
        process.terminate()
        await process.wait()
