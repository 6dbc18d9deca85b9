"""``podctl list``, against ``ssh HOST true``: what a person would type without podctl."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from podctl.processes import LOOPBACK, free_ports, start_detached
from tests.bench.figure import Figure, by_turns, milliseconds
from tests.bench.site import POD, PODCTL, Site

_ROUNDS = 25
#: Debian keeps sshd where a user's PATH does not look.
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
#: Seconds that sshd may take to listen.
_PATIENCE = 10.0


async def listing(site: Site) -> list[Figure]:
    """Return how much longer ``podctl list`` takes than the shortest command over OpenSSH on the loopback."""
    sshd = shutil.which("sshd", path=_SEARCH)
    if sshd is None or shutil.which("ssh") is None:
        return _figure(None, "no OpenSSH here (Debian, Ubuntu: apt-get install openssh-server openssh-client)")
    with _listening(sshd, site.folder / "ssh") as ssh:
        turns = await by_turns(
            lambda: site.run([PODCTL, "list", "--pod", POD]), lambda: site.run([*ssh, "true"]), rounds=_ROUNDS
        )
    return _figure(turns.ratio, milliseconds(turns))


def _figure(value: float | None, measured: str) -> list[Figure]:
    name = "podctl list / ssh HOST true"
    return [Figure(name=name, value=value, unit="ratio", bound="<=", limit=2, measured=measured)]


@contextmanager
def _listening(sshd: str, folder: Path) -> Iterator[Sequence[str]]:
    """Run a real sshd on the loopback; give the ``ssh … HOST`` that reaches it."""
    folder.mkdir(mode=0o700)
    for key in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    (folder / "authorized_keys").write_bytes((folder / "client_key.pub").read_bytes())
    [port] = free_ports(1)
    host = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{LOOPBACK}]:{port} {host}")
    (folder / "sshd_config").write_text(
        f"ListenAddress {LOOPBACK}:{port}\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
        # The keys lie in a temporary folder, which others may write to.
        f"StrictModes no\nUsePAM no\nUseDNS no\nPidFile none\n"
    )
    log = folder / "sshd.log"
    server = start_detached([sshd, "-D", "-e", "-f", str(folder / "sshd_config")], log=log, folder=folder)
    try:
        _wait_for(port, log)
        options = ["-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={folder}/known_hosts"]
        yield ["ssh", *options, "-i", f"{folder}/client_key", "-p", str(port), f"{getpass.getuser()}@{LOOPBACK}"]
    finally:
        server.end(grace=5.0)


def _wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not listen on port {port}: {log.read_text()}")
        time.sleep(0.02)
