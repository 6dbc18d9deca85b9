"""`podctl pods` and `podctl pods add | set | active | remove | show`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.checks import print_checks
from cli.complete import complete_pod
from cli.context import open_client, pods_file, speaker
from cli.options import AsOption
from cli.output import INTERRUPTED, Format, OutputOption, print_json, print_progress, print_table, run_async
from cli.passphrases import passphrases

if TYPE_CHECKING:
    from domain.gpu.models import GpuPodState
    from domain.gpu.observation import Beat
    from podctl.doctor import Check
    from podctl.listing import PodRow
    from podctl.pods import Added, HostKeyRefused, Pinned

#: Seconds that `pods add` waits for the first look at a machine, by a worker.
FIRST_LOOK = 15.0

app = typer.Typer(invoke_without_command=True, help="GPU pods: machines with GPUs, reached over SSH.")

PodArgument = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_pod, help="The pod's name.")]
AcceptOption = Annotated[
    str | None,
    typer.Option("--accept-host-key", metavar="SHA256:…", help="The fingerprint of the host key to trust."),
]
TaskQueueOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The queue of the workers that can reach it; else the common one.")
]


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="pods", rich_help_panel="GPU pods")


@app.callback()
def pods(context: typer.Context, *, output: OutputOption = Format.TABLE) -> None:
    """List your GPU pods, the active one marked; without a server, as they were last seen."""
    if context.invoked_subcommand is not None:
        return
    from podctl.connection import NoServer

    known = pods_file().read()
    try:
        rows = run_async(_read_rows(), when_interrupted="nothing was changed: `podctl pods` again")
        offline = ""
    except NoServer as error:
        from podctl.pod_cache import cached_pod_row

        rows = [cached_pod_row(known, name) for name in known.pods]
        offline = f"as last seen: {error}"
    if output is Format.JSON:
        print_json(rows)
    else:
        _print_rows(rows)
    if offline and rows:
        print_progress(offline)


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    ssh: Annotated[str, typer.Argument(metavar="SSH", help="How it is reached: 'ssh -p 2222 root@203.0.113.7'.")],
    *,
    accept_host_key: AcceptOption = None,
    task_queue: TaskQueueOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Add a machine: its host key is shown and pinned, its GPUs are looked at. The first one becomes active."""
    added = add_machine(name, ssh, accept_host_key, task_queue, speaker(by))
    state = run_async(first_look(name), when_interrupted=f"{name} is added; look again with: podctl pods show {name}")
    if output is Format.JSON:
        print_json({"pod": name, "fingerprint": added.fingerprint, "registered": added.registered,
                    "active": added.active, "state": _pod_state(state)})  # fmt: skip
        return
    known_already = "" if added.registered else " (the server knew it already)"
    print(f"pod {name} is added{known_already}{', and active' if added.active else ''}; host key {added.fingerprint}")
    _print_look(name, state)


@app.command("set")
def set_address(
    name: PodArgument,
    ssh: Annotated[str | None, typer.Argument(metavar="SSH", help="How it is reached now; else as before.")] = None,
    *,
    accept_host_key: AcceptOption = None,
    task_queue: Annotated[
        str | None,
        typer.Option(metavar="QUEUE", help="The queue of the workers that can reach it; podctl: the common one."),
    ] = None,
    by: AsOption = None,
) -> None:
    """Change the address of a machine that moved, pin the new host key of one that was rebuilt, or who works for it."""
    from podctl.pods import HostKeyRefused, set_pod, set_task_queue

    if ssh is None and accept_host_key is None and task_queue is None:
        raise typer.BadParameter("give the new SSH line, --accept-host-key or --task-queue")
    speaking = speaker(by)

    async def change(fingerprint: str | None) -> "Pinned":
        client = await open_client()
        return await set_pod(
            client, pods_file(), name, ssh, fingerprint=fingerprint, by=speaking, passphrases=passphrases()
        )

    async def change_queue(queue: str) -> None:
        await set_task_queue(await open_client(), name, queue, by=speaking)

    hint = f"interrupted: `podctl pods show {name}` says which address it has"
    if task_queue is not None:
        run_async(change_queue(task_queue), when_interrupted=hint)
        print(
            f"pod {name} is served by the workers of task queue {task_queue}: podctl worker --task-queue {task_queue}"
        )
    if ssh is None and accept_host_key is None:
        return
    try:
        pinned = run_async(change(accept_host_key), when_interrupted=hint)
    except HostKeyRefused as refused:
        if accept_host_key is not None:
            raise
        ask_for_host_key(refused, f"Pin this host key for {name} from now on?")
        pinned = run_async(change(refused.shown.fingerprint), when_interrupted=hint)
    _tell_pinned(pinned)
    print(f"pod {name}: {ssh or 'the same address'}, host key {pinned.fingerprint}")


