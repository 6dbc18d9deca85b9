"""What people type never becomes shell text: it arrives as typed or is refused; what machines print is no answer.

The machine is simulated; SSH, shell and programs are real.
"""
# ruff: noqa: ASYNC240 - looks at files of this machine take no time

import itertools
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from domain.errors import BadInput, Rejected
from domain.gpu.catalog import Catalog
from domain.gpu.models import PodAddress
from domain.gpu.planning import plan_start
from domain.gpu.request import start_request
from domain.gpu.ssh_target import parse_ssh
from domain.ids import check_name
from remote.errors import PodletError
from remote.podlet import Podlet, _start_command
from remote.ssh import HostKey, SshPool
from simulator.api import MachineConfig, SimulatedMachine, simulate
from tests.activity.simulator_harness import eventually, shell
from tests.unit.gpu.pod import inventory

#: What a shell would act on; in each, CANARY is the path of a file that must never come to be.
TRAPS = (
    "$(touch CANARY)",
    "`touch CANARY`",
    "; touch CANARY;",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "\ntouch CANARY\n",
    "| touch CANARY",
    "&& touch CANARY",
    "x > CANARY",
    "--option=$(touch CANARY)",
    "{touch,CANARY}",
)
#: Texts that are hard to quote: shells' own characters, blanks, letters of other scripts, long ones.
HARD = st.text(
    st.sampled_from("'\"`$(){}[]<>|&;*?~#!\\ \t\n-=%,^@a1éß漢😀\u202e\u00a0")
    | st.characters(codec="utf-8", exclude_characters="\0"),
    max_size=300,
)


