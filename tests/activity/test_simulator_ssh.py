"""The simulated machine as an SSH client sees it: like a host with OpenSSH, in a folder of its own."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator

import asyncssh
import pytest

from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.activity.simulator_harness import connected, eventually, shell


@pytest.fixture(scope="module")
async def machines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[SimulatedMachine]]:
    async with simulate(tmp_path_factory.mktemp("ssh"), [MachineConfig(name="one"), MachineConfig(name="two")]) as both:
        yield both


@pytest.fixture
def machine(machines: list[SimulatedMachine]) -> SimulatedMachine:
    return machines[0]


async def test_a_command_runs_for_real_in_the_home_of_the_machine(machine: SimulatedMachine) -> None:
    code, out, err = await shell(machine, "pwd; echo problem >&2; exit 7")
    assert (code, out, err) == (7, f"{machine.folder}/home\n", "problem\n")


async def test_a_command_killed_by_a_signal_says_which(machine: SimulatedMachine) -> None:
    async with connected(machine) as connection:
        result = await connection.run("kill -9 $$")
    assert result.exit_signal is not None
    assert result.exit_signal[0] == "KILL"


async def test_megabytes_pass_unchanged_through_stdin_and_stdout(machine: SimulatedMachine) -> None:
    data = os.urandom(5_000_000)
    async with connected(machine) as connection:
        result = await connection.run("cat", input=data, encoding=None)
    assert result.stdout == data


async def test_the_environment_is_the_machines_own(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_OWNER", "x")
    _, out, _ = await shell(machine, "env")
    environment = dict(line.split("=", 1) for line in out.splitlines())
    assert environment["HOME"] == f"{machine.folder}/home"
    assert environment["PODLET_LOOPBACK"] == machine.address
    assert environment["PATH"].split(":")[0] == f"{machine.folder}/bin"
    assert "SECRET_OF_THE_OWNER" not in environment


async def test_only_the_machines_key_gets_in(machine: SimulatedMachine, machines: list[SimulatedMachine]) -> None:
    other = asyncssh.read_private_key(machines[1].client_key)
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            machine.address,
            machine.port,
            username=machine.user,
            client_keys=[other],
            password="guess",
            known_hosts=None,
            config=None,
            agent_path=None,
        )


async def test_a_key_that_the_user_adds_gets_in_too(
    machine: SimulatedMachine, machines: list[SimulatedMachine]
) -> None:
    added = machines[1].client_key.with_suffix(".pub").read_text()
    code, _, _ = await shell(machine, f"echo {shlex.quote(added)} >> ~/.ssh/authorized_keys")
    assert code == 0
    async with asyncssh.connect(
        machine.address,
        machine.port,
        username=machine.user,
        client_keys=[str(machines[1].client_key)],
        known_hosts=None,
        config=None,
        agent_path=None,
    ) as connection:
        assert (await connection.run("echo in")).stdout == "in\n"


async def test_a_client_that_leaves_closes_stdin_and_kills_nothing(machine: SimulatedMachine) -> None:
    note = machine.folder / "home" / "left"
    async with connected(machine) as connection:
        process = await connection.create_process(f"echo up; cat; echo went on > {note}; exec sleep 1000")
        assert await process.stdout.readline() == "up\n"

    async def went_on() -> bool:
        return note.exists() and any(p.title == "sleep 1000" for p in await machine.processes())

    await eventually(went_on, "the command saw the end of its stdin and went on")


async def test_a_session_ends_when_nobody_holds_its_output(machine: SimulatedMachine) -> None:
    async with connected(machine) as connection:
        detached = await connection.run("sleep 1000 > /dev/null 2>&1 < /dev/null & echo done")
        assert detached.stdout == "done\n"
        holding = await connection.create_process("sleep 1001 & echo $!")
        pid = int(await holding.stdout.readline())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(holding.wait()), 0.2)
        await connection.run(f"kill {pid}")
        assert (await holding.wait()).returncode == 0


async def test_forwarding_reaches_the_machines_own_loopback_and_nothing_else(
    machine: SimulatedMachine, machines: list[SimulatedMachine]
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(answer, machine.address, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, connected(machine) as connection:
        reader, _ = await connection.open_connection("127.0.0.1", port)
        assert await reader.read() == b"hello"
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection(machines[1].address, machines[1].port)


async def test_machines_have_addresses_and_boots_of_their_own(machines: list[SimulatedMachine]) -> None:
    one, two = machines
    assert (one.address, one.port) != (two.address, two.port)
    assert one.boot != two.boot
    assert one.fingerprint != two.fingerprint
    assert {gpu.uuid for gpu in one.gpus}.isdisjoint(gpu.uuid for gpu in two.gpus)


async def test_output_of_a_login_script_comes_before_the_commands(machine: SimulatedMachine) -> None:
    await machine.settings(login_output="Welcome to a rented machine")
    try:
        assert (await shell(machine, "echo hi"))[1] == "Welcome to a rented machinehi\n"
    finally:
        await machine.settings(login_output="")


async def test_the_openssh_client_understands_the_printed_command(machine: SimulatedMachine) -> None:
    known = machine.folder / "known_hosts"
    known.write_text(f"[{machine.address}]:{machine.port} {machine.host_key}\n")
    words = [*shlex.split(machine.ssh_command), "-o", f"UserKnownHostsFile={known}", "-F", "none", "echo $USER"]
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"user\n")
