"""`run.json`: what `podctl up` started in a data folder, so that any later command finds it."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from domain.errors import BadInput
from podctl.files import write_atomically
from podctl.processes import LOOPBACK, ProcessIdentity


class ServerProcess(BaseModel):
    """A Temporal server that was started, whether or not it still runs."""

    model_config = ConfigDict(frozen=True)

    process: ProcessIdentity
    started_at: datetime
    port: int
    ui_port: int

    @property
    def address(self) -> str:
        """Host and port of the server."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_address(self) -> str:
        """URL of the Web UI."""
        return f"http://{LOOPBACK}:{self.ui_port}"


class WorkerProcess(BaseModel):
    """A worker that was started, whether or not it still runs."""

    model_config = ConfigDict(frozen=True)

    process: ProcessIdentity
    started_at: datetime


class Run(BaseModel):
    """What was started and not yet taken down."""

    model_config = ConfigDict(frozen=True)

    server: ServerProcess | None = None
    worker: WorkerProcess | None = None


def read_run(path: Path) -> Run:
    """Return what ``path`` says, nothing if there is none; BadInput if it was changed by hand and does not parse."""
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Run()
    except ValidationError as error:
        raise BadInput(
            f"{path} does not parse: remove it, after ending the processes that it names. {error.errors()[0]['msg']}"
        ) from error


def write_run(path: Path, run: Run) -> None:
    """Replace the file at once."""
    write_atomically(path, run.model_dump_json(indent=2) + "\n")
