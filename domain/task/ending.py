"""How a task ended, for whoever comes too late."""

from domain.errors import Rejected
from domain.task.models import Phase, TaskState


def already_final(state: TaskState) -> Rejected:
    """Return the refusal of a command to a task that is over: it says since when, and by whom."""
    if state.phase is Phase.CANCELLED:
        reason = f" ({state.cancel_reason})" if state.cancel_reason else ""
        by = f", cancelled by {state.cancelled_by}{reason}" if state.cancelled_by else ""
    else:
        approval = state.review.approval
        by = f", its review already approved by {approval.by}" if approval is not None else ""
    return Rejected(
        "already_terminal",
        f"task {state.task_id!r} is {state.phase.value} since {state.phase_since:%Y-%m-%d %H:%M} UTC{by}; nothing "
        "about it can be changed any more",
    )
