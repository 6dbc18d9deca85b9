"""Taking over a `pods.json` that the `pi` tool wrote: its pods, and the vLLM processes that it keeps track of."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.errors import BadInput
from domain.gpu.catalog import Catalog
from domain.gpu.commands import AdoptServer
from domain.gpu.models import ModelServer, shown_state
from domain.gpu.request import start_request
from domain.ids import check_name
from podctl.client import PodctlClient
from podctl.live import follow_pod
from podctl.pods_file import KnownPods, PodsFile
from podctl.servers import ServerFailed

#: Where `pi` has the log of a model, on the pod.
_PI_LOG = "~/.vllm_logs/{name}.log"


class TrackedModel(BaseModel):
    """A vLLM process as `pi` remembers it: ``gpu`` are indexes, ``pid`` is the shell script around it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    port: int
    gpu: tuple[int, ...] = ()
    pid: int = Field(ge=1)


@dataclass(frozen=True)
class ImportedModel:
    """What became of one process."""

    name: str
    state: str
    #: Why it was not taken over; empty if it was.
    problem: str = ""
    port: int | None = None
    pid: int | None = None


def read_pods(path: Path) -> KnownPods:
    """Return the pods that a file of another tool names. BadInput names the file and the line of what is broken."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    return PodsFile(path).read()


def adoption(name: str, tracked: object) -> AdoptServer:
    """Return the command that takes over a tracked process. BadInput says what about it cannot be used."""
    try:
        model = TrackedModel.model_validate(tracked)
        return AdoptServer(
            request=start_request(Catalog(), model.model, check_name("model server", name)),
            pid=model.pid,
            port=model.port,
            gpus=model.gpu,
            log=_PI_LOG.format(name=name),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"model {name}: {field}: {first['msg']}") from error


async def adopt(client: PodctlClient, pod: str, command: AdoptServer, *, by: str) -> ImportedModel:
    """Have a process taken over and wait until the machine has said whether it is what it was kept for.

    Raises what ``PodctlClient.execute_pod`` raises, and ``ServerFailed`` with what was found instead.
    """
    name = command.request.name
    await client.execute_pod(pod, command, by=by)
    async for state in follow_pod(client, pod):
        server: ModelServer = state.server(name)
        shown = shown_state(state, server)
        if server.failure is not None and server.state == "failed":
            raise ServerFailed(f"{server.failure.message}; {server.failure.advice}")
        if shown != "launching":
            return ImportedModel(name, shown, port=server.plan.port if server.plan else None, pid=server.pid)
    raise ServerFailed(f"pod {pod} was removed")
