"""What waits for a yes or a no, and which of it somebody means who does not say."""

import shlex
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from domain.errors import Rejected
from domain.task.models import Message, TaskState
from domain.task.waits import Gate, gate_object, preview, waiting_gate, waits_for

Verdict = Literal["approve", "reject"]
#: The options of a question that each is taken for.
_OPTIONS: Final[dict[Verdict, tuple[str, ...]]] = {"approve": ("approve", "grant"), "reject": ("reject",)}


class WaitingGate(NamedTuple):
    """A spec, plan or review that waits, at the revision that it has."""

    gate: Gate
    revision: int


class WaitingQuestion(NamedTuple):
    """A question that waits, and the option that is meant."""

    message: Message
    choice: str


Approvable = WaitingGate | WaitingQuestion


def approvable(state: TaskState, verdict: Verdict, choice: str | None = None) -> list[Approvable]:
    """Return all that a verdict can mean; with ``choice``, the questions that offer it."""
    options = _OPTIONS[verdict] if choice is None else (choice,)
    gate = waiting_gate(state) if choice is None else None
    found: list[Approvable] = [] if gate is None else [WaitingGate(gate, gate_object(state, gate).revision)]
    for message in state.open_approvals():
        offered = () if message.approval is None else message.approval.options
        meant = next((option for option in options if option in offered), None)
        if meant is not None:
            found.append(WaitingQuestion(message, meant))
    return found


def the_one_approvable(state: TaskState, verdict: Verdict, choice: str | None = None) -> Approvable:
    """Return the one thing that a verdict means. Raises ``Rejected``: ``nothing_to_approve`` or ``ambiguous``."""
    found = approvable(state, verdict, choice)
    if not found:
        raise Rejected("nothing_to_approve", f"there is nothing to {verdict} just now; {what_waits(state)}")
    if len(found) > 1:
        raise Rejected(
            "ambiguous", f"{len(found)} things wait, so say which one to {verdict}: {_all_of(state, verdict, found)}"
        )
    return found[0]


def what_waits(state: TaskState) -> str:
    """Return, in words, what the task waits for."""
    waits = waits_for(state)
    return f"the task waits for this: {'; '.join(waits[:5])}" if waits else "the task waits for nobody"


def _all_of(state: TaskState, verdict: Verdict, found: Sequence[Approvable]) -> str:
    return "; ".join(_said(state.task_id, verdict, one) for one in found)


def _said(task: str, verdict: Verdict, one: Approvable) -> str:
    if isinstance(one, WaitingGate):
        command = f"approve-{one.gate} {task}" if verdict == "approve" else f"reject {task} --gate {one.gate}"
        return f"{one.gate} revision {one.revision}: podctl signal {command}"
    # A question is rejected by its option, so that --choice says nothing more.
    choice = f" --choice {shlex.quote(one.choice)}" if verdict == "approve" else ""
    command = f"{verdict} {task} --message {one.message.message_id}{choice}"
    return f"{preview(one.message.content, 60)}: podctl signal {command}"
