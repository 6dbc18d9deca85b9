"""`podctl logs`: what a model server prints, read on its pod."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_server
from cli.context import checked_server_name, chosen_pod, open_client
from cli.options import PodOption
from cli.output import print_progress, run_async

if TYPE_CHECKING:
    from cli.log_output import Part
    from podctl.client import PodctlClient

ServerArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=complete_server, callback=checked_server_name, help="The model server's name."
    ),
]


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(rich_help_panel="Model servers")(logs)


def logs(
    name: ServerArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until it has ended and is not launched again.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="From then on: 10m ago, or 2026-01-31T12:00:00Z.")
    ] = None,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="Only the last N lines.")] = None,
    previous: Annotated[bool, typer.Option("--previous", help="That of the launch before the newest one.")] = False,
    pod: PodOption = None,
) -> None:
    """Show the log of a model server's newest launch, read on the pod; goes on after a lost connection.

    With --follow it goes on with the next launch of a server that its --restart launches again.
    """
    from cli.log_output import Part

    if since is not None and tail is not None:
        raise typer.BadParameter("--since and --tail say two beginnings: give one of them")
    if previous and follow:
        raise typer.BadParameter("--previous shows a launch that has ended: nothing follows it")
    part = Part(tail=tail, since=None if since is None else _moment(since), follow=follow)
    chosen = chosen_pod(pod)
    run_async(
        _copy(chosen, name, part, previous=previous),
        when_interrupted=f"nothing was stopped; look again with: podctl logs {name} --pod {chosen} -f",
    )


async def _copy(pod: str, name: str, part: "Part", *, previous: bool) -> None:
    from cli.log_output import copy_log, explained, open_logs
    from podctl.servers import launch_of
    from remote.errors import Unreachable

    client = await open_client()
    if part.follow:
        await _follow(client, pod, name, part)
        return
    async with open_logs(client, pod) as logs:
        try:
            launch = await logs.launch_before(name) if previous else launch_of(await client.pod(pod), name)
        except Unreachable as error:
            raise await explained(client, error) from error
        await copy_log(client, logs, launch, part)


async def _follow(client: "PodctlClient", pod: str, name: str, part: "Part") -> None:
    """Follow a server from launch to launch, as long as another one comes."""
    from cli.log_output import Part, copy_log, open_logs
    from cli.render_pods import state_line
    from podctl.servers import until_launched

    shown: str | None = None
    async with open_logs(client, pod) as logs:
        while True:
            async for row in until_launched(client, pod, name, after=shown):
                # Of a launch that has just ended its pod's workflow may not know yet.
                if row.launch_id in {None, shown} and row.state not in {"loading", "ready", "unhealthy"}:
                    print_progress(state_line(row))
            if row.launch_id in {None, shown}:
                return
            if shown is not None:
                print_progress(f"going on with launch {row.launch_id}")
                part = Part(follow=True)
            shown = row.launch_id
            await copy_log(client, logs, shown, part)
            if row.restart == "never":
                return
            print_progress(f"launch {shown} has ended")


def _moment(text: str) -> datetime:
    """Return the point in time that ``10m`` (ago) or an RFC 3339 time says; one without a zone is local."""
    from datetime import UTC, timedelta

    from domain.gpu.request import parse_seconds

    try:
        ago = parse_seconds(text)
    except ValueError:
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            raise typer.BadParameter(
                f"--since {text!r} is no point in time: write for example 10m, 2h or 2026-01-31T12:00:00Z"
            ) from None
    return datetime.now(UTC) - timedelta(seconds=float(str(ago)))
