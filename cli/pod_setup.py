"""`podctl pods setup`: a machine made ready for model servers, step by step."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli import pods
from cli.context import open_client, pods_file, speaker
from cli.options import AsOption
from cli.output import INTERRUPTED, Format, OutputOption, print_json, print_progress, run_async
from cli.passphrases import passphrases

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from domain.gpu.commands import StartSetup
    from domain.gpu.models import GpuPodState
    from podctl.setup import Progress


def register(_parent: typer.Typer) -> None:
    """Add the command to `podctl pods`."""
    pods.app.command()(setup)


def setup(  # noqa: PLR0913 - a command has as many parameters as options
    name: pods.PodArgument,
    ssh: Annotated[str | None, typer.Argument(metavar="SSH", help="How it is reached, if it is not known yet.")] = None,
    *,
    mount: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="What mounts the models' storage: words, no shell. '' for none."),
    ] = None,
    models_path: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Where models are kept; else the last word of --mount. '' for none."),
    ] = None,
    vllm: Annotated[
        str | None, typer.Option(metavar="WHICH", help="release, nightly, gpt-oss or ==X.Y.Z; at first release.")
    ] = None,
    hf_token: Annotated[
        bool, typer.Option("--hf-token", help="Ask for a Hugging Face token and write it on the machine, over SSH.")
    ] = False,
    accept_host_key: pods.AcceptOption = None,
    task_queue: pods.TaskQueueOption = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Set a machine up: mount, models' folder, uv, vLLM in an environment of its own. Ctrl-C leaves it going on.

    Steps that were done before are looked at again, not done again. What is not said is as in the setup before. While
    a setup is under way, this follows it.
    """
    from domain.gpu.commands import StartSetup
    from domain.gpu.setup import check_models_path, check_vllm, mounted_at, split_mount

    words = None if mount is None else split_mount(mount)
    if words and models_path is None:
        mounted_at(words)
    if models_path:
        check_models_path(models_path)
    if vllm is not None:
        check_vllm(vllm)
    token = _read_hf_token() if hf_token else None
    _make_known(name, ssh, accept_host_key, task_queue, by)
    if token is not None:
        _keep_hf_token(name, token)
    command = StartSetup(mount=words, models_path=models_path, vllm=vllm)
    state = run_async(
        _set_up(name, command, speaker(by), shows=output is Format.TABLE),
        when_interrupted=f"the setup goes on; look again with: podctl pods show {name} (or follow it: podctl pods "
        f"setup {name})",
    )
    _print_end(state, output)


def _make_known(
    name: str, ssh: str | None, accept_host_key: str | None, task_queue: str | None, by: str | None
) -> None:
    """Register and pin a machine that is not known yet; refuse another address for one that is."""
    from domain.errors import BadInput
    from domain.gpu.ssh_target import parse_ssh

    if name not in pods_file().read().pods:
        if ssh is None:
            raise BadInput(f"you know no pod {name!r}: say how it is reached: podctl pods setup {name} 'ssh …'")
        added = pods.add_machine(name, ssh, accept_host_key, task_queue, speaker(by))
        print_progress(f"pod {name} is added; host key {added.fingerprint}")
    elif ssh is not None:

        async def address() -> str:
            return (await (await open_client()).pod_address(name)).ssh.command

        known = run_async(address(), when_interrupted="nothing was changed")
        if parse_ssh(known) != parse_ssh(ssh):
            raise BadInput(f"pod {name} is reached with {known!r}; if it moved: podctl pods set {name} {ssh!r}")


async def _set_up(name: str, command: "StartSetup", by: str, *, shows: bool) -> "GpuPodState":
    """Begin or find the setup, and show its steps until it has ended; return the pod as it is then."""
    import contextlib

    from podctl.setup import follow_setup

    client = await open_client()
    await client.execute_pod(name, command, by=by)
    with contextlib.ExitStack() as stack:
        show = _live_view(stack) if shows and sys.stdout.isatty() else _Lines()
        async for progress in follow_setup(client, name):
            show(progress)
    return progress.state


class _Lines:
    """Says on stderr what has become of each step, once."""

    def __init__(self) -> None:
        self._told: set[tuple[object, ...]] = set()

    def __call__(self, progress: "Progress") -> None:
        for step in progress.setup.steps:
            fact = (progress.setup.number, progress.setup.round, step.name, step.state)
            if step.state != "pending" and fact not in self._told:
                self._told.add(fact)
                detail = f": {step.message}" if step.message and step.state == "done" else ""
                print_progress(f"{step.name} is {step.state}{detail}")


def _live_view(stack: "ExitStack") -> "Callable[[Progress], None]":
    """Show all steps in place, on a terminal, for as long as ``stack`` lasts."""
    from rich.live import Live

    from cli.render_pods import setup_table

    live = stack.enter_context(Live(auto_refresh=False))
    return lambda progress: live.update(setup_table(progress.setup, progress.note), refresh=True)


def _print_end(state: "GpuPodState", output: Format) -> None:
    from podctl.pod_cache import remember
    from podctl.setup import SetupFailed, failure_text, setup_document

    remember(pods_file(), [state])
    if output is Format.JSON:
        print_json(setup_document(state))
    setup = state.setup
    if setup is not None and setup.state == "failed":
        raise SetupFailed(failure_text(state.name, setup))
    if output is Format.TABLE and state.vllm:
        newest = state.vllm[-1]
        where = f", models in {state.models_path}" if state.models_path else ""
        print(f"pod {state.name} is set up: vLLM {newest.version} ({newest.program}){where}")


def _read_hf_token() -> str:
    """Return a token that a person types without echo, or that is the first line of what is piped in."""
    from podctl.setup import check_hf_token

    if sys.stdin.isatty():
        try:
            token = typer.prompt("Hugging Face token", hide_input=True, err=True)
        except typer.Abort:
            print_progress("nothing was changed")
            raise typer.Exit(INTERRUPTED) from None
    else:
        token = sys.stdin.readline()
    check_hf_token(token.strip())
    return str(token.strip())


def _keep_hf_token(name: str, token: str) -> None:
    from podctl.setup import keep_hf_token

    async def keep() -> tuple[str, bool]:
        return await keep_hf_token(await open_client(), name, token, passphrases())

    path, written = run_async(keep(), when_interrupted=f"interrupted: see whether {name} has the token")
    print_progress(f"the Hugging Face token {'was written to' if written else 'stands already in'} {path} on {name}")
