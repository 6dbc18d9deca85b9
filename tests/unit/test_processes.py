"""Processes by identity, and ports that are chosen for servers."""

import platform
import socket
import sys
from pathlib import Path

import pytest

from podctl import processes
from podctl.processes import LOOPBACK, ProcessIdentity, free_ports, start_detached

#: Ends its first thread alone: the process is shown as a zombie, and holds its port.
_FIRST_THREAD_ENDS = """
import ctypes, socket, sys, threading, time
listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(int(sys.argv[2]), 0)
"""
_SYS_EXIT = {"x86_64": "60", "aarch64": "93"}


def _is_zombie(process: ProcessIdentity) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_process_lives_until_its_last_thread_has_ended(tmp_path: Path) -> None:
    [port] = free_ports(1)
    argv = [sys.executable, "-c", _FIRST_THREAD_ENDS, str(port), _SYS_EXIT[platform.machine()]]
    process = start_detached(argv, log=tmp_path / "log", folder=tmp_path)
    try:
        while not _is_zombie(process):
            assert process.is_alive(), (tmp_path / "log").read_text()
        assert process.is_alive()
        assert not process.wait(0.0)
    finally:
        assert process.end(grace=10.0) == "SIGTERM"
    assert not process.is_alive()


def test_two_threads_may_see_at_the_same_moment_that_a_process_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_detached([sys.executable, "-c", ""], log=tmp_path / "log", folder=tmp_path)
    child = processes._children[process.pid]

    def seen_by_another_first() -> int:
        code = child.wait()
        del processes._children[process.pid]
        return code

    monkeypatch.setattr(child, "poll", seen_by_another_first)
    assert not process.is_alive()


def test_free_ports_are_free_distinct_and_never_those_of_outgoing_connections() -> None:
    first_outgoing, last_outgoing = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = free_ports(50)
    assert len(set(ports)) == 50
    for port in ports:
        assert not first_outgoing <= port <= last_outgoing
        with socket.socket() as server:
            server.bind((LOOPBACK, port))
