"""The folder of a simulated machine: what lies where, and how it is made.

```
machine.json  settings.json  boot          what it is, how it behaves, its boot identity
host_key  client_key  client_key.pub       its own key, and the one a user gives to ssh -i
home/  bin/                                HOME; the pretend programs, first on PATH
mounts  uv.log                             pretend mount points, one a line; every call of the pretend uv
gpu/  shm/  hooks/                         who holds GPU memory; files left outside; points to stop at
control.sock  lock                         how it is told what to do; held while it is simulated
```
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sys
import uuid
from pathlib import Path

import asyncssh

from simulator.models import MachineConfig, MachineRecord, Settings, machine_gpus

USER = "user"
_PORT = 2222
_ATTEMPTS = 64
_PROGRAMS = {"mount": "mount", "nvidia-smi": "nvidia_smi", "uv": "uv", "vllm": "vllm"}
# A script that is sh and Python at once: #! lines allow no blanks and no long paths. -I -S leaves out site-packages
# and everything that its .pth files load; the sources come from the package this file belongs to.
_PROGRAM = """#!/bin/sh
'''exec' "{python}" -I -S "$0" "$@"
' '''
import sys
sys.path.insert(0, {root!r})
from simulator.{module} import run
sys.exit(run({folder!r}))
"""


class SimulationError(Exception):
    """The simulation cannot do that; the message says why and what to do."""


class MachineFolder:
    """One machine's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.home = self.path / "home"
        self.programs = self.path / "bin"
        self.hooks = self.path / "hooks"
        self.boot = self.path / "boot"
        self.mounts = self.path / "mounts"
        self.host_key = self.path / "host_key"
        self.client_key = self.path / "client_key"
        self.authorized_keys = self.home / ".ssh" / "authorized_keys"
        self._outside = self.path / "shm"

    @property
    def record(self) -> MachineRecord:
        """What the machine is; raises FileNotFoundError before ``prepare``."""
        return MachineRecord.model_validate_json((self.path / "machine.json").read_bytes())

    @property
    def settings(self) -> Settings:
        """How the machine behaves now."""
        return Settings.model_validate_json((self.path / "settings.json").read_bytes())

    def change_settings(self, settings: Settings) -> None:
        """Let the machine behave so from now on."""
        self._write("settings.json", settings.model_dump_json())
        nvidia_smi = self.programs / "nvidia-smi"
        if settings.nvidia_smi == "missing":
            nvidia_smi.unlink(missing_ok=True)
        elif not nvidia_smi.exists():
            self._install("nvidia-smi")

    def prepare(self, config: MachineConfig) -> socket.socket:
        """Make what is missing, keep keys, home and address of an earlier time; return the listener of its address.

        Raises SimulationError if no address can be had or if the machine is being simulated already.
        """
        for name in ("home/.ssh", "bin", "gpu", "shm", "hooks"):
            (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock()
        if not self.host_key.exists():
            self.new_host_key()
        if not self.client_key.exists():
            key = asyncssh.generate_private_key("ssh-ed25519", comment=f"simulated-{config.name}")
            self._write("client_key", key.export_private_key().decode())
            self._write("client_key.pub", key.export_public_key().decode())
            self.authorized_keys.write_bytes(key.export_public_key())
        listener = self._listen(config)
        address, port = listener.getsockname()
        gpus = machine_gpus(config.name, config.gpus)
        record = MachineRecord(name=config.name, user=USER, address=address, port=port, gpus=gpus)
        self._write("machine.json", record.model_dump_json())
        for program in _PROGRAMS:
            self._install(program)
        self.change_settings(config.settings)
        self.begin_boot()
        return listener

    def begin_boot(self) -> str:
        """Forget what a reboot forgets and return the new boot identity; no process of the machine may live."""
        for holder in (self.path / "gpu").iterdir():
            holder.unlink()
        self.remove_files_outside()
        self.mounts.unlink(missing_ok=True)
        boot = str(uuid.uuid4())
        self._write("boot", boot + "\n")
        return boot

    def remove_files_outside(self) -> None:
        """Remove shared memory and sockets that pretend model servers left outside the folder."""
        for note in self._outside.iterdir():
            path = Path(note.read_text())
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            note.unlink()
            # A server's folder of sockets, which a verified stop removes and the end of the machine leaves.
            if path.parent.name.startswith("podctl-"):
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def new_host_key(self) -> str:
        """Make a new host key; return its fingerprint."""
        key = asyncssh.generate_private_key("ssh-ed25519", comment="simulated")
        self._write("host_key", key.export_private_key().decode())
        return key.get_fingerprint()

    def _write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.new"
        temporary.touch(mode=0o600)
        temporary.write_text(text)
        temporary.rename(self.path / name)

    def _install(self, program: str) -> None:
        root = str(Path(__file__).parent.parent)
        text = _PROGRAM.format(python=sys.executable, root=root, module=_PROGRAMS[program], folder=str(self.path))
        temporary = self.programs / f".{program}.new"
        temporary.write_text(text)
        temporary.chmod(0o700)
        temporary.rename(self.programs / program)

    def _lock(self) -> None:
        # open for as long as this process and the machine's live
        self._lock_descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SimulationError(f"{self.path.name} is being simulated already, from {self.path}") from None

    def _listen(self, config: MachineConfig) -> socket.socket:
        """Listen on the address of an earlier time, else on a 127.x.y.z of its own, else on 127.0.0.1.

        The listener itself is the claim: whoever holds port 2222 of an address owns the address.
        """
        port = config.port or _PORT
        candidates = [(self.record.address, self.record.port)] if (self.path / "machine.json").exists() else []
        candidates += [
            (f"127.{secrets.randbelow(254) + 1}.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}", port)
            for _ in range(_ATTEMPTS)
        ]
        # where the system has only 127.0.0.1, or something holds the port on every address
        candidates += [("127.0.0.1", config.port or 0)]
        for address in candidates:
            with contextlib.suppress(OSError):
                return listen(*address)
        raise SimulationError(f"no 127.x address has port {port} free for machine {config.name}: choose another port")


def listen(address: str, port: int) -> socket.socket:
    """Listen on ``address``:``port``; raises OSError."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
