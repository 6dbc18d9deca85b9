"""The models that this user's commands and workers know."""

from pathlib import Path

from domain.errors import BadInput
from domain.gpu.catalog import Catalog, builtin_catalog, read_catalog
from domain.gpu.offers import Source
from podctl.paths import PodctlPaths


def known_models(paths: PodctlPaths) -> Catalog:
    """Return podctl's catalog, extended by imported recipes and by the user's own file, which wins.

    BadInput names the file, the line and the entry that is broken.
    """
    return models_and_sources(paths)[0]


def models_and_sources(paths: PodctlPaths) -> tuple[Catalog, dict[str, Source]]:
    """Return the known models, and for each where the entry comes from that counts."""
    known, sources = Catalog(), dict[str, Source]()
    for source, catalog in _layers(paths):
        known = known.extended_by(catalog)
        sources |= dict.fromkeys(catalog.models, source)
    return known, sources


def read_own(path: Path) -> Catalog:
    """Return what a catalog file of this user says, nothing if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Catalog()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    return read_catalog(text, str(path))


def _layers(paths: PodctlPaths) -> list[tuple[Source, Catalog]]:
    return [
        ("podctl", builtin_catalog()),
        ("recipes", read_own(paths.recipes)),
        ("own", read_own(paths.catalog)),
    ]
