"""The podlet's adoption: a server that somebody else started becomes a launch, and nothing of it is touched."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.activity.podlet_harness import (
    DEADLINE,
    FAKE_SERVER,
    Json,
    Machine,
    PodletError,
    free_port,
    lives,
    wait_until,
)

LAUNCH = "pod/tiny/1"
KEY = "key-of-somebody-else"
TREE = {"root", "engine", "worker"}


class Foreign:
    """A server that was started by hand: with a wrapper in a session of its own, as people and their tools do."""

    def __init__(self, machine: Machine, *options: str, wrapper: str = "{server}; echo ended with $?") -> None:
        self.machine = machine
        self.port = free_port()
        self.log = machine.folder / "foreign.log"
        program = machine.folder / "bin" / "vllm"
        shutil.copy(FAKE_SERVER, program)
        words = [sys.executable, "-I", "-S", str(program), "--notes", str(machine.notes), "--port", str(self.port)]
        server = shlex.join([*words, *options])
        with self.log.open("wb") as log:
            self.wrapper = subprocess.Popen(
                ["bash", "-c", wrapper.format(server=server)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**machine.environment, "VLLM_API_KEY": KEY, "HF_TOKEN": "hf_of_somebody_else"},
                start_new_session=True,
            )
        machine.pid("root")
        if "--engine" in options:
            machine.pid("worker")

    def adopt(self, **fields: object) -> Json:
        """Adopt it with what its starter would have kept of it."""
        request = {"id": LAUNCH, "pid": self.wrapper.pid, "port": self.port, "owner": "me"}
        return self.machine.call("adopt", **{**request, "gpus": [{"uuid": "GPU-1", "share": 0.9}], **fields})

    def end(self) -> None:
        if self.wrapper.poll() is None:
            os.killpg(self.wrapper.pid, signal.SIGKILL)
        self.wrapper.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        machine.gpus(2)
        yield machine


@pytest.fixture
def foreign(machine: Machine) -> Iterator[Foreign]:
    server = Foreign(machine, "--engine", "--memory=1000", "--say=one line")
    yield server
    server.end()


def refusal(server: Foreign, **fields: object) -> PodletError:
    with pytest.raises(PodletError) as refused:
        server.adopt(**fields)
    assert "nothing was touched" in refused.value.message
    assert not server.machine.path(LAUNCH).exists()
    return refused.value


def test_a_server_is_taken_over_as_it_is(machine: Machine, foreign: Foreign) -> None:
    before = {role: machine.pid(role) for role in TREE}
    seen = foreign.adopt()
    assert (seen["created"], seen["state"], seen["pid"], seen["owner"]) == (True, "running", before["root"], "me")
    assert (seen["readiness"], seen["exit"], seen["ports"]) == ("process", None, [foreign.port])
    # What nvidia-smi shows counts, not what was kept of it.
    assert seen["gpus"] == [{"uuid": "GPU-0", "share": 0.9}]
    assert seen["last_line"] == "one line"
    assert machine.path(LAUNCH, "output.log").readlink() == foreign.log
    assert machine.path(LAUNCH, "api_key").read_text() == KEY
    assert machine.path(LAUNCH, "api_key").stat().st_mode & 0o777 == 0o600
    assert KEY not in machine.path(LAUNCH, "record.json").read_text()
    again = foreign.adopt()
    assert (again["created"], again["pid"]) == (False, seen["pid"])
    assert {role: machine.pid(role) for role in TREE} == before
    assert machine.alive() >= TREE


def test_it_is_watched_like_any_other(machine: Machine, foreign: Foreign) -> None:
    foreign.adopt()
    watch = machine.start("watch", interval=0.05, beat=0.1)
    watch.read_until(lambda line: line["type"] == "change" and line["launches"][0]["readiness"] == "ready", "ready")
    watch.read_until(lambda line: line["type"] == "beat" and line["launches"][0]["log_size"] > 0, "a beat")
    os.kill(machine.pid("root"), signal.SIGKILL)
    gone = watch.read_until(lambda line: line["type"] == "change" and line["launches"][0]["exit"], "its end")
    # Nobody of ours saw how it ended, and its engine lives on.
    assert gone["launches"][0]["exit"]["unknown"] is True
    assert gone["launches"][0]["members"] > 0
    watch.end_stdin()
    watch.result()
    result = machine.call("stop", id=LAUNCH, grace=5)
    assert (result["state"], result["exit"]["unknown"], machine.alive()) == ("stopped", True, set())


def test_its_stop_is_verified_and_its_log_stays(machine: Machine, foreign: Foreign) -> None:
    foreign.adopt()
    result = machine.call("stop", id=LAUNCH, grace=20)
    assert (result["state"], result["processes_left"], result["ports_closed"]) == ("stopped", 0, True)
    assert machine.alive() == set()
    assert foreign.wrapper.wait(DEADLINE) in (0, -signal.SIGKILL)
    assert not machine.path(LAUNCH, "api_key").exists()
    assert foreign.log.read_text().startswith("one line")


@pytest.mark.parametrize("option", ["--ignore-term", "--hang-on-term"])
def test_one_that_does_not_obey_is_killed(machine: Machine, option: str) -> None:
    server = Foreign(machine, "--engine", option)
    server.adopt(gpus=[])
    result = machine.call("stop", id=LAUNCH, grace=1)
    assert (result["state"], machine.alive()) == ("stopped", set())
    assert result["killed"] > 0
    server.end()


def test_the_processes_around_it_are_left_alone(machine: Machine) -> None:
    # The server is one job of several, below a process that was kept as its own: what is beside it is not it.
    server = Foreign(machine, "--engine", wrapper="sleep 1000 & echo $! >&2; setsid {server} & wait")
    beside = int(wait_until(lambda: server.log.read_text().strip(), "the job beside it has begun").split()[0])
    server.adopt(gpus=[])
    machine.call("stop", id=LAUNCH, grace=10)
    assert machine.alive() == set()
    assert lives(beside)
    server.end()


def test_what_its_command_line_says_counts(machine: Machine) -> None:
    own = ("--api-key", "key-in-argv", "second-key", "--gpu-memory-utilization", "0.35", "--served-model-name", "tiny")
    server = Foreign(machine, "--engine", *own, wrapper="exec {server}")
    server.adopt()
    record = machine.read(LAUNCH, "record.json")
    assert (record["served_name"], record["gpus"]) == ("tiny", [{"uuid": "GPU-1", "share": 0.35}])
    assert (record["memory_before"], record["api_key"]) == ({"GPU-1": None}, True)
    assert record["adopted"]["pid"] == server.wrapper.pid == machine.pid("root")
    assert "key-in-argv" not in str(record)
    assert "second-key" not in str(record)
    assert record["argv"].count("***") == 2
    assert machine.path(LAUNCH, "api_key").read_text() == "key-in-argv"
    server.end()


def test_a_process_that_is_gone_is_refused(machine: Machine, foreign: Foreign) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert refusal(foreign, pid=gone.pid).code == "process_gone"
    assert machine.alive() >= TREE


def test_a_port_that_nobody_listens_on_is_refused(foreign: Foreign) -> None:
    refused = refusal(foreign, port=free_port())
    assert refused.code == "port_not_open"
    assert f"process {foreign.wrapper.pid} is bash" in refused.message


def test_another_program_on_the_port_is_refused(machine: Machine, foreign: Foreign) -> None:
    stranger = subprocess.Popen(["sleep", "1000"])
    refused = refusal(foreign, pid=stranger.pid)
    assert refused.code == "other_program"
    assert f"process {machine.pid('root')}, " in refused.message
    assert f"process {stranger.pid} is sleep" in refused.message
    assert lives(stranger.pid)
    stranger.kill()
    stranger.wait()


def test_a_server_that_is_no_vllm_is_refused(foreign: Foreign) -> None:
    port = free_port()
    words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    other = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
    wait_until(lambda: Path(f"/proc/{other.pid}").exists(), "it runs")
    wait_until(lambda: _listens(port), "it listens")
    refused = refusal(foreign, pid=other.pid, port=port)
    assert refused.code == "other_program"
    assert "is no vLLM" in refused.message
    other.kill()
    other.communicate()


def _listens(port: int) -> bool:
    from podlet import podlet

    return bool(podlet.listener_inodes([port]))


def test_a_server_of_ours_is_not_adopted_again(foreign: Foreign) -> None:
    foreign.adopt(id="pod/other/1")
    refused = refusal(foreign)
    assert (refused.code, "launch pod/other/1" in refused.message) == ("process_owned", True)


def test_an_adoption_that_was_cut_off_is_done_again(machine: Machine, foreign: Foreign) -> None:
    machine.hold("adopt.before-process")
    request = {"id": LAUNCH, "pid": foreign.wrapper.pid, "port": foreign.port, "gpus": []}
    cut_off = machine.start("adopt", **request)
    machine.reached("adopt.before-process")
    cut_off.kill()
    machine.release("adopt.before-process")
    assert machine.observe(LAUNCH)["state"] == "absent"
    seen = foreign.adopt()
    assert (seen["created"], seen["state"]) == (True, "running")


def test_a_later_launch_goes_around_what_was_adopted(machine: Machine, foreign: Foreign) -> None:
    foreign.adopt()
    with pytest.raises(PodletError) as refused:
        machine.serve("pod/more/1", gpus=[{"uuid": "GPU-0", "share": 0.5}])
    assert refused.value.code == "gpu_share_taken"


def test_one_stopped_before_it_was_adopted_never_is(machine: Machine, foreign: Foreign) -> None:
    machine.call("stop", id=LAUNCH)
    with pytest.raises(PodletError) as refused:
        foreign.adopt()
    assert refused.value.code == "launch_stopped"
    assert machine.alive() >= TREE
