"""Signals as people and GPU pods send them: a name and one JSON object, by podctl, the Temporal CLI or its Web UI."""

import json
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from domain.entity import CommandId, Sender, Speaker, Value, problems
from domain.errors import Rejected
from domain.task.commands import (
    AgentDone,
    AgentFailed,
    Approve,
    ApprovePlan,
    ApproveReview,
    ApproveSpec,
    CompleteWorkstream,
    FailWorkstream,
    GiveApproval,
    PostMessage,
    Reject,
    ServerChanged,
    TaskCommand,
)
from domain.task.models import PlanDraft, Result, ServerStatus

#: Who sent a signal that does not say; the reader adds the client that history recorded.
UNKNOWN_SENDER = "unknown"


class SignalCommand(Value):
    """What a signal asks for. ``command_id`` is None when the sender gave none."""

    command_id: str | None
    by: str
    command: TaskCommand
    sender: Sender = Sender.PERSON


class _Payload(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Whose signal it is.
    sender: ClassVar[Sender] = Sender.PERSON

    by: Speaker = UNKNOWN_SENDER
    command_id: CommandId | None = None

    @abstractmethod
    def command(self) -> TaskCommand:
        """Return what the signal asks for."""


class _ApproveSpec(_Payload):
    revision: int | None = None
    comment: str = ""

    def command(self) -> TaskCommand:
        return ApproveSpec(revision=self.revision, comment=self.comment)


class _ApprovePlan(_Payload):
    revision: int | None = None
    comment: str = ""

    def command(self) -> TaskCommand:
        return ApprovePlan(revision=self.revision, comment=self.comment)


class _ApproveReview(_Payload):
    revision: int | None = None
    comment: str = ""

    def command(self) -> TaskCommand:
        return ApproveReview(revision=self.revision, comment=self.comment)


class _Approve(_Payload):
    message_id: str | None = None
    choice: str | None = None
    revision: int | None = None
    comment: str = ""

    def command(self) -> TaskCommand:
        if self.message_id is None:
            return Approve(choice=self.choice, revision=self.revision, comment=self.comment)
        return GiveApproval(message_id=self.message_id, choice=self.choice or "approve", comment=self.comment)


class _Reject(_Payload):
    message_id: str | None = None
    gate: Literal["spec", "plan", "review"] | None = None
    revision: int | None = None
    comment: str = ""

    def command(self) -> TaskCommand:
        if self.message_id is None:
            return Reject(gate=self.gate, revision=self.revision, comment=self.comment)
        return GiveApproval(message_id=self.message_id, choice="reject", comment=self.comment)


class _WorkstreamResult(_Payload):
    workstream: str
    status: Literal["completed", "failed"]
    attempt: int | None = None
    result: str = ""
    artifacts: tuple[str, ...] = ()
    comment: str = ""

    def command(self) -> TaskCommand:
        result = Result(text=self.result or self.comment, artifacts=self.artifacts)
        if self.status == "completed":
            return CompleteWorkstream(ws_id=self.workstream, attempt=self.attempt, result=result)
        error = self.comment or self.result or "reported as failed, without a reason"
        return FailWorkstream(ws_id=self.workstream, attempt=self.attempt, error=error, result=result)


class _AgentResult(_Payload):
    agent: str
    status: Literal["completed", "failed"]
    text: str = ""
    plan: PlanDraft | None = None
    error: str = ""

    def command(self) -> TaskCommand:
        if self.status == "completed":
            return AgentDone(agent_id=self.agent, text=self.text, plan=self.plan)
        error = self.error or self.text or "reported as failed, without a reason"
        return AgentFailed(agent_id=self.agent, error=error)


class _Message(_Payload):
    content: str
    type: Literal["question", "update", "blocker", "review_comment"] = "update"
    workstream: str | None = None
    thread_id: str | None = None

    def command(self) -> TaskCommand:
        return PostMessage(
            content=self.content, message_type=self.type, workstream_id=self.workstream, thread_id=self.thread_id
        )


class _ModelServer(_Payload):
    sender = Sender.POD

    name: Annotated[str, StringConstraints(min_length=1)]
    pod: str
    status: ServerStatus
    launch_id: str | None = None
    detail: str = Field(default="", max_length=10_000)

    def command(self) -> TaskCommand:
        return ServerChanged(
            name=self.name, pod=self.pod, status=self.status, launch_id=self.launch_id, detail=self.detail
        )


_SIGNALS: dict[str, type[_Payload]] = {
    "approve-spec": _ApproveSpec,
    "approve-plan": _ApprovePlan,
    "approve-review": _ApproveReview,
    "approve": _Approve,
    "reject": _Reject,
    "workstream-result": _WorkstreamResult,
    "agent-result": _AgentResult,
    "message": _Message,
    "model-server": _ModelServer,
}
#: The signal by which a GPU pod reports; the others are people's.
MODEL_SERVER = "model-server"
#: One payload each that works as it stands, for messages and docs.
EXAMPLES: dict[str, str] = {
    "approve-spec": '{"by": "ann", "revision": 3, "comment": "ok"}',
    "approve-plan": '{"by": "ann", "revision": 2, "comment": "ok"}',
    "approve-review": '{"by": "ann", "comment": "well done"}',
    "approve": '{"by": "ann", "message_id": "m-1", "choice": "retry"}',
    "reject": '{"by": "ann", "gate": "plan", "comment": "tests are missing"}',
    "workstream-result": '{"by": "ann", "workstream": "docs", "status": "completed", "result": "written"}',
    "agent-result": '{"by": "ann", "agent": "spec-writer-1", "status": "completed", "text": "# What is wanted"}',
    "message": '{"by": "ann", "content": "how is it going?", "type": "question"}',
    MODEL_SERVER: '{"by": "gpu-pod/gpu1", "name": "coder", "pod": "gpu1", "status": "loading"}',
}


def command_from_signal(name: str, arguments: list[object]) -> SignalCommand:
    """Return the command that a signal carries, or raise ``Rejected`` that says what is expected.

    Codes: ``unknown_signal``, ``wrong_argument_count``, ``wrong_payload``. ``arguments`` are decoded JSON values.
    """
    payload_type = _SIGNALS.get(name)
    if payload_type is None:
        raise Rejected("unknown_signal", f"there is no signal {name[:100]!r}; there are {', '.join(_SIGNALS)}")
    expected = f"expected is one JSON object such as {EXAMPLES[name]}"
    if len(arguments) != 1:
        raise Rejected("wrong_argument_count", f"{name} came with {len(arguments)} arguments; {expected}")
    (argument,) = arguments
    if not isinstance(argument, dict):
        raise Rejected("wrong_payload", f"{name} came with {_kind(argument)}; {expected}")
    try:
        # Through JSON, so that exactly what JSON can say is accepted, and nothing that Python objects can.
        payload = payload_type.model_validate_json(json.dumps(argument))
    except ValidationError as error:
        raise Rejected("wrong_payload", f"{name}: {problems(error)}; {expected}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise Rejected("wrong_payload", f"{name}: not JSON: {str(error)[:200]}; {expected}") from error
    return SignalCommand(command_id=payload.command_id, by=payload.by, command=payload.command(), sender=payload.sender)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {
        str: "a text",
        bytes: "bytes",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
    }.get(type(value), "something else")
