"""`podctl models`: the catalog against a pod's GPUs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from podctl.catalog import models_and_sources
    from podctl.model_offers import ModelOffers, describe

    gpus = gpus_of(pod)
    rows = offers(*models_and_sources(user_paths()), gpus.machine if gpus else None)
    found = ModelOffers(gpus.pod if gpus else None, describe(gpus), gpus.note if gpus else "no pod is active", rows)
    if output is Format.JSON:
        print_json(found)
        return
    if found.gpus:
        print_progress(f"pod {found.pod}: {found.gpus}")
    print_table(("model", "fits", "gpus", "how"), [_cells(row) for row in rows], empty="the catalog is empty")
    if found.note:
        print_progress(found.note)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A checkout of github.com/vllm-project/recipes.")],
    *,
    output: OutputOption = Format.TABLE,
) -> None:
    """Read vLLM's recipes into the catalog, in place of those imported before; your own catalog.yaml wins."""
    from podctl.recipes import import_recipes

    done = import_recipes(user_paths(), folder)
    if output is Format.JSON:
        print_json(done)
        return
    for skipped in done.skipped:
        print_progress(f"skipped: {skipped.what}: {skipped.why}")
    for model in done.removed:
        print_progress(f"removed: {model} is in no recipe any more")
    if done.replaces_builtin:
        print_progress(f"in place of podctl's own entries: {', '.join(done.replaces_builtin)}")
    if done.own_wins:
        print_progress(f"your catalog.yaml goes on to win for: {', '.join(done.own_wins)}")
    print(
        f"{done.recipes} recipes: {len(done.added)} models added, {len(done.changed)} changed, {done.unchanged} as "
        f"before, {len(done.removed)} removed, {len(done.skipped)} variants or recipes skipped; written to {done.file}"
    )


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
