"""Secrets by name, read at the moment of use: from the environment, or a file of ``$PODCTL_SECRETS_DIR``."""

import os
from pathlib import Path

#: What model servers may need, and get if this worker has it.
SERVER_SECRETS = ("HF_TOKEN",)


def find_secrets(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of the named secrets that this process has."""
    return {name: value for name in names if (value := _find(name))}


def _find(name: str) -> str | None:
    value = os.environ.get(name)
    folder = os.environ.get("PODCTL_SECRETS_DIR")
    if value or not folder:
        return value
    try:
        return (Path(folder) / name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
