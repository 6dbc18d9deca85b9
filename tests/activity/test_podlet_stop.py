"""The podlet's stop: verified, whatever the manners of what is stopped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from podlet import podlet
from tests.activity.podlet_harness import Conversation, Json, Machine, PodletError, free_port, lives, wait_until

TREE = {"root", "engine", "worker"}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


@pytest.fixture
def shared_memory() -> Iterator[Path]:
    path = Path(f"/dev/shm/psm_{uuid.uuid4().hex[:8]}")  # noqa: S108 - where such files are
    yield path
    path.unlink(missing_ok=True)


def steps(conversation_lines: list[Json]) -> list[str]:
    """Return the steps that a stop went through."""
    return [line["step"] for line in conversation_lines if line["type"] == "progress"]


def asked_to_end(conversation_lines: list[Json], result: Json) -> int:
    """Return how often a stop asked, after a check that it did not do so more often than once a second."""
    times = steps(conversation_lines).count("term")
    assert 1 <= times <= 1 + result["seconds"] // podlet.TERM_EVERY
    return times


def check_stopped(machine: Machine, launch_id: str, result: Json) -> None:
    """Check that a result says stopped and that the machine agrees."""
    assert (result["id"], result["state"]) == (launch_id, "stopped")
    assert (result["processes_left"], result["gpu_processes_left"], result["ports_closed"]) == (0, 0, True)
    assert machine.alive() == set()
    seen = machine.observe(launch_id)
    assert (seen["state"], seen["members"], seen["stop_requested"]) == ("exited", 0, True)
    assert seen["stopped"] == result
    launch = machine.path(launch_id)
    wait_until(lambda: not machine.supervised(launch), "the supervisor has gone too")


def test_a_server_that_obeys_is_not_killed(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine")
    stop = machine.start("stop", id="pod/tiny/1", grace=20)
    result = stop.result()
    check_stopped(machine, "pod/tiny/1", result)
    assert result["killed"] == 0
    assert (result["exit"]["code"], result["exit"]["signal"]) == (0, None)
    assert steps(stop.lines) == ["term"] * asked_to_end(stop.lines, result) + ["verify"]


def test_a_repeated_stop_returns_what_the_first_found(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine")
    first = machine.call("stop", id="pod/tiny/1", grace=5)
    assert machine.call("stop", id="pod/tiny/1", grace=5) == first


def test_two_stops_at_once_agree(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--ignore-term")
    patient = machine.start("stop", id="pod/tiny/1", grace=600)
    patient.read_until(lambda line: line.get("step") == "term", "the first one asks")
    result = machine.call("stop", id="pod/tiny/1", grace=0)
    check_stopped(machine, "pod/tiny/1", result)
    assert patient.result()["state"] == "stopped"


def test_a_swallowed_term_is_repeated(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--swallow-terms=1")
    stop = machine.start("stop", id="pod/tiny/1", grace=20)
    result = stop.result()
    check_stopped(machine, "pod/tiny/1", result)
    assert result["killed"] == 0
    times = asked_to_end(stop.lines, result)
    assert times > 1
    assert steps(stop.lines) == ["term"] * times + ["verify"]
    assert machine.path("pod/tiny/1", "output.log").read_text() == "TERM 1\nTERM 2\n"


def test_what_ignores_term_is_killed_after_the_grace(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--daemon", "--ignore-term")
    result = machine.call("stop", id="pod/tiny/1", grace=0.3)
    check_stopped(machine, "pod/tiny/1", result)
    assert result["killed"] == 4
    assert result["exit"]["signal"] == signal.SIGKILL


def test_a_root_that_hangs_without_its_engine_is_killed_before_the_grace_is_over(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--hang-on-term")
    result = machine.call("stop", id="pod/tiny/1", grace=600)
    check_stopped(machine, "pod/tiny/1", result)
    assert result["killed"] == 1


@pytest.mark.parametrize("with_supervisor", [True, False])
def test_an_orphaned_engine_is_found_and_ended(machine: Machine, with_supervisor: bool) -> None:
    machine.serve("pod/tiny/1", "--engine", "--ignore-term")
    if not with_supervisor:
        machine.kill_supervisor("pod/tiny/1")
    machine.kill("root")
    ended = machine.path("pod/tiny/1", "exit.json").exists
    wait_until(lambda: not with_supervisor or ended(), "the supervisor wrote down how it ended")
    seen = machine.observe("pod/tiny/1")
    assert (seen["state"], seen["members"]) == ("running", 2)
    assert (seen["exit"]["signal"], seen["exit"]["unknown"]) == ((9, False) if with_supervisor else (None, True))
    result = machine.call("stop", id="pod/tiny/1", grace=600)
    check_stopped(machine, "pod/tiny/1", result)
    assert result["killed"] == 2


def test_a_process_that_left_session_folder_and_parent_is_known_by_the_supervisor(machine: Machine) -> None:
    launched = machine.serve("pod/tiny/1", "--engine", "--daemon", "--ignore-term")
    daemon = machine.pid("daemon")
    wait_until(lambda: os.getsid(daemon) != launched["pid"], "it has a session of its own")
    machine.kill("root")
    assert machine.observe("pod/tiny/1")["members"] == 3
    check_stopped(machine, "pod/tiny/1", machine.call("stop", id="pod/tiny/1", grace=0))


def test_such_a_process_is_remembered_when_the_supervisor_is_killed(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--daemon")
    daemon = machine.pid("daemon")
    noted = machine.path("pod/tiny/1", "noted.json")
    wait_until(lambda: noted.exists() and f"[{daemon}," in noted.read_text(), "the supervisor noted it")
    machine.kill_supervisor("pod/tiny/1")
    machine.kill("root")
    assert machine.observe("pod/tiny/1")["members"] == 3
    check_stopped(machine, "pod/tiny/1", machine.call("stop", id="pod/tiny/1", grace=0))


def test_a_process_in_the_launchs_folder_belongs_to_it(machine: Machine) -> None:
    """Its session is its own and nobody noted it: what is left is where it works."""
    script = 'setsid sh -c \'echo $$ > "$0"; exec sleep 1000\' "$0" & wait'
    note = machine.notes / "worker"
    machine.call("launch", id="pod/tiny/1", kind="server", argv=["sh", "-c", script, str(note)])
    machine.pid("worker")
    machine.kill_supervisor("pod/tiny/1")
    machine.path("pod/tiny/1", "noted.json").unlink(missing_ok=True)
    os.kill(machine.observe("pod/tiny/1")["pid"], signal.SIGKILL)
    wait_until(lambda: machine.observe("pod/tiny/1")["members"] == 1, "only the worker is left")
    check_stopped(machine, "pod/tiny/1", machine.call("stop", id="pod/tiny/1", grace=0))


def test_a_bystander_is_left_alone(machine: Machine) -> None:
    """The same program, the same folder's parent, the same parent process: not of the launch."""
    machine.serve("pod/tiny/1", "--engine")
    other = machine.run("pod/other/1", "sleep", "1000")
    machine.call("stop", id="pod/tiny/1", grace=0)
    assert lives(other["pid"])


