"""The state of one task, whole: what a task pod carries through continue-as-new and what its readers see."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Discriminator, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from domain.entity import EntityState, Value
from domain.gpu.request import Argument, Context, Memory, Model
from domain.ids import Name

#: The name under which the scheduler sends its own commands.
SCHEDULER = "podctl"


class _Word(StrEnum):
    """A word of a fixed set. Written as the text that it is: asking each for its value took half the encoding."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        return cast("CoreSchema", {**handler(source), "serialization": core_schema.simple_ser_schema("str")})


class Phase(_Word):
    """Where a task is. The last two are final."""

    SPEC_CLARIFICATION = "spec_clarification"
    PLANNING = "planning"
    WORKSTREAM_EXECUTION = "workstream_execution"
    REVIEW = "review"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


FINAL_PHASES = frozenset({Phase.COMPLETED, Phase.CANCELLED})


class WorkstreamStatus(_Word):
    """Where a workstream is."""

    PENDING = "pending"
    BLOCKED = "blocked"
    IN_PROGRESS = "in_progress"
    AWAITING_INPUT = "awaiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


#: A workstream in one of these has been dealt with: review may begin.
SETTLED = frozenset({WorkstreamStatus.COMPLETED, WorkstreamStatus.FAILED, WorkstreamStatus.SKIPPED})
#: A dependency in one of these lets its dependents start.
SATISFIED = frozenset({WorkstreamStatus.COMPLETED, WorkstreamStatus.SKIPPED})
#: Somebody is at work on a workstream in one of these.
UNDER_WAY = frozenset({WorkstreamStatus.IN_PROGRESS, WorkstreamStatus.AWAITING_INPUT})


class Priority(_Word):
    """Which ready workstream starts first; plan order decides among equals."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class GateMode(_Word):
    """Whether a gate waits for a person or opens by itself."""

    HUMAN = "human"
    AUTO = "auto"


class ServerStatus(_Word):
    """What a task knows of a model server: its own wishes, and the states that the GPU pod reports."""

    WANTED = "wanted"
    ATTACHED = "attached"
    PENDING = "pending"
    LAUNCHING = "launching"
    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    UNREACHABLE = "unreachable"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"
    MEMORY_UNEXPLAINED = "memory_unexplained"
    RELEASED = "released"


#: A server in one of these does not come back by itself: a person decides.
DOWN = frozenset({ServerStatus.STOPPED, ServerStatus.FAILED, ServerStatus.LOST, ServerStatus.MEMORY_UNEXPLAINED})


def _no_double_dot(name: str) -> str:
    if ".." in name:
        raise ValueError("a name may not contain '..'")
    return name


#: A name that is also a folder name on a GPU pod.
FolderName = Annotated[Name, AfterValidator(_no_double_dot)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


# -- what a plan says ---------------------------------------------------------------------------------------------


class SignalExecutor(Value):
    """Somebody outside does the work and reports it; nothing is started."""

    type: Literal["signal"] = "signal"


class CommandExecutor(Value):
    """A program that runs on a GPU pod, in the workstream's folder."""

    type: Literal["command"] = "command"
    argv: tuple[Argument, ...] = Field(min_length=1, max_length=1000)
    #: A model server of the plan, whose address and key the program gets.
    server: FolderName | None = None
    pod: FolderName | None = None
    environment: dict[VariableName, Argument] = Field(default_factory=dict)
    timeout_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)


Executor = Annotated[SignalExecutor | CommandExecutor, Discriminator("type")]


class ModelServerDraft(Value):
    """A model server that a plan wants; the options are those of ``podctl start``."""

    name: FolderName
    model: Model
    pod: FolderName
    gpus: int | None = Field(default=None, ge=1, le=64)
    memory: Memory | None = None
    context: Context | None = None
    #: Passed to vLLM unchanged.
    arguments: tuple[Argument, ...] | None = None


class WorkstreamDraft(Value):
    """One part of a plan, as its author wrote it."""

    id: FolderName
    title: Title
    description: str = ""
    depends_on: tuple[FolderName, ...] = ()
    executor: Executor
    priority: Priority = Priority.NORMAL
    estimated_hours: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class PlanDraft(Value):
    """A plan as its author wrote it: a plan file, or what a program sends."""

    summary: str = ""
    model_servers: tuple[ModelServerDraft, ...] = ()
    workstreams: tuple[WorkstreamDraft, ...] = ()


# -- what people decided ------------------------------------------------------------------------------------------


class Approval(Value):
    """Who approved what, when: bound to the revision and content that were there."""

    by: str
    at: datetime
    revision: int
    digest: str
    #: False when the sender named no revision (from the Temporal Web UI, say).
    revision_named: bool
    comment: str = ""


