"""`podctl signal …`: what people say to tasks. Each is a Temporal signal, recorded also while no worker runs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import open_client, speaker
from cli.options import AsOption, TaskArgument
from cli.output import Format, OutputOption, print_json, run_async

if TYPE_CHECKING:
    from domain.task.approvable import Approvable, Verdict, WaitingQuestion
    from domain.task.waits import Gate
    from podctl.approvals import Shown
    from podctl.client import PodctlClient

app = typer.Typer(
    no_args_is_help=True,
    help="Approve, reject, report, talk. Works while no worker runs: what is said is then processed later.",
)

CommentOption = Annotated[str, typer.Option(help="Kept with it, for people.")]
RevisionOption = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The revision that was read; else the newest, which is named.")
]
MessageOption = Annotated[str | None, typer.Option(metavar="ID", help="The question that this answers: m-1, …")]


class GateName(StrEnum):
    """What can be sent back."""

    SPEC = "spec"
    PLAN = "plan"
    REVIEW = "review"


class ResultStatus(StrEnum):
    """How a workstream ended."""

    COMPLETED = "completed"
    FAILED = "failed"


class MessageType(StrEnum):
    """What kind of message it is."""

    UPDATE = "update"
    QUESTION = "question"
    BLOCKER = "blocker"
    REVIEW_COMMENT = "review_comment"


def register(parent: typer.Typer) -> None:
    """Add these commands to the program."""
    parent.add_typer(app, name="signal", rich_help_panel="Tasks")


@app.command("approve-spec")
def approve_spec(
    task: TaskArgument,
    *,
    revision: RevisionOption = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Approve the spec: planning begins."""
    _approve_gate(task, "spec", revision, comment, by, output)


