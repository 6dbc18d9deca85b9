"""The state of one task, whole: what a task pod carries through continue-as-new and what its readers see."""

import hashlib
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, GetCoreSchemaHandler, StringConstraints
from pydantic_core import CoreSchema, core_schema

from domain.by_identity import once_for_each
from domain.entity import CommandId, EntityState, Speaker, Value
from domain.gpu.request import Argument, Context, IdleTtl, Memory, Model, RestartPolicy
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


class AgentType(_Word):
    """What an agent does for a task."""

    SPEC_WRITER = "spec_writer"
    PLANNER = "planner"
    WORKSTREAM = "workstream"
    REVIEWER = "reviewer"


class AgentStatus(_Word):
    """Where an agent is. The last three are final."""

    PENDING_START = "pending_start"
    RUNNING = "running"
    AWAITING_INPUT = "awaiting_input"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


#: An agent in one of these has ended; it may be restarted, as another attempt.
ENDED_AGENT = frozenset({AgentStatus.COMPLETED, AgentStatus.FAILED, AgentStatus.INTERRUPTED})


class GenerationStatus(_Word):
    """How far an agent is with a spec or a plan."""

    IDLE = "idle"
    GENERATING = "generating"
    READY_FOR_REVIEW = "ready_for_review"


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
    RELEASING = "releasing"
    RELEASED = "released"


#: A server in one of these does not come back by itself: a person decides.
DOWN = frozenset({ServerStatus.STOPPED, ServerStatus.FAILED, ServerStatus.LOST, ServerStatus.MEMORY_UNEXPLAINED})
#: A server that the task lets go of: its pod need not tell the task anything any more, and what it told is void.
LET_GO = frozenset({ServerStatus.RELEASING, ServerStatus.RELEASED})


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


def _written_out(executor: object) -> object:
    return {"type": executor} if isinstance(executor, str) else executor


#: Where its type says all, as ``signal`` does, that alone may stand for it.
Executor = Annotated[SignalExecutor | CommandExecutor, Discriminator("type"), BeforeValidator(_written_out)]


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
    #: Whether a launch that ended is followed by another.
    restart: RestartPolicy = "never"
    #: How long nobody may use it before it is stopped, as people write it (``30m``); None: for ever.
    idle_ttl: IdleTtl | None = None


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
    generation_status: GenerationStatus = GenerationStatus.IDLE
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

    @once_for_each
    def pods(self) -> frozenset[str]:
        """Return every pod that the plan names."""
        executors = (draft.executor for draft in self.workstreams.values())
        named = {e.pod for e in executors if isinstance(e, CommandExecutor) and e.pod is not None}
        return frozenset(named | {server.pod for server in self.model_servers.values()})


class Review(Value):
    """The judgement of finished work. Its revision grows with each entry into review, and with each report."""

    revision: int = 0
    #: Of the work's outcome and, once there is one, the report.
    digest: str = ""
    outcome_digest: str = ""
    #: What the reviewer wrote, in markdown; threads can be anchored to it.
    report: str = ""
    reported_by: str = ""
    #: Reports written so far, over all entries into review.
    report_revision: int = 0
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
    #: The agent at work on it, if one has registered.
    agent_id: str | None = None
    cooldown_until: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    completed_by: str | None = None
    result: Result | None = None
    error: str | None = None


class Agent(Value):
    """Somebody, or a program, that writes a spec or a plan, does a workstream, or reviews. One record an attempt.

    Written down before anything of it runs: what is found running is looked up here, never the other way round.
    """

    agent_id: str
    agent_type: AgentType
    workstream_id: str | None = None
    status: AgentStatus = AgentStatus.PENDING_START
    #: How it works; None: it registered itself, from outside.
    executor: Executor | None = None
    #: What it was made for: none is started twice for the same input.
    basis: str = ""
    #: What it is asked beyond its type, in words.
    instructions: str = ""
    run: Run | None = None
    #: Which attempt at ``basis`` this is, from 1.
    attempt: int = 1
    #: Times that it was answered, by a message or a choice.
    turns: int = 0
    #: Not started before.
    cooldown_until: datetime | None = None
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    #: The end of what it said.
    output: str = ""
    error: str | None = None

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.status not in ENDED_AGENT


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


