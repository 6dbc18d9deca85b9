"""The failure matrix: each failure is made to happen, what podctl shows is kept, what is left is measured.

The run writes ``build/failures.md`` and holds that ``docs/failures.md`` is the same; ``make failures`` takes it over.
"""

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest
from temporalio.client import Client

from domain.gpu.commands import PodInput, Remove, SetAddress
from domain.gpu.ssh_target import parse_ssh
from podctl.client import new_command_id
from podctl.namespace import pollers
from podctl.paths import PodctlPaths
from simulator.api import Gpu, MachineConfig, simulate
from tests.chaos.matrix import Case
from tests.chaos.support import MODEL, PATIENCE, Site, WorkerProcess, eventually
from tests.workflow.cli.support import CommandLine

#: Rows told at the same time.
CONCURRENT = 3
DOCUMENT = Path(__file__).parents[2] / "docs" / "failures.md"
WRITTEN = Path(__file__).parents[2] / "build" / "failures.md"
TOKEN = "the-worker's-token-0123456789"
INTRODUCTION = """\
# What goes wrong, what podctl shows, and what is left

Written by `tests/chaos/test_failure_matrix.py`, which makes each of these happen on a simulated machine with a real
Temporal server, worker and CLI: do not edit it, `make failures` writes it anew. *Shown* is what `podctl list` (or the
command that is named) says, with ids, times and numbers of processes replaced. *Left* is measured on the machine
afterwards: processes, GPU memory, listening ports, shared memory and sockets, and whether the GPU is still leased.
"""

