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
    known = Catalog()
    for _, catalog in _layers(paths):
        known = known.extended_by(catalog)
    return known


def model_sources(paths: PodctlPaths) -> dict[str, Source]:
    """Return model id -> where the entry comes from that counts."""
    return {model: source for source, catalog in _layers(paths) for model in catalog.models}


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
