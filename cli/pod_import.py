"""`podctl pods import`: pods of the `pi` tool, and the model servers that run on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import pods
from cli.context import open_client, pods_file, speaker
from cli.options import AsOption
from cli.output import FAILED, Format, OutputOption, error_text, print_json, print_progress, run_async

if TYPE_CHECKING:
    from domain.gpu.commands import AdoptServer
    from podctl.pod_import import ImportedModel
    from podctl.pods_file import KnownPod


def register(_parent: typer.Typer) -> None:
    """Add the command to `podctl pods`."""
    pods.app.command("import")(import_)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pods.json, as the pi tool writes it.")],
    *,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over the vLLM processes it keeps track of, without a restart.")
    ] = False,
    accept_host_key: Annotated[
        list[str] | None,
        typer.Option("--accept-host-key", metavar="SHA256:…", help="A fingerprint to trust; may be given repeatedly."),
    ] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Add the pods of another tool's file, each with its host key pinned; with --adopt their model servers too."""
    from podctl.pod_import import read_pods

    found = read_pods(file)
    before = pods_file().read().active
    speaking = speaker(by)
    rows = [_import_pod(name, pod, accept_host_key or [], speaking, adopt=adopt) for name, pod in found.pods.items()]
    if before is None and found.active is not None and any(row["pod"] == found.active and row["known"] for row in rows):
        pods_file().activate(found.active)
    if output is Format.JSON:
        print_json({"active": pods_file().read().active, "pods": rows})
    else:
        _print(rows)
    if any(row["problem"] or any(model.problem for model in row["models"]) for row in rows):
        raise typer.Exit(FAILED)


def _import_pod(name: str, pod: "KnownPod", accepted: list[str], by: str, *, adopt: bool) -> dict[str, Any]:
    from podctl.connection import NoServer

    row: dict[str, Any] = {
        "pod": name, "ssh": pod.ssh, "known": False, "registered": False, "problem": "", "models": []
    }  # fmt: skip
    try:
        row["registered"] = _add(name, pod.ssh, accepted, by)
        row["known"] = True
    except (typer.Exit, NoServer):
        raise
    except Exception as error:  # noqa: BLE001 - one that cannot be added does not keep the others from it
        row["problem"] = error_text(error)
        return row
    if not adopt or not pod.models:
        return row
    state = run_async(pods.first_look(name), when_interrupted=f"{name} is added; the import can be repeated")
    if state is None or state.inventory is None:
        why = state.unreachable_reason if state is not None else "no worker has looked at it (podctl status)"
        row["problem"] = f"its models are not taken over yet: {why}. Repeat the import then"
        return row
    row["models"] = [_adopt(name, model, tracked, by) for model, tracked in pod.models.items()]
    return row


def _add(name: str, ssh: str, accepted: list[str], by: str) -> bool:
    """Register a machine; return whether the server did not know it. A new host key is accepted, or asked for."""
    from podctl.pods import HostKeyRefused, pinned_fingerprint

    async def pinned() -> str | None:
        return await pinned_fingerprint(await open_client(), name)

    try:
        return pods.register_machine(name, ssh, None, None, by).registered
    except HostKeyRefused as refused:
        shown = refused.shown.fingerprint
        if shown not in accepted and shown != run_async(pinned(), when_interrupted="nothing was changed"):
            pods.ask_for_host_key(refused, f"Is this the host key of {name}?")
        return pods.register_machine(name, ssh, refused.shown.fingerprint, None, by).registered


def _adopt(pod: str, name: str, tracked: object, by: str) -> "ImportedModel":
    from podctl.pod_import import ImportedModel, adopt, adoption

    async def take_over(command: "AdoptServer") -> "ImportedModel":
        return await adopt(await open_client(), pod, command, by=by)

    print_progress(f"taking over {name} on {pod} …")
    try:
        return run_async(
            take_over(adoption(name, tracked)),
            when_interrupted=f"what was asked for goes on: podctl list --pod {pod}; the import can be repeated",
        )
    except typer.Exit:
        raise
    except Exception as error:  # noqa: BLE001 - one that cannot be taken over does not keep the others from it
        return ImportedModel(name, "not adopted", error_text(error))


def _print(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["problem"]:
            print(f"pod {row['pod']}: {row['problem']}")
        else:
            print(f"pod {row['pod']} is {'added' if row['registered'] else 'known'}: {row['ssh']}")
        for model in row["models"]:
            if model.problem:
                print(f"  {model.name} is not adopted: {model.problem}")
            else:
                where = f" (port {model.port}, pid {model.pid})" if model.pid else ""
                print(f"  {model.name} is adopted and {model.state}{where}")
    if any(not model.problem for row in rows for model in row["models"]):
        print_progress("adopted servers are never launched again by podctl, and how they end will not be known")
    if not rows:
        print("the file names no pods")