@app.command()
def active(name: PodArgument) -> None:
    """Make a pod the one that commands mean when they name none."""
    pods_file().activate(name)
    print(f"pod {name} is active")


@app.command()
def remove(
    name: PodArgument,
    *,
    lost: Annotated[bool, typer.Option("--lost", help="The machine is gone, with everything that ran on it.")] = False,
    by: AsOption = None,
) -> None:
    """Forget a pod. Refused while model servers run on it, unless it is lost."""
    from podctl.pods import remove_pod

    speaking = speaker(by)

    async def forget() -> bool:
        return await remove_pod(await open_client(), pods_file(), name, lost=lost, by=speaking)

    existed = run_async(forget(), when_interrupted=f"interrupted: `podctl pods show {name}` says whether it is there")
    print(f"pod {name} is removed" if existed else f"pod {name} is forgotten; the server had no such pod")


@app.command()
def show(name: PodArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Show a pod: its address, since when it answers or not and what is kept, its GPUs and model servers."""
    from cli.render import print_view
    from cli.render_pods import pod_view
    from podctl.listing import pod_document, server_rows
    from podctl.namespace import pollers
    from podctl.pod_cache import remember

    async def read() -> "tuple[GpuPodState, dict[str, Beat], bool]":
        client = await open_client()
        state, beats = await client.look_at_pod(name)
        return state, beats, state.task_queue is None or bool(await pollers(client.temporal, state.task_queue))

    state, beats, served = run_async(read(), when_interrupted=f"nothing was changed: `podctl pods show {name}` again")
    if not served:
        queue = state.task_queue
        print_progress(f"no worker polls task queue {queue}. Where {name}'s key is: podctl worker --task-queue {queue}")
    remember(pods_file(), [state])
    if output is Format.JSON:
        print_json(pod_document(state, beats))
    else:
        print_view(pod_view(state, server_rows(state, beats)))


@app.command()
def doctor(name: PodArgument, *, output: OutputOption = Format.TABLE) -> None:
    """Check one machine, from here and through its workers; each check says what to do. Exits with 1 if one failed."""
    from podctl.pod_doctor import examine_pod

    async def look() -> "tuple[Check, ...]":
        return await examine_pod(await open_client(), name, passphrases())

    print_checks(run_async(look(), when_interrupted=f"nothing was changed: `podctl pods doctor {name}` again"), output)


def add_machine(name: str, ssh: str, accept_host_key: str | None, task_queue: str | None, by: str) -> "Added":
    """Register a machine under a name, its host key accepted by the option or, at a terminal, by a person."""
    from podctl.pods import HostKeyRefused

    try:
        return register_machine(name, ssh, accept_host_key, task_queue, by)
    except HostKeyRefused as refused:
        if accept_host_key is not None:
            raise
        ask_for_host_key(refused, f"Is this the host key of {name}?")
        return register_machine(name, ssh, refused.shown.fingerprint, task_queue, by)


def register_machine(name: str, ssh: str, fingerprint: str | None, task_queue: str | None, by: str) -> "Added":
    """Register a machine under a name if it shows the host key of this fingerprint, or one that this user knows."""
    from podctl.pods import add_pod

    async def register_pod() -> "Added":
        client = await open_client()
        return await add_pod(
            client,
            pods_file(),
            name,
            ssh,
            fingerprint=fingerprint,
            by=by,
            task_queue=task_queue,
            passphrases=passphrases(),
        )

    added = run_async(
        register_pod(), when_interrupted=f"interrupted: `podctl pods show {name}` says whether it was added"
    )
    _tell_pinned(added)
    return added


async def _read_rows() -> "list[PodRow]":
    """Return the rows of the user's pods as their workflows say, all asked at once."""
    import asyncio

    from podctl.client import NotFound
    from podctl.listing import pod_row
    from podctl.pod_cache import cached_pod_row, remember

    file = pods_file()
    known = file.read()
    client = await open_client()

    async def read(name: str) -> "GpuPodState | None":
        try:
            state, _ = await client.look_at_pod(name)
            return state
        except NotFound:
            return None

    states = dict(zip(known.pods, await asyncio.gather(*(read(name) for name in known.pods)), strict=True))
    remember(file, [state for state in states.values() if state is not None])
    return [
        pod_row(state, active=known.active == name) if state else cached_pod_row(known, name, state="unknown")
        for name, state in states.items()
    ]


async def first_look(name: str) -> "GpuPodState | None":
    """Return the pod's state as soon as a worker has reached the machine or failed to; None if none did in time."""
    import asyncio
    import contextlib

    from podctl.live import follow_pod
    from podctl.pod_cache import remember

    client = await open_client()
    print_progress("looking at the machine …")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK):
            async for state in follow_pod(client, name):
                if state.reachable is False or state.inventory is not None:
                    remember(pods_file(), [state])
                    return state
    return None