Story = Callable[[Case], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """One line of the document: ``left`` is what must be left when its story has ended."""

    section: str
    failure: str
    left: str
    gpus: tuple[Gpu, ...]
    story: Story
    #: Whether the machine is a pod before the story begins.
    registered: bool

    @property
    def made(self) -> str:
        """How it is made to happen: the story's docstring."""
        return " ".join((self.story.__doc__ or "").split())


ROWS: dict[str, Row] = {}
#: What ``Case.left`` says of a server of which everything is there.
SERVING = "the server, which serves on"
PEERS = "What the users of such tools suffer from"
START = "A server that does not come up"
END = "A server that ends, or does not want to"
MACHINE = "The machine"


def row(
    section: str, failure: str, left: str = "nothing", gpus: tuple[Gpu, ...] = (Gpu(),), *, registered: bool = True
) -> Callable[[Story], Story]:
    """Make a story a row of the document."""

    def add(story: Story) -> Story:
        name = getattr(story, "__name__", "").replace("_", "-")
        ROWS[name] = Row(section, failure, left, gpus, story, registered)
        return story

    return add


# -- what the users of such tools suffer from ------------------------------------------------------------------------


@row(PEERS, "Engine processes survive the server and hold GPU memory while its port is free")
async def surviving_engine(case: Case) -> None:
    """`kill -9` of the API server: engine and worker go on without it."""
    await case.ready()
    await case.kill("api_server")
    server = await case.finished()
    assert server.stop_result is not None
    assert server.stop_result.killed >= 2
    await case.show()


@row(PEERS, "A stop is lost while the machine is unreachable")
async def stop_while_unreachable(case: Case) -> None:
    """The machine refuses connections; `podctl stop`; it answers again."""
    await case.ready()
    await case.machine.unreachable(outage="refuse")
    await case.machine.drop_connections()
    await case.site.server("coder", "unreachable")
    stopped = await case.command("stop", "coder", "--pod", case.site.pod_name)
    case.keep("`podctl stop`", stopped.output)
    await case.machine.reachable()
    await case.finished()
    await case.show()


@row(PEERS, "A cleaner kills live work", SERVING, (Gpu(), Gpu()))
async def live_work_of_others(case: Case) -> None:
    """The same machine is registered a second time under another name; a server is started and stopped there."""
    before = await case.ready()
    other = f"{case.site.pod_name}-b"
    ssh, key = parse_ssh(case.machine.ssh_command), case.machine.host_key
    client = case.site.client
    await client.register_pod(PodInput(name=other, ssh=ssh, host_key=key, by="ann", command_id=new_command_id()))

    async def sees_it() -> bool:
        return bool((await client.pod(other)).orphans)

    await eventually(sees_it, "the second registration sees the launch of the first")
    await case.command("start", MODEL, "--name", "mine", "--pod", other)
    await case.command("stop", "mine", "--pod", other)
    await case.show_pod(f"{case.site.pod_name}/coder/1", other)
    await client.execute_pod(other, Remove(), by="ann")
    await case.show()
    after = await case.site.server("coder", "ready")
    assert (after.pid, after.launch_id) == (before.pid, before.launch_id)


@row(PEERS, "A lost connection is taken for a death", SERVING)
async def flapping_connection(case: Case) -> None:
    """Every SSH connection is reset, three times."""
    before = await case.ready()
    for _ in range(3):
        await case.site.lose_connections()
    await case.show()
    after = await case.site.server("coder", "ready")
    assert (after.pid, after.since) == (before.pid, before.since)
    assert "pod_unreachable" not in {event.type for event in await case.site.events(case.site.pod_workflow)}


@row(PEERS, "'Ready' comes minutes too early")
async def ready_too_early(case: Case) -> None:
    """`/health` answers 200 and lists the model, and no completion ever ends; then `podctl stop`."""
    await case.machine.settings(hang=True)
    await case.start()
    server = await case.site.server("coder", "loading")
    assert server.launch_id is not None
    log = case.site.launch_folder(server.launch_id) / "output.log"

    async def lists_it() -> bool:
        return "GET /v1/models" in log.read_text()

    await eventually(lists_it, "it has answered all but the completion")
    await case.site.server("coder", "loading")
    await case.show("opening its port")
    await case.site.stop_server("coder")
    await case.finished()


@row(PEERS, "A busy server is killed for its silence", SERVING)
async def busy_server(case: Case) -> None:
    """The API server does not answer for longer than a health check waits (SIGSTOP for 7 s, then SIGCONT)."""
    before = await case.ready()
    await case.machine.signal_servers("api_server", signal.SIGSTOP)
    await asyncio.sleep(7)
    await case.machine.signal_servers("api_server", signal.SIGCONT)
    await case.show()
    after = await case.site.server("coder", "ready")
    assert (after.pid, after.since) == (before.pid, before.since)


@row(PEERS, "/health answers 200 while the engine hangs", SERVING)
async def hung_engine(case: Case) -> None:
    """The engine is stopped (SIGSTOP); half a minute without a request later podctl asks for completions itself."""
    before = await case.ready()
    await case.machine.signal_servers("engine", signal.SIGSTOP)
    await case.pod(lambda pod: pod.servers["coder"].state == "unhealthy", "it is found out", 2 * PATIENCE)
    await case.show()
    await case.machine.signal_servers("engine", signal.SIGCONT)
    after = await case.site.server("coder", "ready")
    await case.show()
    assert (after.pid, after.launch_id) == (before.pid, before.launch_id)


@row(PEERS, "A fixed start timeout kills a slow load", SERVING)
async def slow_load(case: Case) -> None:
    """It is held in the middle of its load for longer than any call takes, then let go on."""
    hook = case.hook("vllm.loading")
    await case.start()
    await hook.reached()
    await case.pod(lambda pod: pod.servers["coder"].stage == "load", "it loads")
    await asyncio.sleep(15)
    await case.show("loading weights")
    hook.release()
    await case.site.server("coder", "ready")
    await case.show()


@row(PEERS, "A failure of the KV cache is reported as a crash")
async def kv_cache(case: Case) -> None:
    """The context does not fit into what the weights leave."""
    await case.machine.settings(start_failure="kv_cache")
    await case.fails()
    await case.show()


@row(PEERS, "Somebody else has the port", SERVING)
async def port_of_a_stranger(case: Case) -> None:
    """A stranger listens on 8001, the port that comes first."""
    with case.somebody_listens(8001):
        server = await case.ready()
        assert server.plan is not None
        assert server.plan.port == 8002
        await case.show()


@row(PEERS, "Somebody takes the port between the check and the server's start", SERVING)
async def port_race(case: Case) -> None:
    """A stranger takes 8001 after the launch was admitted and before vLLM runs."""
    hook = case.hook("launch.before-exec")
    await case.start()
    await hook.reached()
    with case.somebody_listens(8001):
        hook.release()
        await case.show_restarting()
        await case.site.server("coder", "ready")
        await case.show()


@row(PEERS, "Servers race for vLLM's inner ports", SERVING, (Gpu(), Gpu()))
async def inner_ports(case: Case) -> None:
    """Two servers start at once, and a stranger has the first inner port of the first."""
    with case.somebody_listens(20_000):
        await case.start("one")
        await case.start("two")
        first, second = await case.site.server("one", "ready"), await case.site.server("two", "ready")
        blocks = {int((await case.environment(server))["VLLM_PORT"]) for server in (first, second)}
        assert blocks == {20_000, 20_020}
        await case.show()


@row(PEERS, "UUIDs in CUDA_VISIBLE_DEVICES stop vLLM", SERVING, (Gpu(), Gpu()))
async def visible_devices(case: Case) -> None:
    """Two servers, a GPU each, leased by UUID: what each finds in its environment is an index."""
    first, second = await case.ready("one"), await case.ready("two")
    found = [(await case.environment(server))["CUDA_VISIBLE_DEVICES"] for server in (first, second)]
    assert found == ["0", "1"]
    await case.show()


@row(PEERS, "nvidia-smi says [N/A]")
async def memory_not_available(case: Case) -> None:
    """Memory figures are `[N/A]`; a server is started and stopped."""
    await case.machine.settings(nvidia_smi="not_available")
    await case.ready()
    await case.site.stop_server("coder")
    await case.finished()
    await case.show()
    await case.show_pod("NVIDIA")


@row(PEERS, "nvidia-smi says [Insufficient Permissions]")
async def insufficient_permissions(case: Case) -> None:
    """Processes on the GPU are listed without names and memory; a server is started and stopped."""
    await case.machine.settings(nvidia_smi="insufficient_permissions")
    await case.ready()
    await case.site.stop_server("coder")
    await case.finished()
    await case.show()


@row(PEERS, "nvidia-smi lists MIG devices", gpus=(Gpu(mig=True),))
async def mig_devices(case: Case) -> None:
    """The only GPU is in MIG mode."""
    await case.show_refusal()


@row(PEERS, "A process id is used again, and a stranger is killed for it")
async def reused_pid(case: Case) -> None:
    """Everything of the server dies unseen, and its process ids belong to a stranger when the machine answers again."""
    server = await case.ready()
    assert server.launch_id is not None
    await case.machine.unreachable(outage="refuse")
    await case.machine.drop_connections()
    await case.site.server("coder", "unreachable")
    stranger = await case.machine.occupy_gpu(0, 1)
    folder = case.site.launch_folder(server.launch_id)
    for role in ("supervisor", "api_server", "engine", "worker"):
        chosen = await case.supervisors() if role == "supervisor" else await case.site.roles(role)
        for process in chosen:
            case.kill_process(process)
    # A start time tells them apart: the record keeps that of the one who is dead.
    record = folder / "process.json"
    record.write_text(record.read_text().replace(str(server.pid), str(stranger)))
    (folder / "exit.json").unlink(missing_ok=True)
    await case.machine.reachable()
    await case.finished()
    await case.show()
    assert case.is_alive(stranger)
    os.kill(stranger, signal.SIGKILL)


@row(PEERS, "Secrets stand in logs and arguments")
async def secrets_in_the_log(case: Case) -> None:
    """A server prints its environment, HF_TOKEN and its API key included, and ends."""
    case.replace_vllm("env | grep -e ^HF_TOKEN= -e ^VLLM_API_KEY=; exit 3")
    server = await case.fails()
    case.show_log_tail(server, "HF_TOKEN=", "VLLM_API_KEY=")
    await case.show()


@row(PEERS, "An exit code is lost with its supervisor")
async def lost_exit_code(case: Case) -> None:
    """`kill -9` of the supervisor: the server goes on. Then `kill -9` of the API server."""
    await case.ready()
    [supervisor] = await case.supervisors()
    os.kill(supervisor.pid, signal.SIGKILL)

    async def gone() -> bool:
        return await case.supervisors() == []

    await eventually(gone, "the supervisor is gone")
    await case.site.server("coder", "ready")
    await case.show()
    await case.kill("api_server")
    await case.finished()
    await case.show()


@row(PEERS, "SSH fails and says nothing: the connection is refused", SERVING)
async def refused_connection(case: Case) -> None:
    """The machine refuses connections."""
    await case.ready()
    await case.machine.unreachable(outage="refuse")
    await case.machine.drop_connections()
    await case.site.server("coder", "unreachable")
    await case.show()
    await case.machine.reachable()
    await case.site.server("coder", "ready")


@row(PEERS, "SSH fails and says nothing: the key is refused", SERVING)
async def refused_key(case: Case) -> None:
    """`authorized_keys` has another key than the worker's."""
    await case.ready()
    keys = case.machine.folder / "home" / ".ssh" / "authorized_keys"
    accepted = keys.read_text()
    keys.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_public_key())
    await case.machine.drop_connections()
    await case.site.server("coder", "unreachable")
    await case.show()
    keys.write_text(accepted)
    await case.site.server("coder", "ready")


