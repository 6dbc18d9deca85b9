"""`podctl models`: the catalog against a pod's GPUs."""

from typing import TYPE_CHECKING

import typer

from cli.context import PodOption, open_client, pods_file, user_paths
from cli.output import Format, OutputOption, print_json, print_progress, print_table, run_async

if TYPE_CHECKING:
    from domain.gpu.offers import Offer
    from podctl.model_offers import PodGpus

app = typer.Typer(invoke_without_command=True, help="Known models, and what it takes to serve them.")


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="models", rich_help_panel="Model servers")


@app.callback()
def models(context: typer.Context, *, pod: PodOption = None, output: OutputOption = Format.TABLE) -> None:
    """List the known models: what the active pod can serve, on how many GPUs, and why not the others."""
    if context.invoked_subcommand is not None:
        return
    from domain.gpu.offers import offers
    from podctl.catalog import known_models, model_sources
    from podctl.model_offers import ModelOffers, describe

    gpus = gpus_of(pod)
    rows = offers(known_models(user_paths()), model_sources(user_paths()), gpus.machine if gpus else None)
    found = ModelOffers(gpus.pod if gpus else None, describe(gpus), gpus.note if gpus else "no pod is active", rows)
    if output is Format.JSON:
        print_json(found)
        return
    if found.gpus:
        print_progress(f"pod {found.pod}: {found.gpus}")
    print_table(("model", "fits", "gpus", "how"), [_cells(row) for row in rows], empty="the catalog is empty")
    if found.note:
        print_progress(found.note)


def gpus_of(pod: str | None) -> "PodGpus | None":
    """Return the GPUs of the pod that is meant, as they were last seen where no server answers; None: no pod."""
    from podctl.connection import NoServer
    from podctl.model_offers import pod_gpus, remembered_gpus

    known = pods_file().read()
    chosen = pod or known.active
    if chosen is None:
        return None

    async def ask() -> "PodGpus":
        return await pod_gpus(await open_client(), known, chosen)

    try:
        return run_async(ask(), when_interrupted="nothing was changed")
    except NoServer as error:
        return remembered_gpus(known, chosen, str(error))


def _cells(row: "Offer") -> tuple[object, ...]:
    counts = ", ".join(f"{count}*" if count == row.default and len(row.gpus) > 1 else str(count) for count in row.gpus)
    if row.fits is None:
        version = f" (vLLM {row.min_vllm_version} or newer)" if row.min_vllm_version else ""
        return row.model, None, counts, "; ".join(row.needs) + version
    return row.model, "yes" if row.fits else "no", counts or None, " ".join(row.arguments) if row.fits else row.reason