class Rejection(Value):
    """Who sent a revision back, and why."""

    by: str
    at: datetime
    revision: int
    comment: str


class Spec(Value):
    """What is wanted."""

    #: Markdown.
    content: str = ""
    requirements: tuple[str, ...] = ()
    acceptance_criteria: tuple[str, ...] = ()
    #: Grows with each edit; 0 is 'never written'.
    revision: int = 0
    digest: str = ""
    updated_by: str = ""
    updated_at: datetime | None = None
    approval: Approval | None = None
    rejection: Rejection | None = None


class Plan(Value):
    """How it is to be done. ``workstreams`` is in plan order."""

    summary: str = ""
    model_servers: dict[str, ModelServerDraft] = Field(default_factory=dict)
    workstreams: dict[str, WorkstreamDraft] = Field(default_factory=dict)
    revision: int = 0
    digest: str = ""
    created_by: str = ""
    updated_by: str = ""
    updated_at: datetime | None = None
    approval: Approval | None = None
    rejection: Rejection | None = None

    def pod_of(self, executor: CommandExecutor) -> str | None:
        """Return the pod a command runs on: its own, its server's, or the only one the plan knows."""
        if executor.pod is not None:
            return executor.pod
        if executor.server is not None:
            server = self.model_servers.get(executor.server)
            return None if server is None else server.pod
        pods = self.pods()
        return next(iter(pods)) if len(pods) == 1 else None

    def pods(self) -> frozenset[str]:
        """Return every pod that the plan names."""
        executors = (draft.executor for draft in self.workstreams.values())
        named = {e.pod for e in executors if isinstance(e, CommandExecutor) and e.pod is not None}
        return frozenset(named | {server.pod for server in self.model_servers.values()})


class Review(Value):
    """The judgement of finished work. A revision is one entry into the review phase."""

    revision: int = 0
    digest: str = ""
    approval: Approval | None = None
    rejection: Rejection | None = None


# -- work ---------------------------------------------------------------------------------------------------------


class RunResult(Value):
    """What a command left: the log itself stays on its pod."""

    exit_code: int | None = None
    signal: int | None = None
    #: Path on the pod, size in bytes and SHA-256 of the whole output.
    log: str = ""
    size: int = 0
    sha256: str = ""


class Result(Value):
    """What came of a workstream."""

    #: What the reporter says, or the last 4 KB of a command's output.
    text: str = ""
    artifacts: tuple[str, ...] = ()
    run: RunResult | None = None


class Run(Value):
    """An attempt that runs on a pod. Everything a repeated activity needs to find it again."""

    run_id: str
    pod: str
    #: Launch id of the model server that the program was given.
    server_launch: str | None = None


class Workstream(Value):
    """How far a part of the plan has come. What it is stands in ``Plan.workstreams`` only."""

    ws_id: str
    status: WorkstreamStatus = WorkstreamStatus.PENDING
    priority: Priority = Priority.NORMAL
    #: Attempts begun; never starts over, because run ids are made of it.
    attempt: int = 0
    #: Failed attempts since the last decision of a person that were repeated by themselves.
    automatic_retries: int = 0
    #: The unfinished failures that keep a blocked workstream from starting.
    blocking_on: tuple[str, ...] = ()
    #: While a person has taken it on ('fix by hand').
    by_hand: bool = False
    run: Run | None = None
    cooldown_until: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    completed_by: str | None = None
    result: Result | None = None
    error: str | None = None


class AttachedServer(Value):
    """A model server that the task uses, and the last that its pod said of it."""

    spec: ModelServerDraft
    status: ServerStatus = ServerStatus.WANTED
    launch_id: str | None = None
    detail: str = ""
    since: datetime

    @property
    def name(self) -> str:
        """The server's name on its pod."""
        return self.spec.name

    @property
    def pod(self) -> str:
        """The GPU pod it runs on."""
        return self.spec.pod

    @property
    def model(self) -> str:
        """The model it serves."""
        return self.spec.model


# -- talk ---------------------------------------------------------------------------------------------------------

MessageType = Literal["question", "approval", "update", "blocker", "review_comment"]


class Answer(Value):
    """Which option a person took."""

    choice: str
    by: str
    at: datetime
    comment: str = ""


class ApprovalRequest(Value):
    """A question with options. Open until it is answered, or closed because it no longer matters."""

    options: tuple[str, ...]
    blocking: bool = False
    #: What the answer is carried out on.
    subject: Literal["question", "transition", "workstream_failed", "server_down"] = "question"
    server: str | None = None
    answer: Answer | None = None
    #: Why it no longer matters.
    closed: str | None = None

    @property
    def open(self) -> bool:
        """Whether it waits for an answer."""
        return self.answer is None and self.closed is None