@row(PEERS, "SSH fails and says nothing: another host key", SERVING)
async def changed_host_key(case: Case) -> None:
    """The machine shows another host key; a person pins it."""
    await case.ready()
    await case.machine.change_host_key()
    await case.machine.drop_connections()
    await case.site.server("coder", "unreachable")
    await case.show()
    pinned = SetAddress(ssh=parse_ssh(case.machine.ssh_command), host_key=case.machine.host_key)
    await case.site.client.execute_pod(case.site.pod_name, pinned, by="ann")
    await case.site.server("coder", "ready")


# -- a server that does not come up ----------------------------------------------------------------------------------


@row(START, "Out of memory")
async def out_of_memory(case: Case) -> None:
    """The GPU's memory does not suffice for the weights."""
    await case.machine.settings(start_failure="out_of_memory")
    await case.fails()
    await case.show()


@row(START, "Memory of an earlier process is still draining")
async def memory_draining(case: Case) -> None:
    """20 GB of the GPU are in use, and no process is listed that has them."""
    await case.pod(lambda pod: pod.inventory, "it was looked at")
    await case.machine.leak_gpu_memory(0, 20_000)
    server = await case.fails()
    assert server.failure is not None
    assert server.failure.type == "memory_draining", (server.failure, await case.site.story(case.site.pod_workflow))
    await case.show()
    await case.machine.leak_gpu_memory(0, 0)