def _tell_pinned(pinned: "Added | Pinned") -> None:
    """Say what a person might not expect of the address: a key that was known already, options that were left out."""
    if pinned.known_at:
        print_progress(f"the host key is the one that your OpenSSH knows already ({pinned.known_at})")
    for option in pinned.left_out:
        print_progress(f"left out of the SSH line: {option}")


def ask_for_host_key(refused: "HostKeyRefused", question: str) -> None:
    """Let a person at a terminal accept the host key that was shown; everybody else gets the error."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refused
    print_progress(f"host key: {refused.shown.fingerprint}")
    if refused.contradiction:
        print_progress(f"WARNING: {refused.contradiction}")
    try:
        accepted = typer.confirm(question, err=True)
    except typer.Abort:
        print_progress("nothing was changed")
        raise typer.Exit(INTERRUPTED) from None
    if not accepted:
        raise refused


def _print_look(name: str, state: "GpuPodState | None") -> None:
    from domain.gpu.inventory import describe_gpus

    if state is None:
        print_progress(f"no worker has looked at it yet (podctl status); look again with: podctl pods show {name}")
    elif state.reachable is False:
        print_progress(f"a worker cannot use it yet: {state.unreachable_reason}")
    elif state.inventory is not None:
        print(f"  {describe_gpus(state.inventory)}")
        if state.inventory.vllm.program is None:
            print_progress(f"no vLLM is on its PATH; one is installed with: podctl pods setup {name}")


def _pod_state(state: "GpuPodState | None") -> str:
    from domain.gpu.summary import pod_state

    return "new" if state is None else pod_state(state)


def _print_rows(rows: "list[PodRow]") -> None:
    print_table(
        ("", "name", "state", "gpus", "vllm", "setup", "servers", "ssh"),
        [
            (
                "*" if row.active else "",
                row.name,
                row.state + (" (last seen)" if row.cached else ""),
                row.gpus or None,
                row.vllm,
                row.setup,
                ", ".join(f"{count} {state}" for state, count in row.servers.items()) or None,
                row.ssh,
            )
            for row in rows
        ],
        empty='you know no pods yet: podctl pods add NAME "ssh …"',
    )
