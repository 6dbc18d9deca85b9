"""How workflows call activities."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from temporalio import exceptions, workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType

from workflows import names, timeouts
from workflows.summaries import fitted

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
    taken_up_within: timedelta | None = None,
) -> R:
    """Execute an activity that heartbeats, and that is tried until it succeeds or says that it never will.

    ``attempt`` is how long one try may take, ``taken_up_within`` how long it may wait for a worker (None: for ever).
    Raises ``ActivityError``.
    """
    result: R = await workflow.execute_activity(
        name,
        argument,
        result_type=result_type,
        start_to_close_timeout=attempt,
        heartbeat_timeout=timeouts.HEARTBEAT,
        retry_policy=timeouts.UNTIL_DONE,
        task_queue=task_queue,
        schedule_to_start_timeout=taken_up_within,
        summary=fitted(summary),
    )
    return result


async def on_the_pods_queue(call: Callable[[str | None], Awaitable[R]]) -> R:
    """Return what ``call`` returns on the task queue whose workers reach the pod; it is tried on our own first.

    The pod's workflow alone knows its queue, and may change it: an activity that was given to another one says where it
    belongs. Raises what ``call`` raises, ``ActivityError``.
    """
    queue: str | None = None
    while True:
        try:
            return await call(queue)
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type == names.OTHER_TASK_QUEUE:
                queue = cause.details[0] or None
            elif isinstance(cause, exceptions.TimeoutError) and cause.type == TimeoutType.SCHEDULE_TO_START:
                queue = None  # nobody works there: the pod may have got another one
            else:
                raise


def definite_refusal(error: ActivityError) -> ApplicationError:
    """Return why an activity will never succeed; raise ``error`` again if it says nothing of the kind."""
    cause = error.cause
    if isinstance(cause, ApplicationError) and cause.non_retryable:
        return cause
    raise error
