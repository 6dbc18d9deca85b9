"""`podctl pods`: adding with a pinned host key, moving, removing, and what is said without a server."""

import json
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest

from podctl.client import PodctlClient
from podctl.paths import PodctlPaths
from podctl.processes import ProcessIdentity, free_ports
from podctl.run_file import Run, ServerProcess, write_run
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually


async def test_first_contact_shows_the_fingerprint_and_trusts_nobody(
    podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    name = unique("pod")
    refused = await podctl("pods", "add", name, machine.ssh_command, status=1)
    assert f"shows the host key {machine.fingerprint}" in refused.errors
    assert f"podctl pods add {name} '{machine.ssh_command}' --accept-host-key {machine.fingerprint}" in refused.errors
    other = await podctl("pods", "add", name, machine.ssh_command, "--accept-host-key", "SHA256:another", status=1)
    assert "not SHA256:another" in other.errors
    assert await podctl.json("pods") == []
    assert "there is no GPU pod" in (await podctl("pods", "show", name, status=1)).errors


async def test_a_pod_is_added_shown_and_removed(podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str) -> None:
    [row] = await podctl.json("pods")
    assert row == {
        "name": gpu_pod,
        "active": True,
        "ssh": machine.ssh_command,
        "state": "reachable",
        "since": row["since"],
        "reason": "",
        "gpus": "2 x H100",
        "servers": {},
        "vllm": row["vllm"],
        "setup": None,
        "cached": False,
        "seen_at": None,
    }
    table = (await podctl("pods")).output.splitlines()
    assert table[1].startswith("*")
    shown = await podctl.json("pods", "show", gpu_pod)
    assert [gpu["index"] for gpu in shown["inventory"]["gpus"]] == [0, 1]
    assert "free" in (await podctl("pods", "show", gpu_pod)).output
    events = await podctl("events", "--pod", gpu_pod, "-o", "json")
    assert json.loads(events.output.splitlines()[0])["type"] == "pod_registered"

    await podctl("pods", "remove", gpu_pod)
    assert await podctl.json("pods") == []
    assert "no_active_pod" in (await podctl("list", status=1)).errors
    await podctl("pods", "add", gpu_pod, machine.ssh_command, "--accept-host-key", machine.fingerprint)


async def test_another_user_adds_the_same_machine_and_only_gets_to_know_it(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str, paths: PodctlPaths
) -> None:
    other = CommandLine(
        podctl.environment["TEMPORAL_ADDRESS"], PodctlPaths(config=paths.config / "other", data=paths.data)
    )
    added = await other.json("pods", "add", gpu_pod, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    assert (added["registered"], added["active"], added["state"]) == (False, True, "reachable")
    elsewhere = machine.ssh_command.replace("user@", "root@")
    taken = await other("pods", "add", gpu_pod, elsewhere, "--accept-host-key", machine.fingerprint, status=1)
    assert f"GPU pod {gpu_pod} exists already" in taken.errors


async def test_a_changed_host_key_is_refused_until_a_person_accepts_it(
    podctl: CommandLine, working: PodctlClient, machine: SimulatedMachine, gpu_pod: str
) -> None:
    before = machine.fingerprint
    after = await machine.change_host_key()
    await machine.drop_connections()

    async def noticed() -> bool:
        return (await working.pod(gpu_pod)).reachable is False

    await eventually(noticed, "the changed key is noticed")
    assert after in (await podctl("list")).errors
    refused = await podctl("pods", "set", gpu_pod, machine.ssh_command, status=1)
    assert before in refused.errors
    assert f"podctl pods set {gpu_pod} '{machine.ssh_command}' --accept-host-key {after}" in refused.errors
    accepted = await podctl("pods", "set", gpu_pod, "--accept-host-key", after)
    assert after in accepted.output

    async def back() -> bool:
        return (await working.pod(gpu_pod)).reachable is True

    await eventually(back, "the pod is used again")


async def test_without_a_server_pods_are_as_they_were_last_seen(podctl: CommandLine, gpu_pod: str) -> None:
    await podctl("pods")
    process = ProcessIdentity(pid=1, start_time="0", boot="0")
    [port] = free_ports(1)
    offline = CommandLine("", podctl.paths)
    del offline.environment["TEMPORAL_ADDRESS"]
    run = {"process": process, "started_at": "2026-01-01T00:00:00Z", "port": port, "ui_port": port}
    write_run(podctl.paths.run_file, Run(server=ServerProcess.model_validate(run)))

    [row] = await offline.json("pods")
    assert (row["name"], row["cached"], row["state"], row["gpus"]) == (gpu_pod, True, "reachable", "2 x H100")
    listed = await offline("pods")
    assert "reachable (last seen)" in listed.output
    assert "podctl up" in listed.errors
    for command in (("list",), ("task", "list"), ("pods", "show", gpu_pod), ("inbox",), ("watch", "t")):
        failed = await offline(*command, status=1)
        assert "no Temporal server" in failed.errors
        assert "podctl up" in failed.errors


async def test_which_pod_is_active(podctl: CommandLine, gpu_pod: str) -> None:
    await podctl("pods", "active", gpu_pod)
    unknown = await podctl("pods", "active", "nobody", status=1)
    assert unknown.errors.startswith("error: unknown_pod")
    assert gpu_pod in unknown.errors
    elsewhere = await podctl("list", "--pod", "nobody", status=1)
    assert "no GPU pod 'nobody'; there are: " in elsewhere.errors


@pytest.mark.parametrize(
    "command",
    [
        ("pods",),
        ("list",),
        ("pods", "active", "x"),
        ("pods", "add", "x", "ssh -i k root@127.0.0.1"),
        ("start", "m", "--name", "n"),
    ],
)
async def test_a_broken_file_is_named_with_its_line_and_left_alone(
    podctl_without_worker: CommandLine, command: tuple[str, ...]
) -> None:
    file = podctl_without_worker.paths.pods_file
    file.parent.mkdir(parents=True)
    file.write_text('{\n  "pods": {\n    "one": {"ssh": 3}\n  }\n}\n')
    done = await podctl_without_worker(*command, status=2)
    assert done.errors.startswith(f"error: {file}:3: pods.one.ssh: ")
    assert file.read_text().count("\n") == 5


async def test_what_is_no_ssh_line_or_name_is_a_usage_error(podctl_without_worker: CommandLine) -> None:
    assert "-F" in (await podctl_without_worker("pods", "add", "x", "ssh -F file root@h", status=2)).errors
    assert "not a valid name" in (await podctl_without_worker("pods", "add", "a/b", "root@h", status=2)).errors
    assert (await podctl_without_worker("pods", "set", "x", status=2)).errors
    [port] = free_ports(1)
    nobody = await podctl_without_worker("pods", "add", "x", f"ssh -p {port} root@127.0.0.1", status=1)
    assert "pod x is unreachable" in nobody.errors


async def test_a_key_that_openssh_knows_is_pinned_without_a_question_and_what_is_left_out_is_told(
    podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    known, name = tmp_path / "known", unique("pod")
    ssh = f"{machine.ssh_command} -o UserKnownHostsFile={known} -L 8080:localhost:8080"
    other = asyncssh.generate_private_key("ssh-ed25519")
    public = " ".join(other.export_public_key().decode().split()[:2])
    known.write_text(f"[{machine.address}]:{machine.port} {public}\n")
    refused = await podctl("pods", "add", name, ssh, status=1)
    assert f"{known} line 1 has another one" in refused.errors
    assert other.get_fingerprint() in refused.errors
    known.write_text(f"[{machine.address}]:{machine.port} {machine.host_key}\n")
    added = await podctl("pods", "add", name, ssh)
    assert machine.fingerprint in added.output
    assert f"knows already ({known} line 1)" in added.errors
    assert "left out of the SSH line: -L 8080:localhost:8080: podctl connect" in added.errors
    await podctl("pods", "remove", name, "--lost")
