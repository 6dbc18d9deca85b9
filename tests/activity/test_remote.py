"""The SSH pool and podlet calls against a simulated machine: shared, made again, refused, and not misled by noise."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import parse_ssh
from remote import ssh, ssh_config
from remote.errors import AuthenticationFailed, HostKeyChanged, PodletError, PodletUnusable, RemoteError, Unreachable
from remote.podlet import Podlet
from remote.ssh import SshPool, fetch_host_key
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.activity.simulator_harness import PATIENCE
from tests.workflow.support import eventually


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[SimulatedMachine]:
    async with simulate(tmp_path, [MachineConfig(name="one")]) as [one]:
        yield one


class Clock:
    """Seconds as the test tells them."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def pool(clock: Clock) -> AsyncIterator[SshPool]:
    pool = SshPool(clock)
    yield pool
    await pool.close()


def address_of(machine: SimulatedMachine, command: str | None = None) -> PodAddress:
    host_key = " ".join(machine.host_key.split()[:2])
    return PodAddress(pod="one", ssh=parse_ssh(command or machine.ssh_command), host_key=host_key, root="~/.podctl")


async def refused(pool: SshPool, address: PodAddress, kind: type[RemoteError]) -> RemoteError:
    with pytest.raises(kind) as error:
        await pool.connection(address)
    return error.value


async def test_all_callers_share_one_connection(machine: SimulatedMachine, pool: SshPool) -> None:
    address = address_of(machine)
    connections = await asyncio.gather(*(pool.connection(address) for _ in range(10)))
    assert len({id(connection) for connection in connections}) == 1
    podlet = Podlet(pool)
    inventories = await asyncio.gather(*(podlet.call(address, "inventory", {}) for _ in range(10)))
    assert {inventory["hostname"] for inventory in inventories} == {inventories[0]["hostname"]}
    assert await pool.connection(address) is connections[0]


async def test_a_dropped_connection_is_made_again_for_the_next_caller(machine: SimulatedMachine, pool: SshPool) -> None:
    address = address_of(machine)
    first = await pool.connection(address)
    await machine.drop_connections()
    await asyncio.wait_for(first.wait_closed(), PATIENCE)
    second = await pool.connection(address)
    assert second is not first
    assert await Podlet(pool).call(address, "observe", {"ids": None})


async def test_a_call_whose_connection_is_lost_says_that_it_is_unknown_what_became_of_it(
    machine: SimulatedMachine, pool: SshPool
) -> None:
    address = address_of(machine)
    request = {"id": "task/work/1", "kind": "run", "argv": ["sleep", "1000"], "environment": {}, "workspace": "t/w"}
    call = asyncio.create_task(Podlet(pool).call(address, "run", request))

    async def runs() -> bool:
        return any(process.title == "sleep 1000" for process in await machine.processes())

    await eventually(runs, "the program runs")
    await machine.drop_connections()
    with pytest.raises(Unreachable, match="lost during run"):
        await call
    # It runs on; asked for again under the same id, it is found and not started a second time.
    async with Podlet(pool).stream(address, "run", request) as lines:
        assert (await anext(lines))["type"] == "beat"
    assert [p.title for p in await machine.processes()].count("sleep 1000") == 1


async def test_tries_are_spaced_out_and_callers_in_between_get_the_last_reason(
    machine: SimulatedMachine, pool: SshPool, clock: Clock
) -> None:
    address = address_of(machine)
    await machine.unreachable(outage="refuse")
    pauses = []
    for number in range(8):
        error = await refused(pool, address, Unreachable)
        assert isinstance(error, Unreachable)
        pauses.append(error.retry_after)
        ceiling = min(ssh.BACKOFF_MAXIMUM, ssh.BACKOFF_FIRST * 2**number)
        assert ceiling / 2 <= error.retry_after <= ceiling
        # Before its time no try is made: the machine would take this one.
        await machine.reachable()
        clock.now += error.retry_after * 0.9
        early = await refused(pool, address, Unreachable)
        assert isinstance(early, Unreachable)
        assert early.reason == error.reason
        assert early.retry_after == pytest.approx(error.retry_after * 0.1)
        await machine.unreachable(outage="refuse")
        clock.now += error.retry_after * 0.2
    assert pauses[-1] > pauses[0]
    await machine.reachable()
    clock.now += ssh.BACKOFF_MAXIMUM
    await pool.connection(address)
    # One that worked makes the next failure the first again.
    await machine.unreachable(outage="refuse")
    await machine.drop_connections()

    async def failed() -> RemoteError | None:
        try:
            await pool.connection(address)
        except RemoteError as error:
            return error
        return None

    error = await eventually(failed, "the connection is gone")
    assert isinstance(error, Unreachable)
    assert error.retry_after <= ssh.BACKOFF_FIRST


