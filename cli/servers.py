"""`podctl start | stop`: model servers."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from cli.complete import complete_model, complete_server
from cli.context import checked_server_name, chosen_pod, open_client, speaker, user_paths
from cli.options import AsOption, PodOption
from cli.output import Format, OutputOption, confirm, print_json, print_progress, run_async

if TYPE_CHECKING:
    from domain.gpu.request import StartRequest
    from podctl.client import PodctlClient
    from podctl.listing import ServerRow

PANEL = "Model servers"
#: Seconds. Starting takes about as long: a shorter one would only make a server start again and again.
LEAST_IDLE_TTL = 60.0


class Restart(StrEnum):
    """When a server that ended is launched again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


GraceOption = Annotated[
    float | None,
    typer.Option(min=0, max=3600, metavar="SECONDS", help="What running requests get at a stop (30); 0: nothing."),
]


class StartCommand(TyperCommand):
    """Takes everything after ``--vllm`` out before the rest is read as podctl's options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own copy of click
        """Keep vLLM's arguments, as they are, for the command."""
        if "--vllm" in args:
            position = args.index("--vllm")
            ctx.meta["vllm"] = tuple(args[position + 1 :])
            args = args[: position + 1]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command(rich_help_panel=PANEL, cls=StartCommand, options_metavar="[OPTIONS] [--vllm ARGS…]")(start)
    app.command(rich_help_panel=PANEL)(stop)