@row(START, "The model is gated")
async def gated_model(case: Case) -> None:
    """The Hub refuses the model to this token."""
    await case.machine.settings(start_failure="gated_model")
    await case.fails()
    await case.show()


@row(START, "There is no such model")
async def missing_model(case: Case) -> None:
    """The Hub does not know the model."""
    await case.machine.settings(start_failure="missing_model")
    await case.fails()
    await case.show()


@row(START, "Driver and CUDA do not match")
async def driver_mismatch(case: Case) -> None:
    """The driver is too old for this vLLM."""
    await case.machine.settings(start_failure="cuda_mismatch")
    await case.fails()
    await case.show()


@row(START, "The engine fails for another reason")
async def engine_init(case: Case) -> None:
    """The engine's initialisation raises."""
    await case.machine.settings(start_failure="engine_init")
    await case.fails()
    await case.show()


@row(START, "vLLM does not know an argument")
async def bad_arguments(case: Case) -> None:
    """`--vllm --frobnicate 1`."""
    await case.fails("--vllm", "--frobnicate", "1")
    await case.show()


@row(START, "It ends without a word")
async def silent_end(case: Case) -> None:
    """The program exits with code 3 and prints nothing that is known."""
    case.replace_vllm("echo something; exit 3")
    await case.fails()
    await case.show()


@row(START, "There is no vLLM")
async def no_vllm(case: Case) -> None:
    """The program was removed from the machine."""
    await case.pod(lambda pod: pod.inventory, "it was looked at")
    (case.machine.folder / "bin" / "vllm").unlink()
    await case.fails()
    await case.show()


@row(START, "There is no nvidia-smi")
async def no_nvidia_smi(case: Case) -> None:
    """The program is not on the machine; the machine has rebooted since, so it was looked at again."""
    await case.machine.settings(nvidia_smi="missing")
    await case.machine.reboot()
    await case.pod(lambda pod: pod.inventory and pod.inventory.gpu_state == "no_nvidia_smi", "it was looked at")
    await case.show_refusal()