@app.command("approve-plan")
def approve_plan(
    task: TaskArgument,
    *,
    revision: RevisionOption = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Approve the plan: the work begins."""
    _approve_gate(task, "plan", revision, comment, by, output)


@app.command("approve-review")
def approve_review(
    task: TaskArgument,
    *,
    revision: RevisionOption = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Accept the finished work: the task is completed."""
    _approve_gate(task, "review", revision, comment, by, output)


@app.command()
def approve(
    task: TaskArgument,
    *,
    message: MessageOption = None,
    choice: Annotated[str | None, typer.Option(help="One of the question's options; else 'approve'.")] = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Approve the one thing that waits, or answer a question with one of its options."""
    about = ""
    if message is None:
        from domain.task.approvable import WaitingGate

        one = run_async(_one_that_waits(task, "approve", choice), when_interrupted="interrupted: nothing was approved")
        if isinstance(one, WaitingGate):
            _approve_gate(task, one.gate, one.revision, comment, by, output)
            return
        message, choice, about = one.message.message_id, one.choice, _what_is_answered(one)
    payload = {"message_id": message, "choice": choice, "comment": comment}
    say(Saying(task, "approve", f"approved{f' ({choice})' if choice else ''}", payload, about=about), by, output)


@app.command()
def reject(
    task: TaskArgument,
    *,
    gate: Annotated[GateName | None, typer.Option(help="Which, where more than one thing waits.")] = None,
    message: MessageOption = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Send back what waits for approval; say why with --comment."""
    waiting: Gate | None = gate.value if gate else None
    revision, about = None, ""
    if waiting is None and message is None:
        from domain.task.approvable import WaitingGate

        one = run_async(_one_that_waits(task, "reject"), when_interrupted="interrupted: nothing was sent back")
        if isinstance(one, WaitingGate):
            waiting, revision = one
        else:
            message, about = one.message.message_id, _what_is_answered(one)
    payload = {"gate": waiting, "revision": revision, "message_id": message, "comment": comment}
    say(Saying(task, "reject", "sent back", payload, gate=waiting, about=about), by, output)


@app.command("workstream-result")
def workstream_result(  # noqa: PLR0913  # a command has as many parameters as options
    task: TaskArgument,
    workstream: Annotated[str, typer.Argument(metavar="WORKSTREAM", help="The workstream's id.")],
    *,
    status: Annotated[ResultStatus, typer.Option(help="How it ended.")] = ResultStatus.COMPLETED,
    attempt: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The attempt it is about; else the one under way.")
    ] = None,
    result: Annotated[str, typer.Option(metavar="TEXT", help="What came of it, or why it failed.")] = "",
    artifact: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A file or link; repeatable.")] = None,
    comment: CommentOption = "",
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Report how a workstream that is done outside ended."""
    attempt = attempt or run_async(_attempt_under_way(task, workstream), when_interrupted="nothing was reported")
    payload = {
        "workstream": workstream,
        "status": status.value,
        "attempt": attempt,
        "result": result,
        "artifacts": artifact or [],
        "comment": comment,
    }
    say(Saying(task, "workstream-result", f"workstream {workstream} is {status.value}", payload), by, output)


@app.command()
def message(
    task: TaskArgument,
    content: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    *,
    message_type: Annotated[MessageType, typer.Option("--type", help="What it is.")] = MessageType.UPDATE,
    workstream: Annotated[str | None, typer.Option(metavar="WORKSTREAM", help="What it is about.")] = None,
    reply_to: Annotated[str | None, typer.Option(metavar="ID", help="The message that it answers.")] = None,
    by: AsOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Say something in a task."""
    payload = {"content": content, "type": message_type.value, "workstream": workstream, "thread_id": reply_to}
    say(Saying(task, "message", "said", payload), by, output)


@dataclass(frozen=True)
class Saying:
    """One signal. ``done`` is how it is told when it was accepted; None in the payload is left out."""

    task: str
    signal: str
    done: str
    payload: dict[str, Any]
    gate: "Gate | None" = None
    #: What it is about, for who did not say.
    about: str = ""


def _approve_gate(task: str, gate: "Gate", revision: int | None, comment: str, by: str | None, output: Format) -> None:
    payload = {"revision": revision, "comment": comment}
    say(Saying(task, f"approve-{gate}", f"{gate} approved", payload, gate=gate), by, output)


def say(saying: Saying, by: str | None, output: Format) -> None:
    """Send a signal and print what came of it; recorded but not processed is no error."""
    name = speaker(by)
    report = run_async(
        _send(saying, name, output),
        when_interrupted=f"interrupted: `podctl task show {saying.task}` says whether it was recorded",
    )
    if output is Format.JSON:
        print_json(report)
    elif report["status"] == "accepted":
        print(f"task {saying.task}: {saying.done}, by {name}")
    else:
        print(f"task {saying.task}: recorded, not processed yet (is a worker running? podctl status)")


async def _one_that_waits(task: str, verdict: "Verdict", choice: str | None = None) -> "Approvable":
    from podctl.approvals import one_that_waits

    return await one_that_waits(await open_client(), task, verdict, choice)


async def _attempt_under_way(task: str, workstream: str) -> int | None:
    from podctl.workstreams import attempt_under_way

    return attempt_under_way(await (await open_client()).task(task), workstream)


def _what_is_answered(question: "WaitingQuestion") -> str:
    from domain.task.waits import preview

    return f"answering {question.message.message_id} with {question.choice}: {preview(question.message.content, 600)}"


async def _send(saying: Saying, by: str, output: Format) -> dict[str, Any]:
    from podctl.approvals import shown
    from podctl.client import Refused, new_command_id

    client: PodctlClient = await open_client()
    payload = {key: value for key, value in saying.payload.items() if value not in (None, "", [])}
    report: dict[str, Any] = {"task": saying.task, "signal": saying.signal}
    if saying.gate is not None:
        standing = await shown(client, saying.task, saying.gate)
        if standing.revision:
            payload.setdefault("revision", standing.revision)
            report |= {"title": standing.title, "revision": payload["revision"]}
            report |= {"digest": standing.digest if payload["revision"] == standing.revision else None}
        if output is Format.TABLE:
            print(_what_is_decided(saying.signal, standing, payload.get("revision")), flush=True)
    elif saying.about and output is Format.TABLE:
        print(saying.about, flush=True)
    command_id = new_command_id()
    outcome = await client.signal_task(saying.task, saying.signal, {**payload, "by": by, "command_id": command_id})
    if outcome is not None and not outcome.accepted:
        raise Refused(outcome.code, outcome.message)
    return {**report, "command_id": command_id, "status": "recorded" if outcome is None else "accepted"}


def _what_is_decided(signal: str, standing: "Shown", revision: int | None) -> str:
    doing = "sending back" if signal == "reject" else "approving"
    what = f"the {standing.gate} of task {standing.task} ({standing.title})"
    if not standing.revision:
        return f"{doing} {what}: there is none yet"
    digest = f", digest {standing.digest}" if revision == standing.revision else ""
    return f"{doing} {what}: revision {revision}{digest}"
