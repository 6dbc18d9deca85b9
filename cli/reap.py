"""`podctl pods reap`: launches on a machine that no server of its pod owns, listed and ended."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli import pods
from cli.complete import complete_orphan
from cli.context import open_client, speaker
from cli.options import AsOption
from cli.output import Format, OutputOption, confirm, print_json, print_progress, print_table, run_async

if TYPE_CHECKING:
    from podctl.listing import OrphanRow


def register(_parent: typer.Typer) -> None:
    """Add the command to `podctl pods`."""
    pods.app.command()(reap)


def reap(
    name: pods.PodArgument,
    launches: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="LAUNCH…", autocompletion=complete_orphan, help="Launches to end; else they are listed."
        ),
    ] = None,
    *,
    owner: Annotated[
        str | None, typer.Option(metavar="OWNER", help="Whose they are, exactly, where they are not this pod's.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="End them without asking.")] = False,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the launches on a machine that no server of its pod owns, or end them and wait until nothing is left.

    They come from a pod that was removed or restored, or from another podctl that uses the same machine: one that this
    pod did not launch is ended only if its owner is named.
    """
    if not launches:
        rows = run_async(_list(name), when_interrupted="nothing was changed")
        if output is Format.JSON:
            print_json(rows)
        else:
            _print_rows(name, rows)
        return
    speaking = speaker(by)
    if not yes:
        what = f"{', '.join(launches)} on pod {name}"
        confirm(f"End {what}?", refusal=f"this would end {what}: say --yes", left="nothing was ended")
    run_async(
        _reap(name, launches, owner, speaking),
        when_interrupted=f"what was asked for goes on; look again with: podctl pods reap {name}",
    )


async def _list(pod: str) -> "list[OrphanRow]":
    from podctl.listing import orphan_rows

    return orphan_rows(await (await open_client()).pod(pod))


def _print_rows(pod: str, rows: "list[OrphanRow]") -> None:
    from cli.render_pods import orphan_cells, orphan_columns

    print_table(
        orphan_columns(),
        [orphan_cells(row) for row in rows],
        empty=f"every launch on pod {pod} is of a server of this pod",
    )
    if rows:
        other = next((row for row in rows if not row.ours), None)
        owner = f" --owner '{other.owner or ''}'" if other is not None else ""
        print_progress(f"to end one: podctl pods reap {pod} LAUNCH{owner}")


async def _reap(pod: str, launches: list[str], owner: str | None, by: str) -> None:
    """Ask for all of them, then wait until each is verified to be gone; on an unreachable pod they stay asked for."""
    from cli.render_pods import unreachable_note
    from domain.gpu.commands import ReapLaunch
    from podctl.servers import until_reaped

    client = await open_client()
    for launch in launches:
        await client.execute_pod(pod, ReapLaunch(launch_id=launch, owner=owner), by=by)
    told: set[str] = set()
    async for state, words in until_reaped(client, pod, launches):
        if state.reachable is False:
            print(f"the end of {', '.join(launches)} is asked for: {unreachable_note(state)}")
            return
        for line in words:
            if line not in told:
                print_progress(line)
        told.update(words)
    print(f"{', '.join(launches)} ended: nothing of it is left on pod {pod}")