@row(START, "The driver is not loaded")
async def no_driver(case: Case) -> None:
    """nvidia-smi cannot talk to the driver; the machine has rebooted since."""
    await case.machine.settings(nvidia_smi="no_driver")
    await case.machine.reboot()
    await case.pod(lambda pod: pod.inventory and pod.inventory.gpu_state == "no_driver", "it was looked at")
    await case.show_refusal()


@row(START, "The model wants more than the machine has")
async def does_not_fit(case: Case) -> None:
    """A model for 8 GPUs, on a machine with one."""
    start = ("start", "Qwen/Qwen3-Coder-480B-A35B-Instruct", "--name", "coder", "--pod", case.site.pod_name)
    await case.pod(lambda pod: pod.inventory, "it was looked at")
    case.keep("", (await case.command(*start, status=1)).errors)


@row(START, "Somebody else's process is on the GPU", SERVING, registered=False)
async def occupied_gpu(case: Case) -> None:
    """A process that no launch of podctl's owns holds GPU memory; then it ends."""
    stranger = await case.machine.occupy_gpu(0, 20_000)
    await case.site.register()
    await case.start()
    await case.site.server("coder", "pending")
    await case.show("somebody else")
    os.kill(stranger, signal.SIGKILL)
    await case.site.server("coder", "ready")


# -- a server that ends, or does not want to -------------------------------------------------------------------------


@row(END, "Exit code 0 hides a crash")
async def crash_with_exit_code_zero(case: Case) -> None:
    """`kill -9` of the engine: vLLM's API server ends some seconds later, with code 0."""
    await case.ready()
    await case.kill("engine")
    server = await case.finished()
    assert server.exit is not None
    assert server.exit.code == 0
    await case.show()


@row(END, "It crashes, and is to be launched again", SERVING)
async def restarted(case: Case) -> None:
    """`podctl start --restart on-failure`; `kill -9` of the API server."""
    await case.ready("coder", "--restart", "on-failure")
    await case.kill("api_server")
    await case.show_restarting()
    again = await case.site.server("coder", "ready")
    assert again.counter == 2


@row(END, "The engine crashes")
async def crashed_engine(case: Case) -> None:
    """The engine raises a CUDA error while it serves."""
    await case.machine.settings(crash_after_seconds=1.0, seconds_from_engine_death_to_exit=0.2)
    await case.fails()
    await case.show()


@row(END, "It does not end on TERM")
async def deaf_to_term(case: Case) -> None:
    """The API server ends its engine on TERM, and then waits for ever; `podctl stop`."""
    await case.machine.settings(hang_on_term="always")
    await case.ready()
    await case.site.stop_server("coder")
    await case.finished()
    await case.show()


@row(END, "TERM is swallowed during the start")
async def swallowed_term(case: Case) -> None:
    """`podctl stop` while it loads: the first TERM has no effect."""
    await case.machine.settings(swallow_first_term=True, load_seconds=30)
    await case.start()
    await case.site.server("coder", "loading")
    await case.pod(lambda pod: pod.servers["coder"].stage == "load", "it loads")
    await case.site.stop_server("coder")
    server = await case.finished()
    assert server.stop_result is not None
    assert server.stop_result.killed == 0
    await case.show()


@row(END, "Shared memory stays behind")
async def shared_memory(case: Case) -> None:
    """The engine does not remove its files in /dev/shm; `podctl stop`."""
    await case.machine.settings(leave_shared_memory=True)
    await case.ready()
    await case.site.stop_server("coder")
    server = await case.finished()
    assert server.stop_result is not None
    assert server.stop_result.shared_memory_removed
    await case.show()


@row(END, "GPU memory does not come back", "GPU memory, its lease")
async def unexplained_memory(case: Case) -> None:
    """nvidia-smi lists no processes, and after `podctl stop` 4 GB stay in use."""
    await case.machine.settings(nvidia_smi="no_processes")
    await case.ready()
    await case.machine.leak_gpu_memory(0, 4_000)
    await case.site.stop_server("coder")
    await case.site.server("coder", "memory_unexplained")
    await case.show()


