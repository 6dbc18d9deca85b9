"""`podctl up | down | status | doctor` as a person types them: real processes, a real Temporal server and worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from podctl.paths import PodctlPaths
from podctl.processes import free_ports
from podctl.run_file import Run, read_run


class Podctl:
    def __init__(self, paths: PodctlPaths) -> None:
        self.paths = paths
        self.environment = {**os.environ, **paths.environment()}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, status: int = 0) -> str:
        program = self.start(*arguments)
        output, errors = program.communicate(timeout=120)
        assert program.returncode == status, output + errors
        assert "Traceback" not in errors
        return output + errors

    def json(self, *arguments: str, status: int = 0) -> Any:  # noqa: ANN401  # whatever JSON holds
        program = self.start(*arguments, "--output", "json")
        output, errors = program.communicate(timeout=120)
        assert program.returncode == status, output + errors
        return json.loads(output)

    def up(self, *arguments: str) -> list[str]:
        port, ui_port = free_ports(2)
        return ["up", "--port", str(port), "--ui-port", str(ui_port), *arguments]

    def run(self) -> Run:
        return read_run(self.paths.run_file)


@pytest.fixture
def podctl(paths: PodctlPaths) -> Iterator[Podctl]:
    program = Podctl(paths)
    yield program
    program("down")


def test_the_day_of_a_server(podctl: Podctl) -> None:
    assert "not started  `podctl up`" in podctl("status")
    assert "nothing was up" in podctl("down")

    said = podctl(*podctl.up("--detach")).splitlines()
    run = podctl.run()
    assert run.server is not None
    assert run.worker is not None
    assert said[:2] == ["up", f"  Temporal  {run.server.address}"]
    assert podctl("up").splitlines()[0] == "already up"
    assert podctl.run() == run

    status = podctl.json("status")
    assert [(part["name"], part["state"]) for part in status["parts"]] == [
        ("server", "running"),
        ("worker", "running"),
        ("connection", "ok"),
        ("workers", "ok"),
    ]
    assert status["ui_address"] == run.server.ui_address
    checks = {check["name"]: check["result"] for check in podctl.json("doctor")}
    assert {checks[name] for name in ("server", "search attributes", "worker", "data folder", "pods.json")} == {"ok"}

    os.kill(run.worker.process.pid, signal.SIGKILL)
    assert run.worker.process.wait(60)
    assert "gone" in podctl("status")
    assert f"process {run.worker.process.pid} has ended" in podctl("doctor", status=1)
    podctl("up", "--detach")
    assert podctl.run().server == run.server

    assert "down" in podctl("down").splitlines()
    assert not run.server.process.is_alive()
    assert podctl.run() == Run()


def test_in_the_foreground_ctrl_c_ends_both(podctl: Podctl) -> None:
    program = podctl.start(*podctl.up())
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    assert program.stderr is not None
    assert any("Ctrl-C ends both" in line for line in iter(program.stderr.readline, ""))
    run = podctl.run()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "`podctl up` takes it up again" in errors
    assert run.server is not None
    assert run.worker is not None
    assert not run.server.process.is_alive()
    assert not run.worker.process.is_alive()


def test_in_the_foreground_a_death_is_told_and_the_other_goes_on(podctl: Podctl) -> None:
    program = podctl.start(*podctl.up())
    deadline = time.monotonic() + 90
    while (worker := podctl.run().worker) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert program.stdout is not None
    assert program.stdout.readline() == "up\n"
    os.kill(worker.process.pid, signal.SIGKILL)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "error: the worker has ended: `podctl up` starts it again" in errors
    run = podctl.run()
    assert run.server is not None
    assert run.server.process.is_alive()


def test_a_taken_port_names_its_holder(podctl: Podctl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        said = podctl("up", "--detach", "--port", str(port), status=1)
    assert f"error: port {port} is taken by process {os.getpid()} (" in said
    assert "podctl up --port NUMBER" in said


def test_a_server_that_is_not_there_is_told_with_what_to_do(podctl: Podctl) -> None:
    podctl.environment["TEMPORAL_ADDRESS"] = address = f"127.0.0.1:{free_ports(1)[0]}"
    status = podctl.json("status")
    assert (status["reachable"], status["source"]) == (False, "TEMPORAL_ADDRESS")
    checks = {check["name"]: check for check in podctl.json("doctor", status=1)}
    assert checks["server"]["found"] == f"{address} does not answer"
    assert "unset it to use the server of `podctl up`" in checks["server"]["advice"]


def test_a_broken_pods_file_is_found_by_the_doctor_and_left_alone(podctl: Podctl) -> None:
    podctl.paths.config.mkdir()
    podctl.paths.pods_file.write_text('{"pods": {\n  oops}}')
    checks = {check["name"]: check for check in podctl.json("doctor", status=1)}
    assert checks["pods.json"]["result"] == "failed"
    assert f"{podctl.paths.pods_file}:2:3" in checks["pods.json"]["found"]
    assert podctl.paths.pods_file.read_text() == '{"pods": {\n  oops}}'


def test_a_broken_temporal_profile_is_told(podctl: Podctl) -> None:
    podctl.environment["TEMPORAL_PROFILE"] = "nosuch"
    assert "error: Temporal's client configuration cannot be used" in podctl("status", status=2)
    checks = {check["name"]: check for check in podctl.json("doctor", status=1)}
    assert "nosuch" in checks["server"]["found"]
    del podctl.environment["TEMPORAL_PROFILE"]
