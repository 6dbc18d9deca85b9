"""The podlet's inventory: what nvidia-smi says, however oddly, and what it leaves unsaid."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.activity.podlet_harness import Json, Machine, PodletError


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def install(machine: Machine, name: str, script: str) -> Path:
    """Install a program on the machine."""
    program = machine.folder / "bin" / name
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    return program


def test_a_machine_with_gpus(machine: Machine) -> None:
    machine.gpus(2)
    found = machine.call("inventory")
    assert (found["gpu_state"], found["driver"], found["gpu_message"]) == ("ok", "570.86.15", "")
    assert found["gpus"] == [
        {
            "index": index,
            "uuid": f"GPU-{index}",
            "name": "NVIDIA H100 80GB HBM3",
            "memory_total_mib": 81559,
            "memory_used_mib": 0,
            "mig": False,
        }
        for index in range(2)
    ]
    assert (found["hostname"], found["boot"]) == (socket.gethostname(), "first")
    assert (found["home"], found["root"]) == (machine.environment["HOME"], str(machine.root))
    assert found["disk_free_bytes"] > 0
    assert found["python"].startswith("3.")
    assert found["os"]
    assert found["vllm"] == {"program": None, "version": None}


def test_the_default_root_is_in_the_home_folder(machine: Machine) -> None:
    found = machine.call("inventory", root=None)
    assert found["root"] == f"{machine.environment['HOME']}/.podctl"


def test_a_machine_without_nvidia_smi(machine: Machine) -> None:
    machine.environment["PATH"] = str(machine.folder / "bin")
    found = machine.call("inventory")
    assert (found["gpu_state"], found["gpus"], found["driver"]) == ("no_nvidia_smi", [], None)
    assert "nvidia-smi" in found["gpu_message"]


def test_a_machine_without_a_driver(machine: Machine) -> None:
    machine.gpus(1, mode="no_driver")
    found = machine.call("inventory")
    assert (found["gpu_state"], found["gpus"]) == ("no_driver", [])
    assert "couldn't communicate" in found["gpu_message"]


@pytest.mark.parametrize("mode", ["not_available", "insufficient_permissions", "no_processes"])
def test_what_is_not_told_is_unknown_and_no_error(machine: Machine, mode: str) -> None:
    machine.gpus(1, mode=mode, mig="[N/A]")
    machine.serve("pod/tiny/1", "--engine", "--memory=1000")
    found = machine.call("inventory")
    assert (found["gpu_state"], len(found["gpus"]), found["gpus"][0]["mig"]) == ("ok", 1, False)
    known = mode != "not_available"
    assert found["gpus"][0]["memory_used_mib"] == (1000 if known else None)
    hidden = "processes are not listed: [Insufficient Permissions]" if mode == "insufficient_permissions" else ""
    assert found["gpu_message"] == hidden
    apps: list[Json] = found["compute_apps"]
    assert [(app["used_mib"], app["launch"]) for app in apps] == ([] if known else [(None, "pod/tiny/1")])


def test_one_lost_gpu_does_not_hide_the_others(machine: Machine) -> None:
    machine.gpus(2, mode="lost")
    found = machine.call("inventory")
    assert [gpu["uuid"] for gpu in found["gpus"]] == ["GPU-1"]
    assert "GPU is lost" in found["gpu_message"]


def test_mig_is_told(machine: Machine) -> None:
    machine.gpus(1, mig="Enabled")
    assert machine.call("inventory")["gpus"][0]["mig"] is True


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("echo garbage", "error"),
        ("exit 3", "error"),
        ("printf '\\377\\376, GPU\\n'", "error"),
        ("echo '0, GPU-a, A, with, commas, 1, 2, Disabled, 1.2'", "ok"),
        ("kill -9 $$", "error"),
        ("true", "ok"),
        ("echo 'No devices were found'; exit 6", "ok"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "error"),
        ('echo "couldn\'t find libnvidia-ml.so"; exit 12', "no_driver"),
        ("echo '0, [Unknown Error], ERR!, ERR!, ERR!, ERR!, ERR!'", "error"),
    ],
)
def test_odd_outputs_never_crash(machine: Machine, script: str, state: str) -> None:
    install(machine, "nvidia-smi", script)
    found = machine.call("inventory")
    assert found["gpu_state"] == state
    assert [gpu["name"] for gpu in found["gpus"]] == (["A, with, commas"] if "commas" in script else [])


def test_figures_that_nvidia_smi_cannot_read_are_unknown(machine: Machine) -> None:
    install(
        machine,
        "nvidia-smi",
        "case $1 in --query-gpu*) echo '0, GPU-a, NVIDIA A100-SXM4-80GB, ERR!, [Unknown Error], ERR!, [N/A]';;"
        " *) echo '7, GPU-a, [Not Supported]'; echo '[N/A], GPU-a, [N/A]';; esac",
    )
    found = machine.call("inventory")
    unknown = {"memory_total_mib": None, "memory_used_mib": None, "mig": False}
    assert found["gpus"] == [{"index": 0, "uuid": "GPU-a", "name": "NVIDIA A100-SXM4-80GB", **unknown}]
    assert (found["gpu_state"], found["driver"]) == ("ok", None)
    assert found["compute_apps"] == [{"pid": 7, "gpu_uuid": "GPU-a", "used_mib": None, "launch": None}]


@pytest.mark.parametrize("hangs", ["--query-gpu", "--query-compute-apps"])
def test_an_nvidia_smi_that_hangs_is_given_up(machine: Machine, hangs: str) -> None:
    # The child keeps the pipe open, as one that hangs in the driver does even when it is killed.
    row = "0, GPU-a, NVIDIA H100 PCIe, 81559, 3, Disabled, 570.1"
    install(machine, "nvidia-smi", f"case $1 in {hangs}*) sleep 10;; --query-gpu*) echo '{row}';; esac")
    machine.environment["PODLET_NVIDIA_SMI_SECONDS"] = "2"
    found = machine.call("inventory")
    assert "nvidia-smi did not answer within 2 s" in found["gpu_message"]
    assert (found["gpu_state"], len(found["gpus"])) == (("error", 0) if hangs == "--query-gpu" else ("ok", 1))


def test_somebody_elses_process_on_a_gpu_has_no_launch(machine: Machine) -> None:
    machine.gpus(1)
    (machine.gpu / "memory" / str(os.getpid())).write_text('{"uuid": "GPU-0", "mib": 77}')
    apps = machine.call("inventory")["compute_apps"]
    assert apps == [{"pid": os.getpid(), "gpu_uuid": "GPU-0", "used_mib": 77, "launch": None}]


def test_vllm_is_found_on_path_at_home_or_where_told(machine: Machine) -> None:
    home = Path(machine.environment["HOME"])
    (home / ".local" / "bin").mkdir(parents=True)
    at_home = install(machine, "vllm", 'echo "INFO 08-01 importing"; echo 0.33.0+cu129')
    at_home = at_home.rename(home / ".local" / "bin" / "vllm")
    found = machine.call("inventory", vllm_version=True)["vllm"]
    assert found == {"program": str(at_home), "version": "0.33.0+cu129"}
    on_path = install(machine, "vllm", "exit 1")
    assert machine.call("inventory", vllm_version=True)["vllm"] == {"program": str(on_path), "version": None}
    told = machine.call("inventory", vllm=str(at_home))["vllm"]
    assert told == {"program": str(at_home), "version": None}
    assert machine.call("inventory", vllm="/no/such/vllm")["vllm"]["program"] is None


def test_the_version_beside_vllm_is_told_without_running_it(machine: Machine) -> None:
    venv = machine.folder / "venv"
    (venv / "lib" / "python3.12" / "site-packages" / "vllm-0.11.0.dist-info").mkdir(parents=True)
    (venv / "bin").mkdir()
    program = venv / "bin" / "vllm"
    program.write_text(f"#!{venv}/bin/python3\nprint('never run')\n")
    program.chmod(0o755)
    found = machine.call("inventory", vllm=str(program))["vllm"]
    assert found == {"program": str(program), "version": "0.11.0"}


def test_a_root_that_cannot_be_used_is_said(machine: Machine) -> None:
    (machine.folder / "file").write_text("")
    with pytest.raises(PodletError, match=str(machine.folder / "file")) as refused:
        machine.call("inventory", root=str(machine.folder / "file" / "below"))
    assert refused.value.code == "machine_error"
