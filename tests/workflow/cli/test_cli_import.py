"""`podctl pods import`: a pods.json of the pi tool, and the vLLM processes that it keeps track of."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from podctl.client import PodctlClient
from podctl.processes import free_ports
from simulator.api import SimulatedMachine
from tests.activity.simulator_harness import ask, shell
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually

KEY = "key-that-pi-has-made"
#: As `pi` starts a model: a script in a session of its own, which keeps the log; its pid is what `pi` remembers.
PI_START = """
mkdir -p ~/.vllm_logs
cat > ~/model_run_{name}.sh << 'EOF'
#!/bin/bash
export CUDA_VISIBLE_DEVICES={gpu}
vllm serve {model} --port {port} --api-key {key} --gpu-memory-utilization 0.4
echo "Script exited with code $?"
EOF
cat > ~/model_wrapper_{name}.sh << 'EOF'
#!/bin/bash
{run}
EOF
chmod +x ~/model_run_{name}.sh ~/model_wrapper_{name}.sh
setsid ~/model_wrapper_{name}.sh < /dev/null > /dev/null 2>&1 &
echo $!
"""
WRAPPERS = {
    "in a terminal of its own": "script -q -f -c ~/model_run_{name}.sh ~/.vllm_logs/{name}.log",
    "into a file": "~/model_run_{name}.sh > ~/.vllm_logs/{name}.log 2>&1",
}


@dataclass(frozen=True)
class Started:
    """A model server as `pi` has started and remembers it."""

    name: str
    port: int
    pid: int
    gpu: int = 0

    @property
    def tracked(self) -> dict[str, Any]:
        return {"model": MODEL, "port": self.port, "gpu": [self.gpu], "pid": self.pid}


async def pi_start(machine: SimulatedMachine, name: str, wrapper: str, gpu: int = 0) -> Started:
    port = free_ports(1)[0]
    run = WRAPPERS[wrapper].format(name=name)
    script = PI_START.format(name=name, gpu=gpu, model=MODEL, port=port, key=KEY, run=run)
    code, output, errors = await shell(machine, script)
    assert code == 0, errors

    async def healthy() -> bool:
        return (await ask(machine, "GET", "/health", port=port))[0] == 200

    await eventually(healthy, f"{name} serves")
    return Started(name, port, int(output), gpu)


@pytest.fixture
async def pod(podctl: CommandLine, unique: Callable[[str], str]) -> AsyncIterator[str]:
    """The name under which the machine is imported."""
    name = unique("pod")
    yield name
    await podctl("pods", "remove", name, "--lost")


async def servers_of(machine: SimulatedMachine) -> set[tuple[int, str]]:
    """The processes of model servers, with their parts in them."""
    return {(one.pid, one.role) for one in await machine.processes() if one.role != "other"}


def pi_file(folder: Path, pods: dict[str, Any], active: str | None = None) -> str:
    file = folder / "pi-pods.json"
    file.write_text(json.dumps({"pods": pods, "active": active}))
    return str(file)


def pi_pod(machine: SimulatedMachine, *servers: Started) -> dict[str, Any]:
    gpus = [{"id": 0, "name": "NVIDIA H100 80GB HBM3", "memory": "81559 MiB"}]
    models = {server.name: server.tracked for server in servers}
    return {"ssh": machine.ssh_command, "gpus": gpus, "models": models, "vllmVersion": "release"}


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_a_running_server_is_taken_over_without_a_restart(
    podctl: CommandLine, working: PodctlClient, machine: SimulatedMachine, pod: str, tmp_path: Path, wrapper: str
) -> None:
    if "script" in WRAPPERS[wrapper] and not shutil.which("script"):
        pytest.skip("util-linux' script is not installed")
    server = await pi_start(machine, "coder", wrapper)
    before = await servers_of(machine)
    file = pi_file(tmp_path, {pod: pi_pod(machine, server)}, active=pod)
    command = ("pods", "import", file, "--adopt", "--accept-host-key", machine.fingerprint)
    done = await podctl.json(*command)
    assert done["active"] == pod
    [row] = done["pods"]
    [model] = row["models"]
    assert (row["problem"], model["problem"], model["port"]) == ("", "", server.port)

    async def ready() -> dict[str, Any] | None:
        [row] = await podctl.json("list")
        return row if row["state"] == "ready" else None

    row = await eventually(ready, "the adopted server is ready")
    # What runs is what ran: the same processes; the GPU and its share are what the machine shows.
    assert await servers_of(machine) == before
    assert row["adopted"] is True
    assert (row["pid"], row["gpus"]) == (next(pid for pid, role in before if role == "api_server"), [0])
    state = await working.pod(pod)
    assert state.servers["coder"].plan is not None
    assert state.servers["coder"].plan.share == 0.4
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    assert (await ask(machine, "POST", "/v1/chat/completions", body, KEY, server.port))[0] == 200
    assert "Application startup complete" in (await podctl("logs", "coder")).output

    again = await podctl.json(*command)
    assert [model["problem"] for model in again["pods"][0]["models"]] == [""]
    assert (await working.pod(pod)).servers["coder"].counter == 1

    await podctl("stop", "coder")
    assert await servers_of(machine) == set()
    [row] = await podctl.json("list")
    assert row["state"] == "stopped"
    everything = await working.log(f"gpu-pod/{pod}")
    assert KEY not in str(everything)
    log = await shell(machine, "cat ~/.vllm_logs/coder.log")
    assert "Application startup complete" in log[1]


async def test_what_is_not_what_was_kept_is_refused_and_left_alone(
    podctl: CommandLine, machine: SimulatedMachine, pod: str, tmp_path: Path
) -> None:
    server = await pi_start(machine, "coder", "into a file")
    gone = {**server.tracked, "pid": 4_000_000}
    elsewhere = {**server.tracked, "port": free_ports(1)[0]}
    broken = {"model": MODEL, "port": "many", "pid": 1}
    content = pi_pod(machine, server)
    content["models"] = {"gone": gone, "elsewhere": elsewhere, "broken": broken, "coder": server.tracked}
    file = pi_file(tmp_path, {pod: content})
    command = ("pods", "import", file, "--adopt", "--accept-host-key", machine.fingerprint)
    done = await podctl(*command, "-o", "json", status=1)
    problems = {model["name"]: model["problem"] for model in done.json["pods"][0]["models"]}
    assert "no process 4000000 runs on this machine; nothing was touched" in problems["gone"]
    assert f"nothing listens on port {elsewhere['port']}" in problems["elsewhere"]
    assert "model broken: port:" in problems["broken"]
    assert problems["coder"] == ""
    said = await podctl(*command, status=1)
    assert "gone is not adopted: " in said.output
    assert "coder is adopted and " in said.output
    assert {one.role for one in await machine.processes()} >= {"api_server", "engine", "worker"}


async def test_pods_are_added_each_with_its_key_and_one_that_cannot_be_does_not_keep_the_others(
    podctl: CommandLine, machine: SimulatedMachine, pod: str, tmp_path: Path
) -> None:
    away = {"ssh": f"ssh -p {free_ports(1)[0]} root@127.0.0.1", "gpus": [], "models": {}}
    file = pi_file(tmp_path, {"away": away, pod: pi_pod(machine)}, active="away")
    refused = await podctl("pods", "import", file, status=1)
    assert f"shows the host key {machine.fingerprint}" in refused.output
    assert await podctl.json("pods") == []
    done = await podctl("pods", "import", file, "--accept-host-key", machine.fingerprint, "-o", "json", status=1)
    rows = {row["pod"]: row for row in done.json["pods"]}
    assert (rows[pod]["registered"], rows[pod]["problem"]) == (True, "")
    assert rows["away"]["problem"]
    # The one that the file calls active was not added: the first that was is it.
    assert done.json["active"] == pod
    # Known by now, with the key that is pinned: nobody has to accept it again.
    again = (await podctl("pods", "import", file, "-o", "json", status=1)).json
    assert {row["pod"]: row["known"] for row in again["pods"]} == {pod: True, "away": False}
    assert f"pod {pod} is known" in (await podctl("pods", "import", file, status=1)).output


async def test_a_file_that_is_none_is_said(podctl_without_worker: CommandLine, tmp_path: Path) -> None:
    missing = await podctl_without_worker("pods", "import", str(tmp_path / "none.json"), status=2)
    assert "there is no file" in missing.errors
    broken = tmp_path / "broken.json"
    broken.write_text('{"pods": {\n "a": {"gpus": []}}}')
    said = await podctl_without_worker("pods", "import", str(broken), status=2)
    assert f"{broken}:2: pods.a" in said.errors