async def test_another_address_is_tried_at_once(machine: SimulatedMachine, pool: SshPool) -> None:
    wrong = address_of(machine, machine.ssh_command.replace(f"-p {machine.port}", "-p 1"))
    await refused(pool, wrong, Unreachable)
    await pool.connection(address_of(machine))


async def test_a_changed_host_key_is_refused_with_both_fingerprints(machine: SimulatedMachine, pool: SshPool) -> None:
    address, old = address_of(machine), machine.fingerprint
    await pool.connection(address)
    new = await machine.change_host_key()
    await machine.drop_connections()

    async def changed() -> HostKeyChanged | None:
        try:
            await pool.connection(address)
        except HostKeyChanged as error:
            return error
        return None

    error = await eventually(changed, "the change is noticed")
    assert old in str(error)
    assert new in str(error)
    assert f"podctl pods set one --accept-host-key {new}" in str(error)
    assert (await fetch_host_key("one", address.ssh)).key.fingerprint == new
    await pool.connection(address_of(machine))


async def test_keys_that_do_not_open_the_machine_say_which_were_tried(
    machine: SimulatedMachine, pool: SshPool, tmp_path: Path, clock: Clock
) -> None:
    wrong, locked = tmp_path / "wrong", tmp_path / "locked"
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(str(wrong))
    key.write_private_key(str(locked), "pkcs8-pem", passphrase="secret")
    broken = tmp_path / "broken"
    broken.write_text("no key at all")
    for file in (wrong, locked, broken):
        file.chmod(0o600)
    for path, says in (
        (wrong, "refused the login"),
        (locked, "SSH agent"),
        (broken, "cannot be used"),
        (tmp_path / "missing", "no key file"),
    ):
        address = address_of(machine, machine.ssh_command.replace(str(machine.client_key), str(path)))
        error = await refused(pool, address, AuthenticationFailed)
        assert says in str(error)
        if path is wrong:
            assert str(path) in str(error)
        # While the pause lasts, the same reason: it is no matter of the network.
        assert says in str(await refused(pool, address, AuthenticationFailed))
        clock.now += ssh.BACKOFF_MAXIMUM


async def test_a_machine_that_hangs_is_unreachable(
    machine: SimulatedMachine, pool: SshPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_config, "CONNECT_TIMEOUT", 0.3)
    await machine.unreachable(outage="hang")
    await refused(pool, address_of(machine), Unreachable)
    with pytest.raises(Unreachable):
        await fetch_host_key("one", parse_ssh(machine.ssh_command))


async def test_what_a_login_script_prints_is_skipped(machine: SimulatedMachine, pool: SshPool) -> None:
    for noise in ("Welcome!\n", "no newline at its end", '{"a": "json line"}\n', "\x1b[31mcolours\x1b[0m"):
        await machine.settings(login_output=noise)
        assert (await Podlet(pool).call(address_of(machine), "inventory", {}))["gpu_state"] == "ok"


async def test_the_podlets_refusals_keep_their_code(machine: SimulatedMachine, pool: SshPool) -> None:
    with pytest.raises(PodletError) as error:
        await Podlet(pool).call(address_of(machine), "read_log", {"id": "../../etc/passwd", "offset": 0})
    assert error.value.code == "bad_request"
    assert "pod one" in str(error.value)


async def test_a_machine_that_cannot_take_the_podlet_says_why(machine: SimulatedMachine, pool: SshPool) -> None:
    (machine.folder / "home" / ".podctl").write_text("a file where the folder has to be")
    with pytest.raises(PodletUnusable) as error:
        await Podlet(pool).call(address_of(machine), "inventory", {})
    assert error.value.code == "upload_failed"
    assert "Check space and permissions" in str(error.value)
