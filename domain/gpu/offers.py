"""Which models of the catalog a machine can serve, and why not the others."""

from typing import Literal

from domain.entity import Value
from domain.errors import Rejected
from domain.gpu.catalog import Catalog, ModelEntry
from domain.gpu.observation import Inventory
from domain.gpu.planning import Candidate, candidates
from domain.gpu.request import StartRequest

#: Where an entry of the catalog comes from: podctl itself, imported recipes, the user's own file.
Source = Literal["podctl", "recipes", "own"]


class Offer(Value):
    """A known model on one machine, or on none in particular (``fits`` is None)."""

    model: str
    source: Source
    fits: bool | None
    #: Counts of GPUs that this machine can serve it on, whatever runs there now; of no machine: those of its entry.
    gpus: tuple[int, ...]
    #: The count that a start takes that names none, and vLLM's arguments for it.
    default: int | None = None
    arguments: tuple[str, ...] = ()
    #: The hardware that its entry names.
    needs: tuple[str, ...]
    min_vllm_version: str | None = None
    #: Why it cannot be served here.
    reason: str = ""


def offers(catalog: Catalog, sources: dict[str, Source], machine: Inventory | None) -> list[Offer]:
    """Return every known model, those that fit ``machine`` first, by name."""
    rows = [_offer(model, entry, sources.get(model, "podctl"), machine) for model, entry in catalog.models.items()]
    return sorted(rows, key=lambda row: (row.fits is False, row.model.lower()))


def _offer(model: str, entry: ModelEntry, source: Source, machine: Inventory | None) -> Offer:
    counts = tuple(sorted({configuration.gpus for configuration in entry.configurations}))
    row = Offer(
        model=model,
        source=source,
        fits=None,
        gpus=counts,
        needs=tuple(configuration.describe() for configuration in entry.configurations),
        min_vllm_version=entry.min_vllm_version,
    )
    if machine is None:
        return row
    ways: list[Candidate] = []
    reason = ""
    try:
        ways = candidates(StartRequest(model=model, name="any", entry=entry), machine)
    except Rejected as rejected:
        reason = rejected.message.removeprefix(f"{model} ")
    return row.model_copy(
        update={
            "fits": bool(ways),
            "gpus": tuple(sorted(way.count for way in ways)),
            "default": ways[0].count if ways else None,
            "arguments": ways[0].arguments if ways else (),
            "reason": reason,
        }
    )
