"""`podctl models`: the catalog against a pod's GPUs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import open_client, pods_file, user_paths
from cli.options import PodOption
from cli.output import Format, OutputOption, print_json, print_progress, print_table, run_async

if TYPE_CHECKING:
    from domain.gpu.offers import Offer
    from podctl.model_fit import ModelFit
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


@app.command()
def fit(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A Hugging Face model id, or a folder of this machine.")
    ],
    *,
    pod: PodOption = None,
    context_length: Annotated[
        str | None, typer.Option("--context", metavar="32k", help="A context it should have.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say what memory a model takes at least, and the longest context for which a pod's GPUs have room."""
    from podctl.model_fit import model_fit, parse_length

    wanted = parse_length(context_length)
    found = model_fit(model, gpus_of(pod), wanted)
    if output is Format.JSON:
        print_json(found)
        return
    print(f"{found.source}: weights {found.weights_bytes / 1e9:.1f} GB; {_cache_words(found)}")
    print_table(
        ("gpus", "weights/GPU", "longest context", "" if wanted is None else f"{wanted:,} tokens"),
        [
            (
                f"{row.gpus} x {row.kind}",
                f"{row.weights_bytes / 1e9:.1f} of {row.memory_bytes * found.share / 1e9:.1f} GB",
                row.reason or f"{row.context:,}{' (all it can)' if row.whole else ''}",
                "" if wanted is None else _answer(row.context, wanted),
            )
            for row in found.fits
        ],
        empty=found.note or "no GPUs to hold it against",
    )
    for note in (found.note if found.fits else "", *found.notes):
        if note:
            print_progress(note)


def _cache_words(found: "ModelFit") -> str:
    if found.cache_unknown:
        return f"KV cache not known: {found.cache_unknown}"
    longest = f", {found.longest_context:,} tokens at most" if found.longest_context else ""
    return f"KV cache {found.token_bytes / 1024:.1f} KiB for each token{longest}"


def _answer(context: int | None, wanted: int) -> str:
    if context is None:
        return "not known"
    return "may fit" if context >= wanted else "does not fit"


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