class Message(Value):
    """Something said in a task."""

    message_id: str
    type: MessageType
    author: str
    content: str
    #: The message that began the thread; its own id for the first one.
    thread_id: str
    workstream_id: str | None = None
    posted_at: datetime
    read: bool = False
    approval: ApprovalRequest | None = None


class InboxKind(_Word):
    """Why something is in a person's inbox."""

    NEEDS_APPROVAL = "needs_approval"
    QUESTION_ASKED = "question_asked"
    BLOCKER_RAISED = "blocker_raised"
    WORKSTREAM_COMPLETED = "workstream_completed"
    WORKSTREAM_FAILED = "workstream_failed"


class InboxItem(Value):
    """Something a person should see. Its id says what it is about, so the same matter never stands there twice."""

    item_id: str
    recipient: str
    kind: InboxKind
    preview: str
    #: The podctl command that deals with it; empty for mere news.
    command: str = ""
    message_id: str | None = None
    workstream_id: str | None = None
    created_at: datetime
    read: bool = False
    escalated_at: datetime | None = None

    @property
    def waits(self) -> bool:
        """Whether the task waits for a person here."""
        return self.kind is not InboxKind.WORKSTREAM_COMPLETED


# -- the task -----------------------------------------------------------------------------------------------------


class PendingTransition(Value):
    """A change of phase that was asked for and waits for a person."""

    to: Phase
    reason: str
    requested_by: str
    requested_at: datetime
    #: The approval request that lets it happen or drops it.
    message_id: str


class Hold(Value):
    """Why the scheduler does not ask to go forward by itself: somebody has just moved the task back."""

    reason: str
    by: str
    since: datetime


class Gates(Value):
    """Which gates need a person."""

    spec: GateMode = GateMode.HUMAN
    plan: GateMode = GateMode.HUMAN
    execution: GateMode = GateMode.AUTO
    review: GateMode = GateMode.HUMAN


class TaskConfig(Value):
    """What can be set per task, and changed while it runs."""

    gates: Gates = Gates()
    max_concurrent: int = Field(default=3, ge=1, le=100)
    #: Delay before each automatic retry of a recoverable failure; as many retries as there are delays.
    failure_cooldown_seconds: tuple[Annotated[float, Field(ge=0, le=86_400)], ...] = Field((5.0, 30.0), max_length=10)
    escalate_after_seconds: float | None = Field(default=None, gt=0, le=365 * 86_400)
    escalate_to: str | None = None


class TaskInput(Value):
    """What a task begins with."""

    task_id: FolderName
    title: Title
    by: str
    command_id: str
    spec: str | None = None
    plan: PlanDraft | None = None
    config: TaskConfig = TaskConfig()


class TaskState(EntityState):
    """One task. Changed by ``rules.apply`` only."""

    task_id: str
    title: str
    phase: Phase = Phase.SPEC_CLARIFICATION
    phase_since: datetime
    #: How often the phase has changed, and how often that was asked for: the scheduler's command ids are made of it.
    phase_changes: int = 0
    transitions_asked: int = 0
    spec: Spec = Spec()
    plan: Plan | None = None
    review: Review = Review()
    workstreams: dict[str, Workstream] = Field(default_factory=dict)
    #: Last attempt of workstreams that a plan dropped: should the id come back, run ids must not repeat.
    dropped_attempts: dict[str, int] = Field(default_factory=dict)
    servers: dict[str, AttachedServer] = Field(default_factory=dict)
    #: run id -> pod, for runs that have to end and are not yet known to have.
    stopping_runs: dict[str, str] = Field(default_factory=dict)
    messages: dict[str, Message] = Field(default_factory=dict)
    messages_posted: int = 0
    inbox: dict[str, InboxItem] = Field(default_factory=dict)
    pending_transition: PendingTransition | None = None
    hold: Hold | None = None
    config: TaskConfig = TaskConfig()
    created_by: str
    created_at: datetime
    updated_at: datetime
    cancelled_by: str | None = None
    cancel_reason: str = ""

    @property
    def final(self) -> bool:
        """Whether the task is completed or cancelled."""
        return self.phase in FINAL_PHASES

    def open_approvals(self) -> Iterator[Message]:
        """Yield the approval requests that wait for an answer, oldest first."""
        return (m for m in self.messages.values() if m.approval is not None and m.approval.open)

    def unfinished(self) -> bool:
        """Whether any workstream has yet to be dealt with."""
        return any(ws.status not in SETTLED for ws in self.workstreams.values())


def digest(content: bytes) -> str:
    """Return the first 12 hex digits of the SHA-256 of ``content``: what an approval is bound to."""
    return hashlib.sha256(content).hexdigest()[:12]
