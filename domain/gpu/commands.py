"""What can be asked of a GPU pod, and what activities report to it: one typed model each."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from domain.entity import CommandId, Speaker, Value
from domain.gpu.models import ShownState
from domain.gpu.observation import Inventory, Observation, StopResult
from domain.gpu.request import Grace, StartRequest
from domain.gpu.ssh_target import SshTarget
from domain.ids import Name

#: What a machine says is cut, not refused: a report cannot be sent back for being long.
Text = Annotated[str, AfterValidator(lambda text: text[:4_000])]


class PodInput(Value):
    """What a GPU pod starts with. ``ssh`` is parsed by the sender: a start input that fails to decode wedges."""

    name: Name
    ssh: SshTarget
    host_key: str
    task_queue: str | None = None
    root: str = "~/.podctl"
    by: Speaker
    command_id: CommandId


class SetAddress(Value):
    """The machine moved. Without ``host_key`` the pinned one stays."""

    type: Literal["set_address"] = "set_address"
    ssh: SshTarget
    host_key: str | None = None


class SetTaskQueue(Value):
    """Which workers reach the machine; None: those of the common queue."""

    type: Literal["set_task_queue"] = "set_task_queue"
    task_queue: str | None


class Remove(Value):
    """Forget the machine; ``lost`` is a person's statement that it is gone, with everything on it."""

    type: Literal["remove"] = "remove"
    lost: bool = False


class StartServer(Value):
    """A person wants a model server; it stays until a person stops it. ``wait``: it may stand in the queue."""

    type: Literal["start_server"] = "start_server"
    request: StartRequest
    wait: bool = True


class AdoptServer(Value):
    """A person wants a model server that somebody else started to be one of this pod's, as it is.

    ``pid`` is the process that whoever started it kept, ``gpus`` are indexes, ``log`` is a file on the machine.
    """

    type: Literal["adopt_server"] = "adopt_server"
    request: StartRequest
    pid: Annotated[int, Field(ge=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    gpus: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=64)] = ()
    log: Annotated[str, Field(max_length=4_096)] | None = None


class AttachServer(Value):
    """A task needs a model server; it is started if it does not run."""

    type: Literal["attach_server"] = "attach_server"
    task_id: Name
    request: StartRequest


class DetachServer(Value):
    """A task no longer needs a model server; it stops when nobody does. Nothing happens if it is not held."""

    type: Literal["detach_server"] = "detach_server"
    task_id: Name
    name: Name


class StopServer(Value):
    """A person wants a model server gone, whoever holds it. ``grace`` None: the server's own."""

    type: Literal["stop_server"] = "stop_server"
    name: Name
    grace: Grace | None = None


class AcceptMemory(Value):
    """A person says that the memory a stopped server did not give back is not its: the lease is released."""

    type: Literal["accept_memory"] = "accept_memory"
    name: Name


class ReapLaunch(Value):
    """A person wants a launch ended that no server here owns. ``owner`` names the one that another pod launched."""

    type: Literal["reap_launch"] = "reap_launch"
    launch_id: str
    owner: str | None = None


class ServerDue(Value):
    """The rules' own word: the time has come for which a server waited."""

    type: Literal["server_due"] = "server_due"
    name: Name


class PodObserved(Value):
    """What a watch or an inspection saw: every server launch on the machine, at one moment.

    ``known_boot`` and ``expected`` are what the activity was told when it began, boot and launch ids: they tell how
    old its look may be. Only an expected launch can be called missing, for one that began meanwhile is not in a list
    made before it; and another boot than the believed one is a reboot only if the belief is still the same.
    """

    type: Literal["pod_observed"] = "pod_observed"
    boot: str
    launches: tuple[Observation, ...] = ()
    inventory: Inventory | None = None
    known_boot: str | None
    expected: tuple[str, ...]
    #: launch id -> last lines of its log, for launches that ended.
    log_tails: dict[str, str] = Field(default_factory=dict)


class PodUnreachable(Value):
    """The machine does not answer, or not as a machine that podctl can use."""

    type: Literal["pod_unreachable"] = "pod_unreachable"
    reason: Text


class InspectionFailed(Value):
    """The inventory could not be read. Whether the machine is reachable is for the watch to say, once there is one."""

    type: Literal["inspection_failed"] = "inspection_failed"
    reason: Text


class LaunchDone(Value):
    """The podlet has a launch of this id, new or found."""

    type: Literal["launch_done"] = "launch_done"
    launch_id: str
    observation: Observation
    #: The last lines of its log, if it has ended already.
    log_tail: str = ""


class LaunchFailed(Value):
    """The podlet refused a launch, or could not do it; ``code`` is the podlet's."""

    type: Literal["launch_failed"] = "launch_failed"
    launch_id: str
    code: str
    message: Text


class StopDone(Value):
    """The podlet's answer to a stop."""

    type: Literal["stop_done"] = "stop_done"
    launch_id: str
    result: StopResult


class StopFailed(Value):
    """A stop could not be carried out or verified; it is tried again."""

    type: Literal["stop_failed"] = "stop_failed"
    launch_id: str
    code: str
    message: Text


class StartSetup(Value):
    """A person wants the machine set up. None: as in the setup before; an empty mount or path: none."""

    type: Literal["start_setup"] = "start_setup"
    mount: tuple[str, ...] | None = None
    models_path: str | None = None
    vllm: str | None = None


class SetupStepDone(Value):
    """A step of a setup was done on the machine; the step's launch says which one."""

    type: Literal["setup_step_done"] = "setup_step_done"
    launch_id: str
    message: Text
    #: The version that the wanted vLLM became; its program; the models' folder: each from the step that finds it.
    version: str | None = None
    program: str | None = None
    models_path: str | None = None


class SetupStepFailed(Value):
    """A step of a setup failed. ``interrupted``: nobody saw how it ended, a reboot took it away."""

    type: Literal["setup_step_failed"] = "setup_step_failed"
    launch_id: str
    code: str
    message: Text
    advice: Text
    log_tail: Text = ""


class HolderGone(Value):
    """A task that holds servers here is closed or never was."""

    type: Literal["holder_gone"] = "holder_gone"
    task_id: Name


class HolderTold(Value):
    """A task received what it had to be told about a server (action ``Notify``)."""

    type: Literal["holder_told"] = "holder_told"
    task_id: Name
    name: Name
    status: ShownState
    launch_id: str | None = None


Command = Annotated[
    SetAddress
    | SetTaskQueue
    | Remove
    | StartServer
    | AdoptServer
    | AttachServer
    | DetachServer
    | StopServer
    | AcceptMemory
    | StartSetup
    | ReapLaunch
    | ServerDue
    | PodObserved
    | PodUnreachable
    | InspectionFailed
    | LaunchDone
    | LaunchFailed
    | StopDone
    | StopFailed
    | HolderGone
    | HolderTold
    | SetupStepDone
    | SetupStepFailed,
    Field(discriminator="type"),
]
#: What activities report: facts, which cannot be refused for being inconvenient.
Report = (
    PodObserved
    | PodUnreachable
    | InspectionFailed
    | LaunchDone
    | LaunchFailed
    | StopDone
    | StopFailed
    | HolderGone
    | HolderTold
    | SetupStepDone
    | SetupStepFailed
)


class Envelope(Value):
    """A command with its identity and its sender."""

    command_id: CommandId
    by: Speaker
    command: Command