def start(  # noqa: PLR0913  # a command has as many parameters as options
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", autocompletion=complete_model, help="A model id, or a path on the pod."),
    ],
    *,
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the server.")],
    pod: PodOption = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="How many; else the most that the catalog names.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="90%", help="Share of each GPU's memory.")] = None,
    context_length: Annotated[str | None, typer.Option("--context", metavar="32k", help="Longest context.")] = None,
    restart: Annotated[Restart, typer.Option(help="Launch it again after a failure, or whatever ended it.")] = (
        Restart.NEVER
    ),
    idle_ttl: Annotated[
        str | None, typer.Option(metavar="30m", help="Stop it after so long without a request: 90s, 30m, 2h.")
    ] = None,
    grace: GraceOption = None,
    expose: Annotated[
        bool, typer.Option("--expose", help="Listen on every interface of the pod: its key guards only /v1.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Fail if there is no room, instead of waiting.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once it is asked for.")] = False,
    vllm: Annotated[bool, typer.Option("--vllm", help="Pass all that follows to vLLM, unchanged.")] = False,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Start a model server, and wait until it is ready. Ctrl-C leaves it starting."""
    from domain.gpu.request import DEFAULT_GRACE_SECONDS, start_request
    from podctl.catalog import known_models

    request = start_request(
        known_models(user_paths()),
        model,
        name,
        gpus=gpus,
        memory=memory,
        context=context_length,
        arguments=context.meta["vllm"] if vllm else None,
        restart=restart.value,
        idle_ttl=idle_ttl,
        grace=DEFAULT_GRACE_SECONDS if grace is None else grace,
        expose=expose,
    )
    if request.idle_ttl is not None and request.idle_ttl < LEAST_IDLE_TTL:
        raise typer.BadParameter(f"--idle-ttl {idle_ttl} is too short: a minute (60s) is the least")
    chosen = chosen_pod(pod)
    speaking = speaker(by)
    row = run_async(
        _start(chosen, request, speaking, wait=not no_wait, detach=detach),
        when_interrupted=f"{name} goes on starting; look again with: podctl list --pod {chosen}, or podctl logs {name} "
        f"--pod {chosen} -f",
    )
    if output is Format.JSON:
        print_json(row)
    else:
        _print_started(row, "" if pod is None else f" --pod {pod}")
    if expose:
        print_progress(
            f"warning: {name} listens on every interface of pod {chosen}: its key guards /v1, but /metrics, /tokenize "
            "and /invocations are open to whoever reaches its port"
        )


def stop(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_server,
            callback=checked_server_name,
            help="The model server; else all on the pod.",
        ),
    ] = None,
    *,
    pod: PodOption = None,
    grace: Annotated[
        float | None,
        typer.Option(
            min=0, max=3600, metavar="SECONDS", help="What running requests get; 0: nothing. Else as its start said."
        ),
    ] = None,
    accept_memory: Annotated[
        bool,
        typer.Option("--accept-memory", help="Give its GPUs on, though their memory did not come back: it is not its."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Stop all without asking.")] = False,
    by: AsOption = None,
) -> None:
    """Stop a model server, or all on a pod, and wait until nothing of it is left. Ctrl-C leaves it stopping."""
    chosen = chosen_pod(pod)
    speaking = speaker(by)
    hint = f"what was asked for goes on; look again with: podctl list --pod {chosen}"
    if accept_memory:
        if name is None or grace is not None:
            raise typer.BadParameter(
                "--accept-memory is said of one server that has stopped: podctl stop NAME --accept-memory"
            )
        run_async(_accept_memory(chosen, name, speaking), when_interrupted=hint)
        print(f"the GPUs of {name} on pod {chosen} are free again, on your word")
        return
    names = [name] if name is not None else run_async(_unfinished(chosen), when_interrupted="nothing was stopped")
    if not names:
        print(f"no model server runs on pod {chosen}")
        return
    if name is None and not yes:
        what = f"all model servers on pod {chosen}: {', '.join(names)}"
        confirm(f"Stop {what}?", refusal=f"this would stop {what}. Name one, or say --yes", left="nothing was stopped")
    run_async(_stop(chosen, names, grace, speaking), when_interrupted=hint)


def _print_started(row: "ServerRow", pod_option: str) -> None:
    from cli.render_pods import state_line

    if row.state != "ready":
        print(f"model server {state_line(row)}; look again with: podctl list{pod_option}")
        return
    print(f"model server {row.name} is ready on pod {row.pod}, port {row.port}")
    print(f"  model   {row.model}")
    print(f"  GPUs    {', '.join(map(str, row.gpus))}")
    print(f"  URL     http://127.0.0.1:{row.port}/v1 on the pod")
    print(f"  use it  podctl connect {row.name}{pod_option}")


async def _start(pod: str, request: "StartRequest", by: str, *, wait: bool, detach: bool) -> "ServerRow":
    from cli.starting import start_shown
    from domain.gpu.commands import StartServer
    from podctl.listing import server_row
    from podctl.servers import until_ready

    client: PodctlClient = await open_client()
    await client.execute_pod(pod, StartServer(request=request, wait=wait), by=by)
    state = await client.pod(pod)
    row = server_row(state, state.server(request.name))
    if detach:
        return row
    with start_shown(request.name, pod) as show:
        async for start in until_ready(client, pod, request.name):
            row = start.row
            show(start)
    return row


async def _accept_memory(pod: str, name: str, by: str) -> None:
    from domain.gpu.commands import AcceptMemory

    await (await open_client()).execute_pod(pod, AcceptMemory(name=name), by=by)


async def _stop(pod: str, names: list[str], grace: float | None, by: str) -> None:
    """Ask for all the stops, then wait for each to be verified; on an unreachable pod they stay asked for."""
    from cli.render_pods import state_line, unreachable_note
    from domain.gpu.commands import StopServer
    from podctl.servers import ServerFailed, until_stopped

    client: PodctlClient = await open_client()
    for name in names:
        await client.execute_pod(pod, StopServer(name=name, grace=grace), by=by)
    failed: list[str] = []
    for name in names:
        told = ""
        try:
            async for stop in until_stopped(client, pod, name):
                note = unreachable_note(stop.pod)
                if note and stop.row.state != "stopped":
                    print(f"the stop of {name} is asked for: {note}")
                    break
                now = f"{name} is stopping: {stop.step}" if stop.step else state_line(stop.row)
                if now != told:
                    print_progress(now)
                told = now
            else:
                print(f"model server {name} is stopped: nothing of it is left on pod {pod}")
        except ServerFailed as error:
            failed.append(str(error))
    if failed:
        raise ServerFailed("\n".join(failed))


async def _unfinished(pod: str) -> list[str]:
    state = await (await open_client()).pod(pod)
    return [server.name for server in state.servers.values() if not server.finished]
