"""The models that this user's commands and workers know."""

from domain.errors import BadInput
from domain.gpu.catalog import Catalog, builtin_catalog, read_catalog
from podctl.paths import PodctlPaths


def known_models(paths: PodctlPaths) -> Catalog:
    """Return podctl's catalog, extended by the user's `catalog.yaml`. BadInput names the entry that is broken."""
    path = paths.config / "catalog.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return builtin_catalog()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    return builtin_catalog().extended_by(read_catalog(text, str(path)))