Subject = Literal["question", "transition", "workstream_failed", "server_down", "agent_failed", "action"]


class ApprovalRequest(Value):
    """A question with options. Open until it is answered, or closed because it no longer matters."""

    options: tuple[str, ...]
    blocking: bool = False
    #: What the answer is carried out on.
    subject: Literal["question", "transition", "workstream_failed", "server_down", "agent_failed", "action"] = (
        "question"
    )
    server: str | None = None
    #: The agent that asks, or that failed.
    agent_id: str | None = None
    #: The action approval that an answer grants or rejects.
    action_id: str | None = None
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
    #: The agent that it is for.
    agent_id: str | None = None
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
    AGENT_AWAITING_INPUT = "agent_awaiting_input"


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
    #: When the notify hook was called for it, the last time; None: not yet.
    notified_at: datetime | None = None
    #: Whether that was as an urgent one, after it had been escalated.
    notified_urgent: bool = False
    #: Why the notify hook failed, the last time.
    notify_error: str = ""

    @property
    def waits(self) -> bool:
        """Whether the task waits for a person here."""
        return self.kind is not InboxKind.WORKSTREAM_COMPLETED


# -- review threads -----------------------------------------------------------------------------------------------

Document = Literal["spec", "plan", "report"]


class Anchor(Value):
    """Which lines of a document a comment is about. Lines count from 1, both ends included."""

    selected_text: str
    #: A few lines before and after, to find the place again among equals.
    surrounding_text: str = ""
    line_start: int = Field(ge=1)
    line_end: int = Field(ge=1)


class Comment(Value):
    """One remark in a review thread."""

    comment_id: str
    author: str
    content: str
    posted_at: datetime


class ReviewThread(Value):
    """Remarks about a place in a document; the first comment began it."""

    thread_id: str
    document: Document
    #: The revision that was commented.
    revision: int
    #: Where it is in the newest revision; None: about the whole document.
    anchor: Anchor | None = None
    #: The text that it was about is no longer there.
    outdated: bool = False
    comments: tuple[Comment, ...]
    resolved: bool = False
    resolved_by: str = ""
    resolved_at: datetime | None = None


# -- tracker ------------------------------------------------------------------------------------------------------

ItemStatus = Literal["todo", "wip", "done", "blocked"]


class TrackerItem(Value):
    """One deliverable. Its owner, where it has one, changes its status."""

    item_id: FolderName
    summary: Title
    #: The one workstream that owns it.
    workstream_id: FolderName | None = None
    status: ItemStatus = "todo"
    comments: tuple[Comment, ...] = ()


class TrackerPhase(Value):
    """A stage of the board."""

    phase_id: FolderName
    name: Title
    summary: str = ""
    #: When it is expected to be done, in words: '2026-08-01', 'next week'.
    eta: str = ""
    items: tuple[TrackerItem, ...] = ()


class Tracker(Value):
    """The deliverables board. ``phases`` stand in their order."""

    phases: tuple[TrackerPhase, ...] = ()

    def items(self) -> Iterator[TrackerItem]:
        """Yield every item, in order."""
        return (item for phase in self.phases for item in phase.items)


# -- actions that need a yes --------------------------------------------------------------------------------------


class AddItem(Value):
    """Put an item on the tracker."""

    type: Literal["add_item"] = "add_item"
    phase_id: FolderName
    item: TrackerItem


class UpdateItem(Value):
    """Change what an item says, or who owns it; what is None stays."""

    type: Literal["update_item"] = "update_item"
    item_id: FolderName
    summary: Title | None = None
    workstream_id: FolderName | None = None
    #: Move it to this phase.
    phase_id: FolderName | None = None


