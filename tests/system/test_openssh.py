"""GPU pods behind a real OpenSSH sshd: the tests that the simulator passes, and what only a real sshd can show."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from domain.gpu.commands import StopServer
from domain.gpu.leases import leases
from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import parse_ssh
from remote.errors import AuthenticationFailed, HostKeyChanged
from remote.podlet import Podlet
from remote.ssh import HostKey, SshPool, connect
from tests.system.sshd import LOGIN_OUTPUT, OpenSshMachine, login_output, simulated
from tests.workflow.conftest import _workers_end_at_once, machine, pod, podctl, pool, tasks
from tests.workflow.support import Pod, eventually

# The same tests as against the simulator, here with the machine that ``simulated`` is in this module.
from tests.workflow.test_gpu_pod import (
    test_a_changed_host_key_stops_everything_until_a_person_pins_the_new_one,
    test_a_crash_is_seen_and_exit_code_zero_does_not_hide_it,
    test_a_dropped_connection_is_no_event,
    test_a_reboot_fails_the_server_and_interrupts_the_run,
    test_a_server_is_started_watched_and_stopped,
    test_a_stop_that_meets_a_stubborn_server_kills_it_after_its_grace,
    test_a_worker_without_the_key_says_so_and_another_address_helps,
    test_an_engine_that_outlives_its_root_is_ended_before_its_gpu_goes_to_the_next,
    test_an_unreachable_machine_keeps_its_server_and_a_stop_asked_meanwhile_is_done_on_return,
    test_two_tasks_share_a_server_and_it_stops_when_both_have_let_go,
)

# pytest takes fixtures and tests from the names of a module.
__all__ = [
    "_workers_end_at_once",
    "machine",
    "pod",
    "podctl",
    "pool",
    "simulated",
    "tasks",
    "test_a_changed_host_key_stops_everything_until_a_person_pins_the_new_one",
    "test_a_crash_is_seen_and_exit_code_zero_does_not_hide_it",
    "test_a_dropped_connection_is_no_event",
    "test_a_reboot_fails_the_server_and_interrupts_the_run",
    "test_a_server_is_started_watched_and_stopped",
    "test_a_stop_that_meets_a_stubborn_server_kills_it_after_its_grace",
    "test_a_worker_without_the_key_says_so_and_another_address_helps",
    "test_an_engine_that_outlives_its_root_is_ended_before_its_gpu_goes_to_the_next",
    "test_an_unreachable_machine_keeps_its_server_and_a_stop_asked_meanwhile_is_done_on_return",
    "test_two_tasks_share_a_server_and_it_stops_when_both_have_let_go",
]


@pytest.fixture
def address(machine: OpenSshMachine, unique: Callable[[str], str]) -> PodAddress:
    name = unique("pod")
    public = HostKey.parse(machine.host_key).public
    return PodAddress(pod=name, ssh=parse_ssh(machine.ssh_command), host_key=public, root=f"~/.podctl-{name}")


@pytest.fixture
async def podlet() -> AsyncIterator[Podlet]:
    pool = SshPool()
    yield Podlet(pool)
    await pool.close()


async def test_what_the_login_shell_prints_is_survived(
    machine: OpenSshMachine, address: PodAddress, podlet: Podlet
) -> None:
    assert await login_output(machine) == LOGIN_OUTPUT, "whoever runs this needs bash or zsh as login shell"
    inventory = await podlet.call(address, "inventory", {})
    assert (inventory["boot"], inventory["home"]) == (machine.boot, f"{machine.folder}/home")


async def test_a_stop_leaves_no_process_no_port_no_memory_and_no_lease(machine: OpenSshMachine, pod: Pod) -> None:
    def answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((machine.address, port)) == 0

    await pod.start("coder")
    server = await pod.server_is("coder", "ready")
    assert server.plan is not None
    assert answers(server.plan.port)
    assert sum((await machine.gpu_memory()).values()) > 0
    assert len(leases(await pod.state())) == 1

    await pod.podctl.execute_pod(pod.name, StopServer(name="coder"), by="ann")
    await pod.server_is("coder", "stopped")
    assert not any(answers(port) for port in server.plan.ports)
    assert set((await machine.gpu_memory()).values()) == {0}
    assert leases(await pod.state()) == []
    assert {process.role for process in await machine.processes()} == {"other"}


async def test_a_killed_session_process_ends_its_podlets_and_nothing_else(machine: OpenSshMachine, pod: Pod) -> None:
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    sessions: set[int] = set()
    podlets: set[int] = set()

    async def watched() -> bool:  # not between two watches
        nonlocal sessions, podlets
        sessions = {process.pid for process in await machine.sessions()}
        podlets = {process.pid for process in await machine.processes() if process.parent in sessions} - sessions
        return bool(podlets)

    await eventually(watched, "a podlet watches")
    await machine.drop_connections()

    async def connected_again() -> bool:
        return bool({process.pid for process in await machine.sessions()} - sessions)

    async def podlets_gone() -> bool:
        return not podlets & {process.pid for process in await machine.processes()}

    await eventually(connected_again, "the worker has connected again")
    await eventually(podlets_gone, "the podlets of the lost connection have ended")
    server = await pod.server_is("coder", "ready")
    assert (server.pid, server.launch_id, server.since) == (before.pid, before.launch_id, before.since)
    types = await pod.event_types()
    assert "pod_unreachable" not in types
    assert types.count("server_ready") == 1


async def test_an_sshd_that_comes_back_finds_the_same_process_serving(machine: OpenSshMachine, pod: Pod) -> None:
    await pod.start("coder")
    before = await pod.server_is("coder", "ready")
    await machine.unreachable(outage="refuse")
    state = await pod.until(lambda pod: pod.reachable is False, "the outage is noticed")
    assert state.unreachable_reason
    await machine.reachable()
    state = await pod.until(lambda pod: pod.reachable is True, "the pod is back")
    after = state.servers["coder"]
    assert (after.state, after.pid, after.launch_id) == ("ready", before.pid, before.launch_id)
    types = await pod.event_types()
    assert (types.count("server_launching"), types.count("server_ready")) == (1, 1)


async def test_a_key_that_sshd_refuses_is_named(machine: OpenSshMachine, address: PodAddress, tmp_path: Path) -> None:
    key = tmp_path / "another_key"
    key.touch(mode=0o600)
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    ssh = parse_ssh(machine.ssh_command.replace(str(machine.client_key), str(key)))
    with pytest.raises(AuthenticationFailed, match=str(key)):
        await connect(address.model_copy(update={"ssh": ssh}))


async def test_another_host_key_is_refused_with_both_fingerprints(machine: OpenSshMachine, address: PodAddress) -> None:
    old = machine.fingerprint
    new = await machine.change_host_key()
    with pytest.raises(HostKeyChanged) as refused:
        await connect(address)
    assert old in str(refused.value)
    assert new in str(refused.value)


async def test_a_pod_has_more_calls_at_once_than_sshd_allows_sessions_on_a_connection(
    machine: OpenSshMachine, address: PodAddress, podlet: Podlet
) -> None:
    # sshd's MaxSessions is 10 unless its owner says otherwise.
    count = 14
    gate = machine.folder / "home" / "gate"
    request: dict[str, Any] = {
        "kind": "run",
        "argv": ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done"],
        "environment": {},
        "secrets": {},
        "workspace": None,
        "gpus": [],
        "ports": [],
        "internal_ports": None,
        "api_key": False,
        "served_name": None,
        "server": None,
    }
    await podlet.call(address, "inventory", {})
    async with asyncio.TaskGroup() as group:
        runs = [
            group.create_task(podlet.call(address, "run", {**request, "id": f"task/work-{number}/1"}))
            for number in range(count)
        ]

        async def all_run() -> bool:
            seen = await podlet.call(address, "observe", {"ids": None})
            return [launch["state"] for launch in seen["launches"]].count("running") == count

        await eventually(all_run, f"{count} commands run at once")
        gate.touch()
    assert [run.result()["exit"]["code"] for run in runs] == [0] * count
