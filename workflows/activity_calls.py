"""How workflows call activities."""

from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from workflows import timeouts

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

R = TypeVar("R")


async def execute_activity(
    name: str,
    argument: BaseModel,
    result_type: type[R],
    *,
    summary: str,
    attempt: timedelta = timeouts.ATTEMPT,
    task_queue: str | None = None,
) -> R:
    """Execute an activity that heartbeats, and that is tried until it succeeds or says that it never will.

    ``attempt`` is how long one try may take. Raises ``ActivityError``.
    """
    result: R = await workflow.execute_activity(
        name,
        argument,
        result_type=result_type,
        start_to_close_timeout=attempt,
        heartbeat_timeout=timeouts.HEARTBEAT,
        retry_policy=timeouts.UNTIL_DONE,
        task_queue=task_queue,
        summary=summary,
    )
    return result


def definite_refusal(error: ActivityError) -> ApplicationError:
    """Return why an activity will never succeed; raise ``error`` again if it says nothing of the kind."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.non_retryable:
        return cause
    raise error
