"""The podlet's launch: once per id, whoever asks how often and whoever dies in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.activity.podlet_harness import Conversation, Machine, PodletError, free_port, lives, wait_until


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def count_starts(machine: Machine) -> int:
    """Return how often the counting program ran."""
    log = machine.folder / "starts"
    return len(log.read_text().splitlines()) if log.exists() else 0


def counting(machine: Machine) -> list[str]:
    """Return a program that writes down that it ran, then lives on."""
    return ["sh", "-c", 'echo "$$" >> "$1"; exec sleep 1000', "sh", str(machine.folder / "starts")]


def test_a_launch_runs_detached_from_its_launcher(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sh", "-c", "echo hello; echo oops >&2; exec sleep 1000")
    assert launched["created"]
    assert launched["state"] == "running"
    assert launched["exit"] is None
    assert launched["boot"] == "first"
    process = machine.read("pod/job/1", "process.json")
    assert (process["pid"], process["start_time"]) == (launched["pid"], launched["start_time"])
    assert os.getsid(launched["pid"]) == launched["pid"]
    assert os.getsid(process["supervisor"]) not in (os.getsid(0), launched["pid"])
    assert launched["started_at"] >= launched["created_at"]
    log = machine.path("pod/job/1", "output.log")
    wait_until(lambda: log.read_text() == "hello\noops\n", "both streams are in the log")
    assert Path(f"/proc/{launched['pid']}/cwd").readlink() == machine.path("pod/job/1", "work")
    assert Path(f"/proc/{launched['pid']}/fd/0").readlink() == Path(os.devnull)


def test_a_program_inherits_no_descriptors_and_no_ignored_signals(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sleep", "1000")
    descriptors = Path(f"/proc/{launched['pid']}/fd")  # it may be loading its libraries
    wait_until(lambda: sorted(path.name for path in descriptors.iterdir()) == ["0", "1", "2"], "it has only three")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{launched['pid']}/status").read_text().splitlines())
    # The C library keeps 32 and 33 for itself: nobody can set them, and GNU make's children find them ignored.
    assert int(status["SigIgn"], 16) & ~(0b11 << 31) == 0
    assert int(status["SigBlk"], 16) == 0


def test_the_supervisor_holds_nothing_of_its_launcher(machine: Machine) -> None:
    machine.run("pod/job/1", "sleep", "1000", secrets={"TOKEN": "very-secret-value"})
    supervisor = Path(f"/proc/{machine.read('pod/job/1', 'process.json')['supervisor']}")
    assert b"very-secret-value" not in (supervisor / "environ").read_bytes() + (supervisor / "cmdline").read_bytes()

    def held() -> list[str]:
        targets = []
        for path in (supervisor / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that it has closed meanwhile
                targets.append(str(path.readlink()))
        return targets

    # The pipe on which it said that the program runs is closed right after that.
    wait_until(lambda: not [one for one in held() if one.startswith(("pipe:", "socket:"))], "nothing of its launcher")
    assert str(machine.path("pod/job/1", "supervisor.lock")) in held()


def test_folders_and_files_are_private(machine: Machine) -> None:
    machine.run("pod/job/1", "sleep", "1000", workspace="task/ws", api_key=True)
    for path in [machine.root, *machine.root.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):  # one that the supervisor has renamed meanwhile
            mode = path.stat().st_mode
            assert stat.S_IMODE(mode) == (0o700 if stat.S_ISDIR(mode) else 0o600), path


def test_the_same_id_again_returns_what_is_there(machine: Machine) -> None:
    first = machine.run("pod/job/1", *counting(machine))
    second = machine.run("pod/job/1", *counting(machine))
    assert not second["created"]
    assert (second["pid"], second["start_time"]) == (first["pid"], first["start_time"])
    wait_until(lambda: count_starts(machine), "it ran")
    assert count_starts(machine) == 1


def test_the_same_id_after_its_end_is_not_run_again(machine: Machine) -> None:
    machine.run("pod/job/1", "sh", "-c", "exit 7")
    machine.await_state("pod/job/1", "exited")
    again = machine.run("pod/job/1", "sh", "-c", "exit 7")
    assert not again["created"]
    assert (again["state"], again["exit"]["code"]) == ("exited", 7)


def test_many_launches_of_one_id_at_the_same_time_run_it_once(machine: Machine) -> None:
    request = {"id": "pod/job/1", "kind": "run", "argv": counting(machine)}
    answers = [one.result() for one in [machine.start("launch", **request) for _ in range(6)]]
    assert [answer["created"] for answer in answers].count(True) == 1
    machine.await_state("pod/job/1", "running")
    wait_until(lambda: count_starts(machine), "it ran")
    assert count_starts(machine) == 1


def test_a_launcher_killed_before_the_exec_leaves_one_launch(machine: Machine) -> None:
    machine.hold("launch.before-exec")
    first = machine.start("launch", id="pod/job/1", kind="run", argv=counting(machine))
    machine.reached("launch.before-exec")
    first.kill()
    waiting = machine.run("pod/job/1", *counting(machine))
    assert (waiting["state"], waiting["created"]) == ("starting", False)
    assert count_starts(machine) == 0
    machine.release("launch.before-exec")
    wait_until(lambda: count_starts(machine), "the supervisor went on alone")
    machine.await_state("pod/job/1", "running")
    again = machine.run("pod/job/1", *counting(machine))
    assert (again["state"], again["created"]) == ("running", False)
    assert count_starts(machine) == 1


def test_a_launcher_killed_before_its_reply_leaves_one_launch(machine: Machine) -> None:
    machine.hold("launch.before-reply")
    first = machine.start("launch", id="pod/job/1", kind="run", argv=counting(machine))
    machine.reached("launch.before-reply")
    first.kill()
    machine.release("launch.before-reply")
    again = machine.run("pod/job/1", *counting(machine))
    assert (again["state"], again["created"]) == ("running", False)
    wait_until(lambda: count_starts(machine), "it ran")
    assert count_starts(machine) == 1


def test_a_supervisor_killed_before_the_exec_runs_nothing(machine: Machine) -> None:
    machine.hold("launch.before-exec")
    first = machine.start("launch", id="pod/job/1", kind="run", argv=counting(machine))
    machine.reached("launch.before-exec")
    machine.kill_supervisor("pod/job/1")
    with pytest.raises(PodletError, match="launch_lost"):
        first.result()
    seen = machine.await_state("pod/job/1", "exited")
    assert seen["exit"]["unknown"]
    assert count_starts(machine) == 0


def test_a_record_without_a_process_is_launched_anew(machine: Machine) -> None:
    """The launcher died between its record and its supervisor's first step."""
    machine.run("pod/job/1", "sh", "-c", "exit 7")
    wait_until(lambda: machine.path("pod/job/1", "ended.json").exists(), "it ended")
    wait_until(partial(machine.is_left_alone, machine.path("pod/job/1")), "its supervisor is gone")
    for name in ("process.json", "exit.json", "ended.json"):
        machine.path("pod/job/1", name).unlink()
    assert machine.observe("pod/job/1")["state"] == "absent"
    again = machine.run("pod/job/1", "sleep", "1000")
    assert (again["created"], again["state"]) == (True, "running")


