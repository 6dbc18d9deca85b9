"""The ways to a machine that OpenSSH users have, against real sshd: jump hosts, keys, agents, certificates, pinning."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncssh
import pytest

from domain.gpu.models import PodAddress
from domain.gpu.ssh_target import parse_ssh
from remote.errors import AuthenticationFailed, HostKeyChanged, RemoteError, SshSetupError, Unreachable
from remote.podlet import Podlet
from remote.ssh import HostKey, SshPool, connect, fetch_host_key
from remote.ssh_keys import Passphrases
from tests.system.ssh_doors import ADDRESS, Door, agent, make_key, public_of, run
from tests.workflow.support import eventually

MakeDoor = Callable[..., Awaitable[Door]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home of the test's own, with an empty ``.ssh``."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


@pytest.fixture
async def key(home: Path) -> Path:
    """The user's default key."""
    return await make_key(home / ".ssh" / "id_ed25519")


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[MakeDoor]:
    """Make SSH servers that end with the test."""
    async with contextlib.AsyncExitStack() as stack:
        count = 0

        async def make(key: Path | None, *settings: str) -> Door:
            nonlocal count
            count += 1
            folder = tmp_path / f"door-{count}"
            folder.mkdir()
            made = Door(folder, key)
            stack.push_async_callback(made.close)
            await made.open(*settings)
            return made

        yield make


def know(home: Path, *doors: Door) -> None:
    (home / ".ssh" / "known_hosts").write_text("".join(door.known for door in doors))


async def reach(address: PodAddress, passphrases: Passphrases | None = None) -> str:
    """Connect, run a command there, and return what it says."""
    connection = await connect(address, passphrases)
    try:
        return str((await connection.run("printf reached", check=True)).stdout)
    finally:
        connection.close()


async def failure(address: PodAddress, kind: type[RemoteError], passphrases: Passphrases | None = None) -> str:
    with pytest.raises(kind) as raised:
        await connect(address, passphrases)
    return str(raised.value)


