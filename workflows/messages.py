"""What workflows begin with, inputs and outputs of activities.

They stand in histories for ever: new fields have defaults, none is renamed.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from domain.entity import Value
from domain.gpu.commands import (
    HolderGone,
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodInput,
    PodObserved,
    PodUnreachable,
    SetupStepDone,
    SetupStepFailed,
    StopDone,
    StopFailed,
)
from domain.gpu.models import Adoption, Belief, GpuPodState, StartPlan
from domain.gpu.request import Argument
from domain.gpu.setup import StepName
from domain.task.models import CommandExecutor, ModelServerDraft, PlanDraft, Result, TaskInput, TaskState
from domain.task.runs import RunSubject


class TaskStart(Value):
    """What a run of a task pod begins with: a new task, or the state that the run before it left."""

    create: TaskInput | None = None
    state: TaskState | None = None


class PodStart(Value):
    """What a run of a GPU pod begins with: a new pod, or the state that the run before it left."""

    create: PodInput | None = None
    state: GpuPodState | None = None


class InspectInput(Value):
    """A pod to look at once. ``boot`` and ``expected`` go back in the report."""

    pod: str
    boot: str | None = None
    expected: tuple[str, ...] = ()
    #: The vLLM program to look at; None: the one on PATH.
    vllm: str | None = None


class WatchInput(Value):
    """A pod and what its workflow believes of it; ``schedule.Watch`` says when the watch returns."""

    pod: str
    reachable: bool | None = None
    boot: str | None = None
    beliefs: dict[str, Belief] = Field(default_factory=dict)
    expected: tuple[str, ...] = ()
    counters: dict[str, int] = Field(default_factory=dict)
    counter_floor: int = 0
    loading: tuple[str, ...] = ()
    idle_ttls: dict[str, float] = Field(default_factory=dict)
    impatient: tuple[str, ...] = ()


class LookOutput(Value):
    """What an inspection or a watch found."""

    report: Annotated[PodObserved | PodUnreachable | InspectionFailed | HolderGone, Field(discriminator="type")]


class LaunchInput(Value):
    """One launch of a model server, decided and written down before it happens."""

    pod: str
    launch_id: str
    plan: StartPlan
    #: Marks it on the machine as this pod's.
    owner: str = ""
    #: Not to be launched, but taken over.
    adopted: Adoption | None = None


class LaunchOutput(Value):
    """What became of a launch."""

    report: Annotated[LaunchDone | LaunchFailed, Field(discriminator="type")]


class StopInput(Value):
    """One launch, server or run, that has to be gone, verified. ``grace`` is in seconds, before it is killed."""

    pod: str
    launch_id: str
    grace: float
    #: The pod's task queue, as far as the workflow knows it; None: its own.
    task_queue: str | None = None


class StopOutput(Value):
    """What became of a stop."""

    report: Annotated[StopDone | StopFailed, Field(discriminator="type")]


class SetupStepInput(Value):
    """One step of a setup. What a step does not need is empty."""

    pod: str
    launch_id: str
    step: StepName
    mount: tuple[str, ...] = ()
    models_path: str = ""
    spec: str = ""
    version: str | None = None


class SetupStepOutput(Value):
    """What became of a step."""

    report: Annotated[SetupStepDone | SetupStepFailed, Field(discriminator="type")]


class RunInput(Value):
    """One run of a task's program. ``subject`` says whose."""

    pod: str
    run_id: str
    task_id: str
    subject: RunSubject
    executor: CommandExecutor
    server_launch: str | None = None
    #: The pod's task queue, as far as the workflow knows it; None: its own.
    task_queue: str | None = None
    #: What the program makes for the task, in the file that $PODCTL_OUTPUT names; None: nothing is taken.
    makes: Literal["text", "plan"] | None = None


class RunOutput(Value):
    """How a run ended. ``interrupted``: nobody saw how; it may have taken effect."""

    result: Result
    interrupted: bool = False
    timed_out: bool = False
    #: Why the program never ran.
    error: str | None = None
    #: What it made.
    text: str = ""
    plan: PlanDraft | None = None
    #: Why what it made cannot be used.
    problem: str = ""


class AttachInput(Value):
    """A task and the model server that it wants."""

    task_id: str
    server: ModelServerDraft


class DetachInput(Value):
    """A task and the model server that it no longer wants."""

    task_id: str
    pod: str
    name: str


class AttachOutput(Value):
    """Whether the GPU pod took the task on as a holder; if not, its code and reason."""

    code: str | None = None
    message: str = ""


class NotifyInput(Value):
    """The user's notify hook, and what it is told on its standard input."""

    argv: tuple[Argument, ...]
    notification: dict[str, JsonValue]


class NotifyOutput(Value):
    """How a call of the notify hook went; ``error`` is empty if it did well."""

    error: str = ""