class RemoveItem(Value):
    """Take an item off the tracker."""

    type: Literal["remove_item"] = "remove_item"
    item_id: FolderName


class RunAction(Value):
    """Run a program on a GPU pod, once."""

    type: Literal["run"] = "run"
    executor: CommandExecutor


class Merge(Value):
    """Merge the task's pull request; carried out by whoever keeps the repository."""

    type: Literal["merge"] = "merge"


ProposedAction = Annotated[AddItem | UpdateItem | RemoveItem | RunAction | Merge, Discriminator("type")]


class ActionApproval(Value):
    """An action that somebody proposed. It runs once, after the grant is recorded."""

    action_id: str
    action: ProposedAction
    reason: str = ""
    requested_by: str
    requested_at: datetime
    #: The approval request that people answer.
    message_id: str
    status: Literal["requested", "rejected", "granted", "done", "failed", "interrupted"] = "requested"
    decided_by: str = ""
    decided_at: datetime | None = None
    comment: str = ""
    run: Run | None = None
    result: Result | None = None
    error: str = ""

    @property
    def open(self) -> bool:
        """Whether something about it is still to come."""
        return self.status in {"requested", "granted"}


# -- what stands outside ------------------------------------------------------------------------------------------


SyncState = Literal["none", "draft_requested", "draft", "open", "merge_requested", "merging", "merged", "closed"]


class ExternalSync(Value):
    """The task's pull request, as far as somebody outside has told."""

    state: Literal["none", "draft_requested", "draft", "open", "merge_requested", "merging", "merged", "closed"] = (
        "none"
    )
    title: str = ""
    body: str = ""
    branch: str = ""
    url: str = ""
    number: int | None = None
    detail: str = ""
    #: What was last told from outside: where it stands once nobody wants it merged any more.
    reported: Literal["draft", "open", "merged", "closed"] | None = None
    updated_by: str = ""
    updated_at: datetime | None = None


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


class TaskAgents(Value):
    """Who writes spec and plan and reviews the work; None: people do."""

    spec_writer: Executor | None = None
    planner: Executor | None = None
    reviewer: Executor | None = None


class TaskConfig(Value):
    """What can be set per task, and changed while it runs."""

    gates: Gates = Gates()
    agents: TaskAgents = TaskAgents()
    #: Attempts of an agent at the same input before a person is asked.
    agent_attempts: int = Field(default=3, ge=1, le=20)
    max_concurrent: int = Field(default=3, ge=1, le=100)
    #: Seconds between two starts of workstreams or agents.
    spawn_cooldown_seconds: float = Field(default=0, ge=0, le=86_400, allow_inf_nan=False)
    #: A program of the user's that a worker runs once for each item that waits for a person, the item on its stdin.
    notify: tuple[Argument, ...] = Field((), max_length=100)
    #: Delay before each automatic retry of a recoverable failure; as many retries as there are delays.
    failure_cooldown_seconds: tuple[Annotated[float, Field(ge=0, le=86_400)], ...] = Field((5.0, 30.0), max_length=10)
    escalate_after_seconds: float | None = Field(default=None, gt=0, le=365 * 86_400)
    escalate_to: Speaker | None = None


class TaskInput(Value):
    """What a task begins with."""

    task_id: FolderName
    title: Title
    by: Speaker
    command_id: CommandId
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
    agents: dict[str, Agent] = Field(default_factory=dict)
    agents_registered: int = 0
    review_threads: dict[str, ReviewThread] = Field(default_factory=dict)
    threads_begun: int = 0
    tracker: Tracker | None = None
    actions: dict[str, ActionApproval] = Field(default_factory=dict)
    actions_requested: int = 0
    external_sync: ExternalSync = ExternalSync()
    pending_transition: PendingTransition | None = None
    hold: Hold | None = None
    #: Nothing new is started before.
    cooldown_until: datetime | None = None
    config: TaskConfig = TaskConfig()
    #: Which settings these are, counted from 1.
    config_revision: int = 1
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