@pytest.fixture(scope="module")
async def machine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    """A machine whose vllm writes down how it was called."""
    async with simulate(tmp_path_factory.mktemp("hostile"), [MachineConfig(name="hostile")]) as [one]:
        for name in ("vllm", "record"):
            program = one.folder / "bin" / name
            program.write_text("#!/usr/bin/python3 -IS\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
            program.chmod(0o755)
        yield one


@pytest.fixture(scope="module")
async def podlet() -> AsyncIterator[Podlet]:
    pool = SshPool()
    yield Podlet(pool)
    await pool.close()


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "file"


@pytest.fixture(scope="module")
def said_to_the_shell() -> Iterator[list[str]]:
    """Every command line that was given to the machine's shell."""
    given_to_it: list[str] = []
    original = asyncssh.SSHClientConnection.create_process

    async def noted(self: asyncssh.SSHClientConnection, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - passed on
        given_to_it.append(str(arguments[0]))
        return await original(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncssh.SSHClientConnection, "create_process", noted)
        yield given_to_it


@pytest.fixture(scope="module")
def address(machine: SimulatedMachine) -> PodAddress:
    public = HostKey.parse(machine.host_key).public
    return PodAddress(pod="hostile", ssh=parse_ssh(machine.ssh_command), host_key=public, root="~/.podctl")


_number = itertools.count(1)


async def launched(podlet: Podlet, address: PodAddress, kind: str, argv: tuple[str, ...]) -> list[str]:
    """Launch a program that writes down its arguments; return them."""
    request = {"id": f"hostile/one/{next(_number)}", "kind": kind, "argv": argv, "environment": {}, "gpus": []}
    await podlet.call(address, "launch", request)
    result: list[str] = []

    async def written() -> bool:
        tail = await podlet.call(address, "log_tail", {"id": request["id"]})
        result[:] = json.loads(tail["text"]) if tail["text"].endswith("\n") else []
        return bool(result)

    await eventually(written, "the program has written its arguments")
    return result


async def test_a_trap_that_a_shell_reads_does_spring(machine: SimulatedMachine, canary: Path) -> None:
    """So that the tests below show something."""
    await shell(machine, f"echo {TRAPS[0].replace('CANARY', str(canary))}")
    assert canary.exists()
    canary.unlink()


async def test_traps_reach_a_server_and_a_command_as_they_are(
    machine: SimulatedMachine, podlet: Podlet, address: PodAddress, canary: Path, said_to_the_shell: list[str]
) -> None:
    assert machine
    traps = tuple(trap.replace("CANARY", str(canary)) for trap in TRAPS)
    for model in (f"/models/{trap}" for trap in traps if "\n" not in trap):
        request = start_request(Catalog(), model, "one", arguments=traps)
        plan = plan_start(request, inventory(1), [])
        assert model in plan.argv
        assert plan.argv[-len(traps) - 2 :][: len(traps)] == traps
    arguments = await launched(podlet, address, "server", ("vllm", *plan.argv[1:]))
    assert arguments == [machine.address if word == "{loopback}" else word for word in plan.argv[1:]]
    assert await launched(podlet, address, "run", ("record", *traps)) == [*traps]
    assert not canary.exists()
    # Constant text; the upload of the podlet is the other one.
    assert {line for line in said_to_the_shell if "mkdir -p" not in line} == {_start_command()}
    assert not any(str(canary) in line for line in said_to_the_shell)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(HARD, min_size=1, max_size=20))
async def test_any_text_reaches_a_command_as_it_is(podlet: Podlet, address: PodAddress, words: list[str]) -> None:
    if sum(len(json.dumps(word)) for word in words) < 4000:  # of a log's end
        assert await launched(podlet, address, "run", ("record", *words)) == words


@pytest.mark.parametrize("field", ["id", "workspace", "server", "root"])
async def test_a_name_that_is_none_makes_no_folder(
    machine: SimulatedMachine, podlet: Podlet, address: PodAddress, canary: Path, field: str
) -> None:
    for trap in (*TRAPS, "../../../outside", "-rf", "x" * 300):
        text = trap.replace("CANARY", str(canary))
        request = {"id": "hostile/two/1", "kind": "run", "argv": ["record"], "environment": {}, "gpus": []}
        if field == "root":
            address = address.model_copy(update={"root": f"{machine.folder}/home/{trap.replace('/', '')}"[:200]})
            await podlet.call(address, "observe", {"ids": None})
            assert Path(address.root).is_dir(), "a folder of exactly this name"
            continue
        with pytest.raises(PodletError) as refused:
            await podlet.call(address, "launch", {**request, field: f"a/{text}/1"})
        assert refused.value.code == "bad_request"
    assert not canary.exists()


@given(HARD, st.lists(HARD, max_size=5))
@example("-x", [])
@example("two\nlines", [])
@example("m", ["--served-model-name", "$(id)"])
def test_a_start_is_taken_literally_or_refused(model: str, arguments: list[str]) -> None:
    try:
        request = start_request(Catalog(), model, "one", arguments=arguments)
        plan = plan_start(request, inventory(4), [])
    except (BadInput, Rejected):
        return
    assert plan.argv[:3] == ("/opt/vllm", "serve", model)
    assert not model.startswith("-")
    at = len(plan.argv) - len(arguments)
    assert any(plan.argv[begin : begin + len(arguments)] == tuple(arguments) for begin in range(3, at + 1))


@given(HARD)
@example("x" * 64)
@example("a..b")
@example("-x")
def test_a_name_is_safe_everywhere_or_refused(name: str) -> None:
    try:
        check_name("pod", name)
    except BadInput:
        return
    assert name.isascii()
    assert 0 < len(name) < 64
    assert name[0].isalnum()
    assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()


@given(st.lists(HARD | st.sampled_from(["ssh", "-p", "-i", "-J", "-o", "ProxyCommand=x", "--", "root@h", "22"])))
def test_an_ssh_line_names_plain_hosts_and_users_or_is_refused(words: list[str]) -> None:
    try:
        target = parse_ssh(" ".join(words))
    except BadInput:
        return
    for text in (target.host, target.user or "x", target.jump or "x"):
        assert not text.startswith("-")
        assert not set(text) & set("'\"`$(){}<>|&;*?~#!\\ \t\n")


# -- what machines print ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise",
    [
        "Welcome!",
        "Welcome!\n",
        "\r\n* motd *\r\n\x1b[31mred\x1b[0m\n",
        '{"podlet": 1',
        '{"podlet": 2, "type": "result"}\n{}\n',
        "\x00\xff" * 50,
        "x" * 1_000_000,
        "many lines\n" * 100_000,
    ],
    ids=["no end", "line", "motd", "half an answer", "another protocol", "bytes", "1 MB in one line", "1 MB of lines"],
)
async def test_what_a_login_shell_prints_is_no_answer(
    machine: SimulatedMachine, podlet: Podlet, address: PodAddress, noise: str
) -> None:
    await machine.settings(login_output=noise)
    try:
        inventory = await podlet.call(address, "inventory", {})
    finally:
        await machine.settings(login_output="")
    assert inventory["boot"] == machine.boot
