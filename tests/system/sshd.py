"""A simulated machine whose door is a real OpenSSH sshd: the stranger that the simulator's own SSH server imitates.

sshd is one more process of the machine, started as init does, so whatever its sessions start is the machine's too: it
is seen there, and ends with it. It logs in the user who runs the tests, with the login shell of that user; ``SetEnv``
makes home, PATH and the pretend programs those of the machine.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest

from podctl.processes import free_ports
from simulator.api import Gpu, MachineConfig, SimulatedMachine, simulate
from simulator.models import Process
from tests.activity.simulator_harness import eventually, shell

#: What the login shell prints before every command, without a line's end.
LOGIN_OUTPUT = "Welcome to a rented machine"
#: Read by bash when sshd started it, and by zsh always; sh reads nothing.
_SHELL_FILES = (".bashrc", ".zshenv")
#: Of the environment that the simulator gives to commands: what sshd knows better.
_SSHDS_OWN = {"USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "SHLVL", "_"}


def sshd_program() -> str:
    """Return the path of sshd, which starts itself anew for each connection; fails the test with how to get it."""
    # Debian keeps it where a user's PATH does not look.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("sshd", path=search)
    if found is None:
        pytest.fail("sshd of OpenSSH is missing (Debian, Ubuntu: apt-get install openssh-server)")
    if os.geteuid() == 0:
        # Root's sshd does not start without this folder, which Debian's service makes.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return str(Path(found).absolute())


async def has_penalties() -> bool:
    """Return whether this sshd punishes failed logins and lost sessions by silence: one test would spoil the next."""
    process = await asyncio.create_subprocess_exec(
        sshd_program(), "-T", "-o", "PerSourcePenalties=no", "-f", os.devnull, stdout=-3, stderr=-3
    )
    return await process.wait() == 0


class OpenSshMachine(SimulatedMachine):
    """A simulated machine that is reached through sshd; what concerns connections is done to sshd's processes."""

    def __init__(self, folder: Path, program: str) -> None:
        super().__init__(folder)
        self._inside = SimulatedMachine(folder)
        self._program = program
        self._configuration = self.folder / "sshd_config"
        self._pid_file = self.folder / "sshd.pid"
        self.log = self.folder / "sshd.log"
        self.user = pwd.getpwuid(os.getuid()).pw_name
        [self.port] = free_ports(1)

    async def configure(self, **more: str) -> None:
        """Write sshd's configuration, and the login shell's files with their noise; ``more`` is for the environment."""
        banner = self.folder / "banner"
        banner.write_text("Authorized use only.\n")
        for name in _SHELL_FILES:
            noise = f"printf '{LOGIN_OUTPUT}'\necho 'a warning' >&2\n"
            (self.folder / "home" / name).write_text(noise)
        _, out, _ = await shell(self._inside, "env")
        environment = {**dict(line.split("=", 1) for line in out.splitlines()), **more}
        given = " ".join(f'"{name}={value}"' for name, value in environment.items() if name not in _SSHDS_OWN)
        self._configuration.write_text(
            f"""
ListenAddress {self.address}
Port {self.port}
HostKey "{self.folder}/host_key"
AuthorizedKeysFile "{self.folder}/home/.ssh/authorized_keys"
PidFile "{self._pid_file}"
Banner "{banner}"
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserRC no
{"PerSourcePenalties no" if await has_penalties() else ""}
SetEnv {given}
"""
        )

    async def start_sshd(self) -> None:
        """Start sshd; return when it listens."""
        self._pid_file.unlink(missing_ok=True)
        code, _, errors = await shell(
            self._inside, f"'{self._program}' -f '{self._configuration}' -E '{self.log}' < /dev/null"
        )
        assert code == 0, f"sshd did not start: {errors}{self.sshd_log()}"

        async def listens() -> bool:
            # Written when it listens.
            return self._pid_file.exists() and self._pid_file.read_text().strip().isdigit()

        try:
            await eventually(listens, "sshd listens")
        except AssertionError as error:
            error.add_note(self.sshd_log())
            raise

    async def stop_sshd(self) -> None:
        """End the sshd that accepts connections; those that there are stay."""
        if self._pid_file.exists():
            await self._end([int(self._pid_file.read_text())], signal.SIGTERM)

    def sshd_log(self) -> str:
        """Return what sshd has said."""
        return self.log.read_text() if self.log.exists() else ""

    async def sessions(self) -> list[Process]:
        """Return the sshd processes of connections."""
        listener = int(self._pid_file.read_text()) if self._pid_file.exists() else None
        return [p for p in await self.processes() if p.name.startswith("sshd") and p.pid != listener]

    async def drop_connections(self) -> None:
        """Kill the sshd process of every connection."""
        await self._end([process.pid for process in await self.sessions()], signal.SIGKILL)

    async def unreachable(self, seconds: float | None = None, outage: Literal["hang", "refuse"] = "hang") -> None:
        """Stop sshd with all its connections until ``reachable``: new ones are refused."""
        assert (seconds, outage) == (None, "refuse"), "an sshd that is stopped refuses connections, and stays so"
        await self.stop_sshd()
        await self.drop_connections()

    async def reachable(self) -> None:
        if not self._pid_file.exists():
            await self.start_sshd()

    async def reboot(self, seconds: float = 0.0) -> str:
        boot = await super().reboot(seconds)
        await self.start_sshd()
        return boot

    async def change_host_key(self) -> str:
        fingerprint = await super().change_host_key()
        await self.stop_sshd()
        await self.start_sshd()
        return fingerprint

    async def _end(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

        async def gone() -> bool:
            return not {process.pid for process in await self.processes()} & set(pids)

        await eventually(gone, f"sshd processes {pids} have ended")


@pytest.fixture(scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpenSshMachine]:
    """The machine of the shared tests, here one with two GPUs behind sshd."""
    program = sshd_program()
    config = MachineConfig(name="sim", gpus=(Gpu(), Gpu()))
    async with simulate(tmp_path_factory.mktemp("openssh"), [config]) as [inside]:
        machine = OpenSshMachine(inside.folder, program)
        await machine.configure()
        await machine.start_sshd()
        yield machine


async def login_output(machine: OpenSshMachine) -> str:
    """Return what a command that prints nothing prints, as the OpenSSH client sees it."""
    known = machine.folder / "known_hosts"
    known.write_text(f"[{machine.address}]:{machine.port} {machine.host_key}\n")
    options = ("-F", "none", "-o", f"UserKnownHostsFile={known}", "-o", "IdentitiesOnly=yes")
    process = await asyncio.create_subprocess_exec(
        "ssh", *options, *machine.ssh_command.split()[1:], "true", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()
