"""Where podctl keeps its files."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class PodctlPaths:
    """The two folders of one user: what they configured, and what runs for them."""

    config: Path
    data: Path

    @classmethod
    def from_environment(cls) -> Self:
        """Return `$PODCTL_CONFIG_DIR` and `$PODCTL_DATA_DIR`, or else the platform's own folders."""
        return cls(
            config=_folder("PODCTL_CONFIG_DIR", "user_config_path"), data=_folder("PODCTL_DATA_DIR", "user_data_path")
        )

    def environment(self) -> dict[str, str]:
        """Return what another process needs in its environment to use the same folders."""
        return {"PODCTL_CONFIG_DIR": str(self.config), "PODCTL_DATA_DIR": str(self.data)}

    @property
    def pods_file(self) -> Path:
        """The pods that this user knows."""
        return self.config / "pods.json"

    @property
    def catalog(self) -> Path:
        """The models that this user describes, or describes otherwise than podctl does."""
        return self.config / "catalog.yaml"

    @property
    def recipes(self) -> Path:
        """The models that `podctl models import` read; written anew by each import."""
        return self.config / "recipes.yaml"

    @property
    def database(self) -> Path:
        """The embedded Temporal server's SQLite file."""
        return self.data / "temporal.db"

    @property
    def run_file(self) -> Path:
        """What `podctl up` started: processes and ports."""
        return self.data / "run.json"

    @property
    def logs(self) -> Path:
        """The folder of the embedded server's and the worker's log."""
        return self.data / "logs"


def _folder(variable: str, platform_folder: str) -> Path:
    if configured := os.environ.get(variable):
        return Path(configured).expanduser().absolute()
    import platformdirs  # only here: where the variables are set, a command need not load it

    folder: Path = getattr(platformdirs, platform_folder)("podctl", appauthor=False)
    return folder