def test_a_persons_shell_in_the_folder_is_left_alone(machine: Machine) -> None:
    machine.serve("pod/tiny/1")
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(machine.path("pod/tiny/1", "work"))
        os.write(1, b"here")
        os.execvp("sleep", ["sleep", "1000"])  # noqa: S606 - no shell is wanted
    try:
        assert os.read(terminal, 4) == b"here"
        machine.call("stop", id="pod/tiny/1", grace=0)
        assert lives(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


@pytest.mark.parametrize("supervisor_lives", [True, False])
def test_shared_memory_and_sockets_are_removed(machine: Machine, shared_memory: Path, supervisor_lives: bool) -> None:
    machine.serve("pod/tiny/1", "--engine", "--socket", f"--shared-memory={shared_memory}")
    if not supervisor_lives:
        machine.kill_supervisor("pod/tiny/1")
    result = machine.call("stop", id="pod/tiny/1", grace=5)
    check_stopped(machine, "pod/tiny/1", result)
    assert result["shared_memory_removed"] == [str(shared_memory)]
    assert [Path(path).name for path in result["sockets_removed"]] == ["engine.sock"]
    assert not shared_memory.exists()


def test_shared_memory_of_an_engine_that_died_alone_is_removed(machine: Machine, shared_memory: Path) -> None:
    machine.serve("pod/tiny/1", "--engine", "--socket", f"--shared-memory={shared_memory}")
    noted = machine.path("pod/tiny/1", "noted.json")
    wait_until(lambda: noted.exists() and shared_memory.name in noted.read_text(), "the supervisor noted it")
    machine.kill("worker")
    machine.kill("engine")
    machine.kill("root")
    machine.await_state("pod/tiny/1", "exited")
    result = machine.call("stop", id="pod/tiny/1", grace=5)
    assert result["shared_memory_removed"] == [str(shared_memory)]
    assert [Path(path).name for path in result["sockets_removed"]] == ["engine.sock"]
    assert result["killed"] == 0


def test_shared_memory_that_somebody_else_uses_stays(machine: Machine, shared_memory: Path) -> None:
    machine.serve("pod/tiny/1", "--engine", f"--shared-memory={shared_memory}")
    with shared_memory.open():
        result = machine.call("stop", id="pod/tiny/1", grace=5)
    assert result["shared_memory_removed"] == []
    assert shared_memory.exists()


def test_the_port_is_closed_or_somebody_elses(machine: Machine) -> None:
    port = free_port()
    machine.serve("pod/tiny/1", "--engine", f"--port={port}", "--ignore-term", ports=[port])
    machine.hold("stop.before-reply")
    stop = machine.start("stop", id="pod/tiny/1", grace=0)
    machine.reached("stop.before-reply")
    with socket.create_server(("127.0.0.1", port)):
        machine.release("stop.before-reply")
        assert stop.result()["ports_closed"]


def test_gpu_memory_is_seen_free(machine: Machine) -> None:
    machine.gpus(2)
    machine.serve("pod/tiny/1", "--engine", "--memory=60000", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    inventory = machine.call("inventory")
    assert inventory["gpus"][0]["memory_used_mib"] == 60000
    assert inventory["compute_apps"] == [
        {"pid": machine.pid("worker"), "gpu_uuid": "GPU-0", "used_mib": 60000, "launch": "pod/tiny/1"}
    ]
    result = machine.call("stop", id="pod/tiny/1", grace=0)
    check_stopped(machine, "pod/tiny/1", result)
    assert result["memory"] == {"GPU-0": {"before": 0, "now": 0}}


def test_memory_that_stays_in_use_where_no_processes_are_listed_is_unexplained(machine: Machine) -> None:
    machine.gpus(1, mode="no_processes")
    machine.serve("pod/tiny/1", "--engine", "--memory=60000", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    machine.gpus(1, mode="no_processes", stuck_mib=60000)
    result = machine.call("stop", id="pod/tiny/1", grace=0)
    assert result["state"] == "memory_unexplained"
    assert result["memory"] == {"GPU-0": {"before": 0, "now": 60000}}
    assert machine.alive() == set()
    machine.gpus(1, mode="no_processes", stuck_mib=500)
    again = machine.call("stop", id="pod/tiny/1", grace=0)
    assert again["state"] == "stopped", "a later look may find the memory back, give or take 512 MiB"
    assert machine.observe("pod/tiny/1")["stopped"] == again


def test_a_gpu_that_tells_nothing_any_more_is_not_taken_for_free(machine: Machine) -> None:
    machine.gpus(1)
    machine.run("pod/one/1", "sleep", "1000", gpus=[{"uuid": "GPU-0", "share": 0.5}])
    machine.gpus(1, mode="no_driver")
    result = machine.call("stop", id="pod/one/1", grace=0)
    assert (result["state"], result["memory"]["GPU-0"]["now"]) == ("memory_unexplained", None)


def test_after_a_reboot_there_is_nothing_to_verify(machine: Machine) -> None:
    machine.gpus(1, mode="no_processes")
    launched = machine.run("pod/one/1", "sleep", "1000", gpus=[{"uuid": "GPU-0", "share": 0.5}])
    os.kill(launched["pid"], signal.SIGKILL)
    machine.boot("second")
    machine.gpus(1, mode="no_processes", stuck_mib=60000)
    result = machine.call("stop", id="pod/one/1", grace=0)
    assert (result["state"], result["killed"], result["memory"]) == ("stopped", 0, {})


def test_memory_of_a_neighbour_on_the_same_gpu_explains_itself(machine: Machine) -> None:
    machine.gpus(1, mode="no_processes")
    machine.run("pod/one/1", "sleep", "1000", gpus=[{"uuid": "GPU-0", "share": 0.5}])
    machine.run("pod/two/1", "sleep", "1000", gpus=[{"uuid": "GPU-0", "share": 0.5}])
    machine.gpus(1, mode="no_processes", stuck_mib=30000)
    assert machine.call("stop", id="pod/one/1", grace=0)["state"] == "stopped"


def verifying(machine: Machine, launch_id: str) -> Conversation:
    """Begin a stop, and return it once nvidia-smi was asked about what is left."""
    calls = machine.gpu / "calls"
    stop = machine.start("stop", id=launch_id, grace=0)
    stop.read_until(lambda line: line.get("step") == "verify", "no process is left")
    # The last question of a look: what follows it is another look. It does not look for ever.
    before = calls.read_text().count("query-compute-apps")
    wait_until(lambda: calls.read_text().count("query-compute-apps") > before, "it has looked at the GPUs")
    return stop


def test_memory_that_drains_late_is_waited_for(machine: Machine) -> None:
    machine.gpus(1, mode="no_processes")
    machine.serve("pod/tiny/1", "--engine", "--memory=60000", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    machine.gpus(1, mode="no_processes", stuck_mib=60000)
    stop = verifying(machine, "pod/tiny/1")
    machine.gpus(1, mode="no_processes", stuck_mib=512)
    result = stop.result()
    check_stopped(machine, "pod/tiny/1", result)
    assert result["memory"] == {"GPU-0": {"before": 0, "now": 512}}


def test_a_dead_process_that_the_driver_still_lists_is_waited_for(machine: Machine) -> None:
    machine.gpus(1)
    machine.serve("pod/tiny/1", "--engine", "--memory=60000", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    machine.gpus(1, ghosts=[machine.pid("worker")])
    stop = verifying(machine, "pod/tiny/1")
    assert machine.alive() == set()
    machine.gpus(1)
    check_stopped(machine, "pod/tiny/1", stop.result())


def test_a_stop_of_what_was_never_launched_forbids_it_for_ever(machine: Machine) -> None:
    result = machine.call("stop", id="pod/tiny/1", grace=5)
    assert (result["state"], result["killed"], result["exit"]) == ("stopped", 0, None)
    seen = machine.observe("pod/tiny/1")
    assert (seen["state"], seen["stop_requested"], seen["stopped"]["state"]) == ("absent", True, "stopped")
    with pytest.raises(PodletError, match="new id") as refused:
        machine.run("pod/tiny/1", "true")
    assert refused.value.code == "launch_stopped"
    with pytest.raises(PodletError, match="launch_stopped"):
        machine.call("run", id="pod/tiny/1", argv=["true"])


def test_a_stop_of_what_has_ended_by_itself(machine: Machine) -> None:
    machine.run("pod/job/1", "sh", "-c", "exit 5")
    machine.await_state("pod/job/1", "exited")
    result = machine.call("stop", id="pod/job/1", grace=5)
    check_stopped(machine, "pod/job/1", result)
    assert (result["killed"], result["exit"]["code"]) == (0, 5)


def test_a_stop_before_the_exec_prevents_it(machine: Machine) -> None:
    machine.hold("launch.before-exec")
    ran = machine.folder / "ran"
    launch = machine.start("launch", id="pod/job/1", kind="run", argv=["touch", str(ran)])
    machine.reached("launch.before-exec")
    stop = machine.start("stop", id="pod/job/1", grace=5)
    wait_until(machine.path("pod/job/1", "stop.json").exists, "the stop is written down")
    machine.release("launch.before-exec")
    assert stop.result()["state"] == "stopped"
    observed = launch.result()
    assert (observed["state"], observed["exit"]["error"]) == ("exited", "stopped before it ran")
    assert not ran.exists()


def test_a_stop_that_is_only_written_down_prevents_the_exec_too(machine: Machine) -> None:
    machine.hold("launch.before-exec")
    machine.hold("stop.before-term")
    ran = machine.folder / "ran"
    launch = machine.start("launch", id="pod/job/1", kind="run", argv=["touch", str(ran)])
    machine.reached("launch.before-exec")
    stop = machine.start("stop", id="pod/job/1", grace=5)
    machine.reached("stop.before-term")
    machine.release("launch.before-exec")
    assert launch.result()["exit"]["error"] == "stopped before it ran"
    machine.release("stop.before-term")
    assert stop.result()["state"] == "stopped"
    assert not ran.exists()


def test_a_stop_finishes_without_its_caller(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine", "--ignore-term")
    machine.hold("stop.before-kill")
    stop = machine.start("stop", id="pod/tiny/1", grace=0)
    machine.reached("stop.before-kill")
    for stream in (stop.process.stdin, stop.process.stdout):
        assert stream
        stream.close()
    stop.process.send_signal(signal.SIGHUP)
    machine.release("stop.before-kill")
    seen = wait_until(lambda: machine.observe("pod/tiny/1")["stopped"], "the stop went on")
    check_stopped(machine, "pod/tiny/1", seen)


@pytest.mark.parametrize("point", ["stop.before-term", "stop.before-kill", "stop.before-reply"])
def test_a_stop_that_was_killed_is_carried_on_by_the_next(machine: Machine, point: str) -> None:
    machine.serve("pod/tiny/1", "--engine", "--ignore-term")
    machine.hold(point)
    stop = machine.start("stop", id="pod/tiny/1", grace=0)
    machine.reached(point)
    stop.kill()
    machine.release(point)
    check_stopped(machine, "pod/tiny/1", machine.call("stop", id="pod/tiny/1", grace=0))


def test_a_run_and_all_its_children_are_asked_to_end(machine: Machine) -> None:
    machine.run("task/ws/1", "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    wait_until(lambda: machine.observe("task/ws/1")["members"] == 3, "its children are there")
    result = machine.call("stop", id="task/ws/1", grace=20)
    check_stopped(machine, "task/ws/1", result)
    assert result["killed"] == 0


def test_a_stopped_process_dies_too(machine: Machine) -> None:
    machine.serve("pod/tiny/1", "--engine")
    os.kill(machine.pid("engine"), signal.SIGSTOP)
    os.kill(machine.pid("root"), signal.SIGSTOP)
    check_stopped(machine, "pod/tiny/1", machine.call("stop", id="pod/tiny/1", grace=0.2))


def test_what_forks_all_the_time_is_ended(machine: Machine) -> None:
    script = "trap '' TERM; while :; do (trap '' TERM; sleep 0.05; sleep 0.05) & sleep 0.01; done"
    machine.run("task/ws/1", "sh", "-c", script)
    wait_until(lambda: machine.observe("task/ws/1")["members"] > 3, "it forks")
    check_stopped(machine, "task/ws/1", machine.call("stop", id="task/ws/1", grace=0))


def test_a_stop_ends_what_is_left_of_a_launch_whose_records_were_removed(machine: Machine, shared_memory: Path) -> None:
    machine.serve("pod/tiny/1", "--engine", "--socket", f"--shared-memory={shared_memory}")
    sockets = Path(podlet.Root(str(machine.root)).launch("pod/tiny/1").socket_folder())
    wait_until(lambda: shared_memory.exists() and any(sockets.iterdir()), "it has made its files")
    wait_until(lambda: removed(machine.path("pod/tiny/1")), "its records are removed")
    assert machine.observe("pod/tiny/1")["state"] == "absent"
    assert machine.call("stop", id="pod/tiny/1", grace=0)["killed"] == 3
    assert machine.alive() == set()
    assert not shared_memory.exists()
    assert not sockets.exists()


def removed(folder: Path) -> bool:
    """Remove a folder in which a supervisor may be writing; return whether that is done."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def careless_init() -> Iterator[None]:
    """Be what orphans are given to, as PID 1 of a container is, and reap none of them until the test is over."""
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    yield
    libc.prctl(36, 0, 0, 0, 0)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


@pytest.mark.usefixtures("careless_init")
def test_what_died_and_was_never_reaped_is_gone(machine: Machine) -> None:
    machine.gpus(1)
    machine.serve("pod/tiny/1", "--engine", "--memory=60000", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    tree = [machine.pid(role) for role in ("root", "engine")]  # the engine may reap its worker before it dies itself
    machine.kill_supervisor("pod/tiny/1")
    machine.kill("root")
    assert machine.observe("pod/tiny/1")["members"] == 2
    result = machine.call("stop", id="pod/tiny/1", grace=0)
    assert (result["state"], result["killed"]) == ("stopped", 2)
    assert [state_of(pid) for pid in tree] == ["Z", "Z"]
    seen = machine.observe("pod/tiny/1")
    assert (seen["state"], seen["members"]) == ("exited", 0)


def state_of(pid: int) -> str:
    """Return the letter with which /proc shows the state of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_first_thread_alone_has_ended_is_alive(machine: Machine) -> None:
    """It shows as a zombie, and still holds all that it had."""
    script = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(1000,)).start();"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    launched = machine.run("task/ws/1", sys.executable, "-c", script)
    wait_until(lambda: state_of(launched["pid"]) == "Z", "its first thread has ended")
    seen = machine.observe("task/ws/1")
    assert (seen["state"], seen["members"]) == ("running", 1)
    assert machine.call("stop", id="task/ws/1", grace=0)["killed"] == 1


@pytest.mark.parametrize("with_pidfd", [True, False])
def test_a_signal_reaches_the_very_process_or_nobody(monkeypatch: pytest.MonkeyPatch, with_pidfd: bool) -> None:
    if not with_pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    with subprocess.Popen(["sleep", "1000"]) as process:
        known = podlet.read_process(process.pid)
        assert known
        podlet.send_signal(process.pid, known.start_time + 1, signal.SIGKILL)
        podlet.send_signal(process.pid, known.start_time, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        podlet.send_signal(process.pid, known.start_time, signal.SIGTERM)