# -- the machine -----------------------------------------------------------------------------------------------------


@row(MACHINE, "It reboots")
async def reboot(case: Case) -> None:
    """The machine reboots while a server serves."""
    await case.ready()
    await case.machine.reboot()
    await case.finished()
    await case.show()


@row(MACHINE, "It does not answer", SERVING)
async def silence(case: Case) -> None:
    """No byte passes; then it answers again."""
    before = await case.ready()
    await case.machine.unreachable()
    await case.site.server("coder", "unreachable")
    await case.show()
    await case.machine.reachable()
    after = await case.site.server("coder", "ready")
    assert (after.pid, after.since) == (before.pid, before.since)


@row(MACHINE, "Somebody removed podctl's record of a launch")
async def removed_record(case: Case) -> None:
    """The launch's folder is removed while it serves; then `podctl stop`."""
    server = await case.ready()
    assert server.launch_id is not None
    case.remove_record(server.launch_id)
    await case.site.server("coder", "lost")
    await case.show()
    await case.site.stop_server("coder")
    await case.finished()
    await case.show()


# -- telling and writing ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def stories(
    client: Client, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case | BaseException]:
    """All chosen rows, told, several at a time; they share one worker, which has a token.

    Here and not in the tests: between two of them pytest takes stdout, which the commands that are under way need.
    """
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    chosen = [str(item.callspec.params["name"]) for item in items if hasattr(item, "callspec")]
    if len(chosen) < len(items):
        chosen = list(ROWS)
    folder = tmp_path_factory.mktemp("matrix")
    address, queue = client.service_client.config.target_host, f"matrix-{uuid.uuid4().hex[:12]}"
    podctl = CommandLine(address, PodctlPaths(config=folder / "config", data=folder / "data"))
    few, one_command = asyncio.Semaphore(CONCURRENT), asyncio.Lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        worker = WorkerProcess(address, queue, folder)

    await eventually(lambda: pollers(client, queue), "the worker asks for work")

    async def tell(name: str) -> Case:
        async with few, simulate(folder, [MachineConfig(name=f"{name}-pod", gpus=ROWS[name].gpus)]) as [machine]:
            await machine.settings(load_seconds=0.2)
            case = Case(Site(client, machine, folder, queue), podctl, one_command)
            try:
                if ROWS[name].registered:
                    await case.site.register()
                await ROWS[name].story(case)
                await _is_left(case, ROWS[name].left)
                return case
            finally:
                await case.site.client.execute_pod(machine.name, Remove(lost=True), by="ann")

    told = await asyncio.gather(*(tell(name) for name in chosen), return_exceptions=True)
    worker.kill()
    return dict(zip(chosen, told, strict=True))


async def _is_left(case: Case, expected: str) -> None:
    last = ""

    async def as_expected() -> bool:
        nonlocal last
        last = await case.left()
        return last == expected

    try:
        # What goes with the last process goes a moment after it: its supervisor, its socket.
        await eventually(as_expected, f"left on {case.site.pod_name} is {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}; but {last}") from None


def _told(told: Case | BaseException) -> Case:
    if isinstance(told, BaseException):
        raise told
    return told


@pytest.mark.parametrize("name", ROWS)
async def test_failure(name: str, stories: dict[str, Case | BaseException]) -> None:
    assert _told(stories[name]).shown


async def test_the_document_is_what_was_seen(stories: dict[str, Case | BaseException]) -> None:
    cases = {name: _told(told) for name, told in stories.items()}
    assert TOKEN not in str([case.shown for case in cases.values()])
    text = INTRODUCTION
    for section in dict.fromkeys(row.section for row in ROWS.values()):
        text += f"\n## {section}\n\n| what happens | how it is made to happen | shown | left |\n|---|---|---|---|\n"
        for name, row in ROWS.items():
            if row.section == section:
                shown = "<br>".join(cases[name].shown)
                cells = (row.failure, row.made, shown, row.left)
                text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    WRITTEN.parent.mkdir(exist_ok=True)
    WRITTEN.write_text(text)
    assert DOCUMENT.read_text() == text, "docs/failures.md is not what was seen; `make failures` takes it over"