class Person:
    """Types what is in the list, one answer for each question."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.passphrases = Passphrases(self._answer)

    async def _answer(self, question: str) -> str | None:
        self.asked.append(question)
        return self.answers.pop(0)


# -- jump hosts


async def test_a_machine_behind_a_chain_of_jump_hosts_is_reached_over_each(
    home: Path, key: Path, door: MakeDoor
) -> None:
    first, second, machine = await door(key), await door(key), await door(key)
    know(home, first, second)
    address = machine.pod(f"-J {first.hop},{second.hop}")
    assert await reach(address) == "reached"
    assert [each.logins() for each in (first, second, machine)] == [1, 1, 1]
    # The key of the machine is asked for over the same way, and the podlet works over it.
    assert (await fetch_host_key("one", address.ssh)).key.public == machine.public
    pool = SshPool()
    inventory = await Podlet(pool).call(address.model_copy(update={"root": str(home / "root")}), "inventory", {})
    assert inventory["home"]
    await pool.close()


async def test_a_connection_that_ends_takes_those_that_carry_it_along(home: Path, key: Path, door: MakeDoor) -> None:
    jump, machine = await door(key), await door(key)
    know(home, jump)
    connection = await connect(machine.pod(f"-J {jump.hop}"))
    connection.abort()
    await connection.wait_closed()

    async def gone() -> bool:
        return "Disconnected from" in jump.log.read_text() or "Connection closed by" in jump.log.read_text()

    await eventually(gone, "the jump host was left")


async def test_jump_hosts_keys_and_names_may_stand_in_the_config_file(home: Path, door: MakeDoor) -> None:
    jump_key, machine_key = await make_key(home / "jump_key"), await make_key(home / "machine_key")
    jump, machine = await door(jump_key), await door(machine_key)
    (home / "jump_known").write_text(jump.known)
    (home / ".ssh" / "more").mkdir()
    (home / ".ssh" / "more" / "jump").write_text(
        f"Host bastion\n HostName {ADDRESS}\n Port {jump.port}\n IdentityFile ~/jump_key\n"
        " IdentitiesOnly yes\n UserKnownHostsFile ~/jump_known\n"
    )
    (home / ".ssh" / "config").write_text(
        f"Include more/*\nHost gpu\n HostName {ADDRESS}\n Port {machine.port}\n ProxyJump bastion\n"
        "Match originalhost gpu\n IdentityFile %d/machine_key\nHost *\n ServerAliveInterval 60\n RequestTTY force\n"
        " ForwardAgent yes\n RemoteCommand false\n"
    )
    address = machine.pod().model_copy(update={"ssh": parse_ssh("gpu")})
    assert await reach(address) == "reached"
    assert jump.logins() == 1
    # The line has the last word.
    direct = machine.pod().model_copy(update={"ssh": parse_ssh("ssh -J none gpu")})
    assert await reach(direct) == "reached"
    assert jump.logins() == 1


async def test_a_jump_host_that_nobody_knows_is_not_entered(home: Path, key: Path, door: MakeDoor) -> None:
    jump, machine = await door(key), await door(key)
    told = await failure(machine.pod(f"-J {jump.hop}"), SshSetupError)
    assert HostKey.parse(jump.public).fingerprint in told
    assert f"ssh -p {jump.port}" in told
    assert jump.logins() == 0
    # Nor by the file's word, which OpenSSH would follow.
    (home / ".ssh" / "config").write_text("Host *\n StrictHostKeyChecking no\n UserKnownHostsFile none\n")
    assert "nothing here knows" in await failure(machine.pod(f"-J {jump.hop}"), SshSetupError)


async def test_a_jump_host_with_another_key_is_told_with_the_line_that_says_so(
    home: Path, key: Path, door: MakeDoor
) -> None:
    jump, machine = await door(key), await door(key)
    (home / ".ssh" / "known_hosts").write_text(f"# mine\n[{ADDRESS}]:{jump.port} {machine.public}\n")
    told = await failure(machine.pod(f"-J {jump.hop}"), HostKeyChanged)
    assert f"{home}/.ssh/known_hosts line 2" in told
    assert f"ssh-keygen -R '[{ADDRESS}]:{jump.port}'" in told
    for public in (jump.public, machine.public):
        assert HostKey.parse(public).fingerprint in told


async def test_a_jump_host_whose_key_an_authority_signed_is_known(home: Path, key: Path, door: MakeDoor) -> None:
    authority = await make_key(home / "authority")
    jump, machine = await door(key), await door(key)
    await run("ssh-keygen", "-q", "-s", str(authority), "-I", "jump", "-h", "-n", ADDRESS, f"{jump.host_key}.pub")
    await jump.close()
    await jump.open(f'HostCertificate "{jump.host_key}-cert.pub"')
    public = public_of(authority)
    (home / ".ssh" / "known_hosts").write_text(f"@cert-authority [{ADDRESS}]:* {public}")
    assert await reach(machine.pod(f"-J {jump.hop}")) == "reached"


async def test_what_fails_at_a_jump_host_says_so(home: Path, key: Path, door: MakeDoor) -> None:
    closed, open_, machine = await door(key, "AllowTcpForwarding no"), await door(key), await door(key)
    know(home, closed, open_)
    assert "AllowTcpForwarding" in await failure(machine.pod(f"-J {closed.hop}"), Unreachable)
    nobody = machine.port
    await machine.close()
    told = await failure(machine.pod(f"-J {open_.hop}", port=nobody), Unreachable)
    assert f"jump host {open_.hop} makes no connection to {ADDRESS} port {nobody}" in told
    await open_.close()
    told = await failure(machine.pod(f"-J {open_.hop}"), Unreachable)
    assert "at jump host" in told
    assert "refuses connections" in told
    ring = "Host a\n ProxyJump b\nHost b\n ProxyJump a\n"
    (home / ".ssh" / "config").write_text(ring)
    assert "ring" in await failure(machine.pod("-J a"), SshSetupError)


# -- keys, passphrases, agents, certificates


@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
async def test_a_passphrase_is_asked_for_once_and_only_when_it_is_needed(home: Path, door: MakeDoor, form: str) -> None:
    locked = await make_key(home / "locked", "open sesame", kind="rsa", form=form)
    free = await make_key(home / "free")
    machine = await door(locked)
    person = Person("wrong", "open sesame")
    address = machine.pod(f"-i {locked}")
    for _ in range(2):
        assert await reach(address, person.passphrases) == "reached"
    assert len(person.asked) == 2
    assert str(locked) in person.asked[0]
    assert "that is not it" in person.asked[1]
    # A server that does not take the key is no reason to ask.
    nobody = Person()
    await (other := await door(free)).close()
    await other.open()
    assert await reach(other.pod(f"-i {locked} -i {free}"), nobody.passphrases) == "reached"
    assert nobody.asked == []


async def test_a_worker_asks_nobody_and_says_what_to_do(home: Path, door: MakeDoor) -> None:
    locked = await make_key(home / "locked", "open sesame")
    machine = await door(locked)
    told = await failure(machine.pod(f"-i {locked}"), AuthenticationFailed)
    assert f"ssh-add {locked}" in told
    # And one who cannot say it is not asked again.
    person = Person("no", "no", "no")
    for _ in range(2):
        told = await failure(machine.pod(f"-i {locked}"), AuthenticationFailed, person.passphrases)
        assert f"no passphrase for {locked}" in told
    assert len(person.asked) == 3


async def test_the_time_in_which_a_person_types_is_not_the_machines(home: Path, door: MakeDoor) -> None:
    locked = await make_key(home / "locked", "open sesame")
    machine = await door(locked)
    # Enough for what the machine does itself, also where everything takes long.
    patience, thinks = 5, asyncio.Event()

    async def slowly(_question: str) -> str:
        asyncio.get_running_loop().call_later(patience + 1.0, thinks.set)
        await thinks.wait()
        return "open sesame"

    assert await reach(machine.pod(f"-o ConnectTimeout={patience} -i {locked}"), Passphrases(slowly)) == "reached"


async def test_the_agent_opens_what_its_keys_open(
    home: Path, door: MakeDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = await make_key(home / "locked", "open sesame")
    machine = await door(locked)
    async with agent(tmp_path) as environment:
        plain = await make_key(home / "plain")
        machine_too = await door(plain)
        await run("ssh-add", "-q", str(plain), environment=environment)
        monkeypatch.setenv("SSH_AUTH_SOCK", environment["SSH_AUTH_SOCK"])
        assert await reach(machine_too.pod()) == "reached"
        # Only its public part is here: the agent has the rest.
        plain.unlink()
        for line in (f"-i {plain}", f"-i {plain}.pub -o IdentitiesOnly=yes"):
            assert await reach(machine_too.pod(line)) == "reached"
        assert "the SSH agent" in await failure(machine.pod(), AuthenticationFailed)
        told = await failure(machine_too.pod("-o IdentityAgent=none"), AuthenticationFailed)
        assert "there is no key to log in" in told
        monkeypatch.delenv("SSH_AUTH_SOCK")
        assert await reach(machine_too.pod(f"-o IdentityAgent={environment['SSH_AUTH_SOCK']}")) == "reached"


async def test_a_named_key_comes_before_all_that_the_agent_holds(
    home: Path, key: Path, door: MakeDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await door(key)
    async with agent(tmp_path) as environment:
        for number in range(7):
            other = await make_key(home / f"other-{number}")
            await run("ssh-add", "-q", str(other), environment=environment)
        monkeypatch.setenv("SSH_AUTH_SOCK", environment["SSH_AUTH_SOCK"])
        told = await failure(machine.pod(), AuthenticationFailed)
        assert "IdentitiesOnly=yes" in told
        assert await reach(machine.pod(f"-i {key}")) == "reached"
        told = await failure(machine.pod(f"-i {other} -o IdentitiesOnly=yes"), AuthenticationFailed)
        assert "refused the login" in told
        assert "7" not in told.replace(str(machine.port), "").replace(str(home), "").split("tried:")[1]


async def test_certificates_open_what_their_authority_is_trusted_for(
    home: Path, door: MakeDoor, tmp_path: Path
) -> None:
    authority, signed = await make_key(home / "authority"), await make_key(home / "signed")
    machine = await door(None, f'TrustedUserCAKeys "{authority}.pub"')
    assert "refused the login" in await failure(machine.pod(f"-i {signed}"), AuthenticationFailed)
    user = machine.pod().ssh.user or asyncssh.SSHClientConnectionOptions().username
    await run("ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", user, f"{signed}.pub")
    assert await reach(machine.pod(f"-i {signed}")) == "reached"
    elsewhere = home / "certificate.pub"
    signed.with_name("signed-cert.pub").rename(elsewhere)
    assert await reach(machine.pod(f"-i {signed} -o CertificateFile={elsewhere}")) == "reached"
    (home / ".ssh" / "config").write_text(f"Host *\n IdentityFile {signed}\n CertificateFile ~/certificate.pub\n")
    assert await reach(machine.pod()) == "reached"
    (home / ".ssh" / "config").unlink()
    async with agent(tmp_path) as environment:
        await run("ssh-add", "-q", str(signed), environment=environment)
        signed.unlink()
        line = f"-i {signed}.pub -o CertificateFile={elsewhere} -o IdentityAgent={environment['SSH_AUTH_SOCK']}"
        assert await reach(machine.pod(line)) == "reached"
    missing = f"-i {elsewhere} -o CertificateFile=/no/such"
    assert "/no/such cannot be used" in await failure(machine.pod(missing), AuthenticationFailed)


async def test_key_files_that_cannot_be_used_say_why(home: Path, key: Path, door: MakeDoor) -> None:
    machine = await door(key)
    open_to_all = await make_key(home / "open")
    open_to_all.chmod(0o644)
    broken = home / "broken"
    broken.touch(0o600)
    broken.write_text("no key")
    for line, says in (
        (f"-i {open_to_all}", f"chmod 600 {open_to_all}"),
        (f"-i {broken}", f"{broken} cannot be used"),
        ("-i ~/missing", f"there is no key file {home}/missing"),
        (f"-i {home}", "cannot be read: Is a directory"),
        (f"-i {key}.pub", "does not hold it"),
    ):
        assert says in await failure(
            machine.pod(f"{line} -o IdentitiesOnly=yes -o IdentityAgent=none"), AuthenticationFailed
        )
    # One that works makes the others not matter.
    assert await reach(machine.pod(f"-i ~/missing -i {open_to_all} -i {key}")) == "reached"


# -- what goes wrong before the login


async def test_each_failure_says_what_happened_where_and_what_to_do(home: Path, key: Path, door: MakeDoor) -> None:
    machine = await door(key)

    def elsewhere(line: str) -> PodAddress:
        return machine.pod().model_copy(update={"ssh": parse_ssh(line)})

    assert "is not known here" in await failure(elsewhere("ssh no-such-host.invalid"), Unreachable)
    with socket.create_server((ADDRESS, 0)) as silent:
        port = silent.getsockname()[1]
        told = await failure(elsewhere(f"ssh -o ConnectTimeout=1 -p {port} {ADDRESS}"), Unreachable)
        assert f"no answer from {ADDRESS} port {port} within 1 s" in told
    told = await failure(elsewhere(f"ssh -p {port} {ADDRESS}"), Unreachable)
    assert f"{ADDRESS} port {port} refuses connections" in told
    assert "podctl pods set" in told

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(hang_up, ADDRESS, 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "ended the connection before the login" in await failure(
            elsewhere(f"ssh -p {port} {ADDRESS}"), Unreachable
        )
    old = await door(key, "KexAlgorithms diffie-hellman-group1-sha1")

    async def agrees_on_nothing() -> str | None:
        # sshd hangs up at the same moment: now and then that is heard first.
        with contextlib.suppress(Unreachable):
            return await failure(old.pod(), SshSetupError)
        return None

    told = await eventually(agrees_on_nothing, "the algorithms are told")
    assert "it offers diffie-hellman-group1-sha1" in told
    assert "KexAlgorithms" in told
    (home / ".ssh" / "config").write_text("Host *\n KexAlgorithms +diffie-hellman-group1-sha1\n")
    assert await reach(old.pod()) == "reached"
    (home / ".ssh" / "config").write_text("Host *\n Port twenty\n")
    told = await failure(elsewhere(f"ssh {ADDRESS}"), SshSetupError)
    assert "line 2" in told
    assert "Port" in told
    (home / ".ssh" / "config").write_text("Host *\n ProxyCommand no-such-program %h %p\n")
    assert "ProxyCommand" in await failure(machine.pod(), SshSetupError)
    with pytest.raises(SshSetupError):
        await fetch_host_key("one", machine.pod().ssh)


async def test_a_program_of_the_config_file_makes_the_connection(home: Path, key: Path, door: MakeDoor) -> None:
    machine = await door(key)
    relay = home / "relay.py"
    relay.write_text(
        "import os, select, socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for r in select.select([0, s], [], [])[0]:\n"
        "        data = os.read(0, 65536) if r == 0 else s.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        s.sendall(data) if r == 0 else os.write(1, data)\n"
    )
    (home / ".ssh" / "config").write_text(f"Host gpu\n ProxyCommand python3 {relay} {ADDRESS} {machine.port}\n")
    address = machine.pod().model_copy(update={"ssh": parse_ssh("gpu")})
    assert await reach(address) == "reached"
    assert (await fetch_host_key("one", address.ssh)).key.public == machine.public


async def test_signs_of_life_are_asked_for_as_the_line_says(key: Path, door: MakeDoor) -> None:
    machine = await door(key)
    async with await connect(machine.pod("-o ServerAliveInterval=1 -o ServerAliveCountMax=1 -C -4")) as connection:
        closed = asyncio.create_task(connection.wait_closed())
        assert connection._keepalive_interval == 1
        assert connection._keepalive_count_max == 1
        assert b"zlib" in connection.get_extra_info("send_compression").encode()
    await closed


# -- what is known of a host key


async def test_the_kind_of_key_that_is_known_is_the_one_that_is_asked_for(
    home: Path, key: Path, door: MakeDoor
) -> None:
    machine = await door(key)
    rsa = await make_key(machine.folder / "rsa_key", kind="rsa")
    await machine.close()
    await machine.open(f'HostKey "{rsa}"')
    public = " ".join(public_of(rsa).split()[:2])
    (home / ".ssh" / "known_hosts").write_text(f"# mine\n[{ADDRESS}]:{machine.port} {public}\n")
    shown = await fetch_host_key("one", machine.pod().ssh)
    assert shown.key.public == public
    assert shown.known_at == f"{home}/.ssh/known_hosts line 2"
    # A pod that has it pinned is not told that it changed because there is another kind, too.
    assert await reach(machine.pod().model_copy(update={"host_key": public})) == "reached"
    await run("ssh-keygen", "-q", "-H", "-f", str(home / ".ssh" / "known_hosts"))
    with (home / ".ssh" / "known_hosts").open("a") as file:
        file.write("garbage\n|1|more garbage\n")
    assert (await fetch_host_key("one", machine.pod().ssh)).known_at
    elsewhere = machine.pod("-o UserKnownHostsFile=/dev/null").ssh
    shown = await fetch_host_key("one", elsewhere)
    assert (shown.known_at, shown.contradiction) == (None, None)


async def test_a_known_key_that_contradicts_is_told_and_a_revoked_one_never_trusted(
    home: Path, key: Path, door: MakeDoor
) -> None:
    machine, other = await door(key), await door(key)
    (home / "mine").write_text(f"box {other.public}\n")
    ssh = machine.pod("-o UserKnownHostsFile=~/mine -o HostKeyAlias=box").ssh
    shown = await fetch_host_key("one", ssh)
    assert shown.known_at is None
    assert f"{home}/mine line 1 has another one for box" in (shown.contradiction or "")
    (home / "mine").write_text(f"box {machine.public}\n@revoked box {machine.public}\n")
    shown = await fetch_host_key("one", ssh)
    assert shown.known_at is None
    assert "revoked" in (shown.contradiction or "")
