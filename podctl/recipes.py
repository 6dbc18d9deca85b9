"""Importing vLLM's recipes: a checkout of vllm-project/recipes becomes the user's `recipes.yaml`, as a whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from domain.errors import BadInput
from domain.gpu.catalog import Catalog, ModelEntry, builtin_catalog
from domain.gpu.recipes import RecipeEntry, Skipped, recipe_entries
from domain.yaml_loader import FAST_LOADER
from podctl.catalog import read_own
from podctl.files import only_one, write_atomically
from podctl.paths import PodctlPaths

_HEADING = """\
# Written by `podctl models import`, anew each time: what stands here is lost at the next import.
# Entries of one's own, which win over these, belong in catalog.yaml beside this file.
"""


@dataclass(frozen=True)
class Imported:
    """What an import did."""

    file: Path
    recipes: int
    #: Models that were not imported before.
    added: list[str]
    #: Imported before, and different now.
    changed: list[str]
    unchanged: int
    #: Imported before, and in no recipe any more.
    removed: list[str]
    #: Of podctl's own catalog, where the recipe counts from now on.
    replaces_builtin: list[str]
    #: Of the user's catalog.yaml, which goes on to win.
    own_wins: list[str]
    skipped: list[Skipped]


def import_recipes(paths: PodctlPaths, folder: Path) -> Imported:
    """Read every recipe below ``folder`` and write what they say; what is in catalog.yaml is not touched.

    Raises BadInput if there is none, or if a catalog of the user's is broken; then nothing is written.
    """
    files = sorted((folder / "models").glob("*/*.yaml"))
    if not files:
        raise BadInput(f"{folder} has no recipes: expected models/ORGANISATION/MODEL.yaml, as vllm-project/recipes has")
    entries, skipped = _read(folder, files)
    with only_one(paths.recipes.with_name(paths.recipes.name + ".lock")):
        before, own = read_own(paths.recipes).models, read_own(paths.catalog).models
        write_atomically(paths.recipes, _HEADING + _text(entries))
    return Imported(
        file=paths.recipes,
        recipes=len(files),
        added=[model for model in entries if model not in before],
        changed=[model for model, entry in entries.items() if model in before and before[model] != entry],
        unchanged=sum(before.get(model) == entry for model, entry in entries.items()),
        removed=[model for model in before if model not in entries],
        replaces_builtin=[model for model in entries if model in builtin_catalog().models],
        own_wins=[model for model in entries if model in own],
        skipped=skipped,
    )


def _read(folder: Path, files: list[Path]) -> tuple[dict[str, ModelEntry], list[Skipped]]:
    """Return the entries by model; where several recipes speak of one, that one counts that is about it."""
    found: dict[str, tuple[RecipeEntry, str]] = {}
    skipped: list[Skipped] = []
    for path in files:
        name = str(path.relative_to(folder))
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=FAST_LOADER)  # noqa: S506 - a safe one
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            skipped.append(Skipped(what=name, why=f"cannot be read: {' '.join(str(error).split())}"))
            continue
        entries, unused = recipe_entries(content, name)
        skipped += unused
        for entry in entries:
            other = found.get(entry.model)
            if other is not None and (other[0].is_own or not entry.is_own):
                if other[0].entry != entry.entry:
                    skipped.append(
                        Skipped(what=f"{entry.model} in {name}", why=f"{other[1]} says otherwise, and counts")
                    )
                continue
            if other is not None:
                skipped.append(Skipped(what=f"{entry.model} in {other[1]}", why=f"{name} is about it, and counts"))
            found[entry.model] = (entry, name)
    return {model: found[model][0].entry for model in sorted(found)}, skipped


def _text(entries: dict[str, ModelEntry]) -> str:
    models = Catalog(models=entries).model_dump(mode="json", exclude_defaults=True).get("models", {})
    text: Any = yaml.safe_dump({"models": models}, sort_keys=False, allow_unicode=True, width=120)
    return str(text)