def test_a_missing_program_leaves_no_record(machine: Machine) -> None:
    with pytest.raises(PodletError, match="no-such-program") as refused:
        machine.run("pod/job/1", "no-such-program")
    assert refused.value.code == "program_not_found"
    assert machine.call("observe")["launches"] == []


def test_a_program_that_cannot_be_executed_is_an_exit_with_its_reason(machine: Machine) -> None:
    broken = machine.folder / "bin" / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    launched = machine.run("pod/job/1", "broken")
    assert launched["state"] == "exited"
    assert "No such file" in launched["exit"]["error"]
    assert (launched["exit"]["code"], launched["exit"]["signal"], launched["started_at"]) == (None, None, None)


def test_the_exit_status_is_kept(machine: Machine) -> None:
    machine.run("pod/ends/1", "sh", "-c", "exit 42")
    machine.run("pod/dies/1", "sh", "-c", "kill -9 $$")
    for launch_id, code, number in (("pod/ends/1", 42, None), ("pod/dies/1", None, 9)):
        ending = machine.await_state(launch_id, "exited")["exit"]
        assert (ending["code"], ending["signal"], ending["unknown"]) == (code, number, False)


def test_without_a_supervisor_the_exit_status_is_unknown_and_not_guessed(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sleep", "1000")
    machine.kill_supervisor("pod/job/1")
    seen = machine.observe("pod/job/1")
    assert (seen["state"], seen["exit"], seen["members"]) == ("running", None, 1)
    os.kill(launched["pid"], signal.SIGKILL)
    machine.await_state("pod/job/1", "exited")
    assert machine.observe("pod/job/1")["exit"] == {
        "code": None, "signal": None, "error": None, "unknown": True, "at": None,
    }  # fmt: skip


def test_another_boot_means_that_everything_is_gone(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sleep", "1000")
    machine.boot("second")
    seen = machine.observe("pod/job/1")
    assert (seen["state"], seen["members"], seen["exit"]["unknown"], seen["boot"]) == ("exited", 0, True, "first")
    assert machine.call("stop", id="pod/job/1", grace=0)["killed"] == 0
    assert lives(launched["pid"]), "a process of another boot's pid is somebody else"


def test_secrets_reach_the_process_and_never_the_disk(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sleep", "1000", secrets={"HF_TOKEN": "hf_top_secret"}, environment={"A": "b"})
    environment = machine.variables(launched["pid"])
    assert (environment["HF_TOKEN"], environment["A"]) == ("hf_top_secret", "b")
    for path in machine.root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # one that the supervisor has renamed meanwhile
            assert path.is_dir() or b"hf_top_secret" not in path.read_bytes(), path
    assert machine.read("pod/job/1", "record.json")["secret_names"] == ["HF_TOKEN"]


def test_a_server_gets_its_key_ports_gpus_and_a_short_socket_folder(machine: Machine) -> None:
    machine.gpus(3)
    request = machine.server("pod/tiny/1", "{loopback}", ports=[free_port()], api_key=True)
    request["argv"] = ["sh", "-c", 'echo "$0"; exec sleep 1000', "{loopback}"]
    gpus = [{"uuid": "GPU-2", "share": 0.5}, {"uuid": "GPU-1", "share": 0.5}]
    launched = machine.call("launch", **request, gpus=gpus, internal_ports=[20000, 20])
    environment = machine.variables(launched["pid"])
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,1"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert environment["VLLM_PORT"] == "20000"
    key = machine.path("pod/tiny/1", "api_key").read_text()
    assert environment["VLLM_API_KEY"] == key
    assert len(key) > 30
    assert len(environment["VLLM_RPC_BASE_PATH"]) < 40
    assert Path(environment["VLLM_RPC_BASE_PATH"]).is_dir()
    assert environment["TMPDIR"] == environment["VLLM_RPC_BASE_PATH"]
    wait_until(lambda: machine.observe("pod/tiny/1")["last_line"] == "127.0.0.1", "the address took its place")
    assert machine.read("pod/tiny/1", "record.json")["memory_before"] == {"GPU-2": 0, "GPU-1": 0}
    machine.call("stop", id="pod/tiny/1", grace=1)
    assert not machine.path("pod/tiny/1", "api_key").exists()
    assert not Path(environment["VLLM_RPC_BASE_PATH"]).exists()


def test_a_run_gets_the_address_and_key_of_its_server(machine: Machine) -> None:
    port = free_port()
    machine.call("launch", **machine.server("pod/tiny/1", ports=[port], api_key=True))
    launched = machine.run("task/ws/1", "sleep", "1000", server="pod/tiny/1", workspace="task/ws")
    environment = machine.variables(launched["pid"])
    assert environment["OPENAI_BASE_URL"] == f"http://127.0.0.1:{port}/v1"
    assert environment["OPENAI_API_KEY"] == machine.path("pod/tiny/1", "api_key").read_text()
    assert environment["OPENAI_MODEL"] == "tiny"
    assert Path(f"/proc/{launched['pid']}/cwd").readlink() == machine.root / "work" / "task" / "ws"
    machine.call("stop", id="pod/tiny/1", grace=0)
    with pytest.raises(PodletError, match="pod/tiny/1") as refused:
        machine.run("task/ws/2", "true", server="pod/tiny/1")
    assert refused.value.code == "server_not_running"


@pytest.mark.parametrize(("first", "second", "fits"), [(0.5, 0.5, True), (0.9, 0.1, True), (0.5, 0.6, False)])
def test_shares_of_a_gpu_add_up_to_one(machine: Machine, first: float, second: float, fits: bool) -> None:
    machine.gpus(2)
    machine.run("pod/one/1", "sleep", "1000", gpus=[{"uuid": "GPU-1", "share": first}])
    machine.run("pod/elsewhere/1", "sleep", "1000", gpus=[{"uuid": "GPU-0", "share": 1}])
    gpus = [{"uuid": "GPU-1", "share": second}]
    if fits:
        assert machine.run("pod/two/1", "sleep", "1000", gpus=gpus)["created"]
        return
    with pytest.raises(PodletError, match="pod/one/1") as refused:
        machine.run("pod/two/1", "sleep", "1000", gpus=gpus)
    assert refused.value.code == "gpu_share_taken"
    assert not machine.path("pod/two/1").exists()
    machine.call("stop", id="pod/one/1", grace=0)
    assert machine.run("pod/two/1", "sleep", "1000", gpus=gpus)["created"]


def test_a_share_is_held_while_an_orphan_lives(machine: Machine) -> None:
    machine.gpus(1)
    machine.serve("pod/one/1", "--engine", gpus=[{"uuid": "GPU-0", "share": 0.9}])
    machine.kill("root")
    with pytest.raises(PodletError, match="gpu_share_taken"):
        machine.run("pod/two/1", "true", gpus=[{"uuid": "GPU-0", "share": 0.9}])


def test_two_launches_at_the_same_time_cannot_both_have_a_gpu(machine: Machine) -> None:
    machine.gpus(1)
    gpus = [{"uuid": "GPU-0", "share": 0.9}]
    requests = [
        machine.start("launch", id=f"pod/job/{n}", kind="run", argv=["sleep", "1000"], gpus=gpus) for n in range(4)
    ]
    outcomes = [outcome(request) for request in requests]
    assert sorted(outcomes) == ["created"] + ["gpu_share_taken"] * 3


def outcome(request: Conversation) -> str:
    """Return what became of a launch: created, there before, or why it was refused."""
    try:
        return "created" if request.result()["created"] else "there before"
    except PodletError as error:
        return error.code


def test_a_gpu_that_is_not_there_is_refused(machine: Machine) -> None:
    machine.gpus(1)
    with pytest.raises(PodletError, match="GPU-0") as refused:
        machine.run("pod/job/1", "true", gpus=[{"uuid": "GPU-7", "share": 0.9}])
    assert refused.value.code == "gpu_missing"
    assert not machine.path("pod/job/1").exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::"])  # noqa: S104 - what is refused
def test_a_port_that_somebody_listens_on_is_refused(machine: Machine, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PodletError, match=rf"process {os.getpid()} .*{port}") as refused:
            machine.run("pod/job/1", "true", ports=[port])
    assert refused.value.code == "port_taken"
    assert not machine.path("pod/job/1").exists()


def test_a_listener_on_another_machines_loopback_is_none_of_ours(machine: Machine) -> None:
    with socket.create_server(("127.77.0.1", free_port())) as listener:
        assert machine.run("pod/job/1", "true", ports=[listener.getsockname()[1]])["created"]


def test_ports_of_living_launches_are_refused(machine: Machine) -> None:
    machine.run("pod/one/1", "sleep", "1000", ports=[18001], internal_ports=[20000, 20])
    for ports, internal in (([18001], None), ([18002], [20019, 20]), ([20005], None)):
        with pytest.raises(PodletError, match="pod/one/1") as refused:
            machine.run("pod/two/1", "true", ports=ports, internal_ports=internal)
        assert refused.value.code == "port_taken"
    assert machine.run("pod/two/1", "true", ports=[18002], internal_ports=[20020, 20])["created"]


def test_observe_tells_of_everything_or_of_what_is_asked(machine: Machine) -> None:
    machine.run("pod/one/1", "sleep", "1000")
    machine.run("pod/two/1", "true")
    everything = machine.call("observe", ids=None)
    assert [launch["id"] for launch in everything["launches"]] == ["pod/one/1", "pod/two/1"]
    assert everything["boot"] == "first"
    absent = machine.observe("pod/three/1")
    assert (absent["state"], absent["pid"], absent["kind"], absent["stop_requested"]) == ("absent", None, None, False)


def test_a_launch_keeps_the_name_of_its_owner(machine: Machine) -> None:
    assert machine.run("pod/one/1", "sleep", "1000", owner="registration-7")["owner"] == "registration-7"
    machine.run("pod/two/1", "true")
    assert [launch["owner"] for launch in machine.call("observe")["launches"]] == ["registration-7", None]


def test_a_pid_used_again_is_not_taken_for_the_launch(machine: Machine) -> None:
    launched = machine.run("pod/job/1", "sleep", "1000")
    machine.kill_supervisor("pod/job/1")
    os.kill(launched["pid"], signal.SIGKILL)
    stranger = machine.run("pod/stranger/1", "sleep", "1000")
    process = machine.read("pod/job/1", "process.json")
    process.update(pid=stranger["pid"], session=stranger["pid"], start_time=stranger["start_time"] - 1)
    machine.path("pod/job/1", "process.json").write_text(json.dumps(process))
    seen = machine.observe("pod/job/1")
    assert (seen["state"], seen["members"]) == ("exited", 0)
    assert machine.call("stop", id="pod/job/1", grace=0)["killed"] == 0
    assert machine.observe("pod/stranger/1")["state"] == "running"
