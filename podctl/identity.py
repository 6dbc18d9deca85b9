"""Who speaks: the name that a command carries as its ``by``.

It is what the sender says, no proof of anything; the history also records the client's identity.
"""

import getpass
import tomllib
from pathlib import Path

from domain.errors import BadInput
from podctl.paths import PodctlPaths

#: Characters of a name; the rules take no longer one.
NAME_LIMIT = 200


def sender(paths: PodctlPaths, name: str | None = None) -> str:
    """Return ``name`` if given, else ``user`` of the user's `config.toml`, else the login name.

    Raises BadInput for an empty or overlong name, and for a configuration that does not parse.
    """
    if name is not None:
        return _checked("--as", name)
    configured = _configured(paths.config / "config.toml")
    if configured is not None:
        return configured
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id that has no name
        return "unknown"


def _configured(path: Path) -> str | None:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    if "user" not in settings:
        return None
    user = settings["user"]
    if not isinstance(user, str):
        raise BadInput(f'{path}: user: expected a name in quotes, as in user = "ann"')
    return _checked(f"{path}: user", user)


def _checked(where: str, name: str) -> str:
    stripped = name.strip()
    if not stripped or len(stripped) > NAME_LIMIT or not stripped.isprintable():
        raise BadInput(f"{where}: a name has 1 to {NAME_LIMIT} printable characters")
    return stripped
