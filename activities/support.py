"""What every activity needs: heartbeats while it waits, errors that Temporal understands, the address of a pod."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from domain.gpu.models import PodAddress
from domain.ids import gpu_pod_workflow_id
from remote.errors import (
    AuthenticationFailed,
    HostKeyChanged,
    PodletError,
    PodletUnusable,
    RemoteError,
    SshSetupError,
    Unreachable,
)
from workflows import names

#: Seconds between heartbeats; the heartbeat timeouts in ``workflows/timeouts.py`` leave room for two lost ones.
HEARTBEAT_INTERVAL = 3.0
#: Seconds until another try where only a person (or another worker) can change the outcome.
PERSON_DELAY = 20.0

#: What the podlet refuses before it has done anything: trying again would bring the same answer.
DEFINITE_REFUSALS = frozenset(
    {
        "bad_request",
        "gpu_missing",
        "gpu_share_taken",
        "launch_stopped",
        "other_program",
        "port_not_open",
        "port_taken",
        "process_gone",
        "process_owned",
        "program_not_found",
        "server_not_running",
    }
)


#: What the podlet says of a machine that does not let it work: for a person, not for endless tries. What a launch left
#: half done is looked after by the verified stop that follows.
MACHINE_ERRORS = frozenset({"disk_full", "machine_error"})


@contextlib.asynccontextmanager
async def heartbeating(details: Callable[[], Any] = lambda: None) -> AsyncIterator[None]:
    """Heartbeat with ``details()`` while the block runs, so that a dead worker is noticed and a live one hears."""

    async def beat() -> None:
        while True:
            activity.heartbeat(details())
            await asyncio.sleep(HEARTBEAT_INTERVAL)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()


@contextlib.asynccontextmanager
async def remote_errors() -> AsyncIterator[None]:
    """Turn what can go wrong with a pod into errors that Temporal retries, or not, by what they mean.

    Retried without end: everything that leaves it open what the machine did. Not retried: a podlet's definite refusal.
    A changed host key is retried slowly, because a person's new pin must let the same action go on.
    """
    try:
        yield
    except Unreachable as error:
        delay = timedelta(seconds=max(0.5, error.retry_after))
        raise ApplicationError(str(error), type="unreachable", next_retry_delay=delay) from error
    except HostKeyChanged as error:
        raise _for_a_person(error, "host_key_changed") from error
    except AuthenticationFailed as error:
        raise _for_a_person(error, "no_access") from error
    except SshSetupError as error:
        raise _for_a_person(error, "ssh_setup") from error
    except PodletUnusable as error:
        raise _for_a_person(error, error.code) from error
    except PodletError as error:
        raise ApplicationError(error.message, type=error.code, non_retryable=error.code in DEFINITE_REFUSALS) from error


def _for_a_person(error: RemoteError, kind: str) -> ApplicationError:
    return ApplicationError(str(error), type=kind, next_retry_delay=timedelta(seconds=PERSON_DELAY))


async def pod_address(client: Client, pod: str) -> PodAddress:
    """Return the pod's newest address.

    Raises as ``pod_memo`` does, and ``ApplicationError`` (``pod_removed``, not retried) for one that was removed.
    """
    return _address(pod, await pod_memo(client, pod))


async def pod_address_for(client: Client, pod: str, task_queue: str | None) -> PodAddress:
    """Return the pod's newest address to an activity that was given to ``task_queue`` (None: its workflow's own).

    Raises as ``pod_address`` does, and ``ApplicationError`` (``OTHER_TASK_QUEUE``, with the queue's name or an empty
    one for the workflow's own) if the workers of another queue are those that can reach the pod.
    """
    memo = await pod_memo(client, pod)
    wanted = memo.get("task_queue")
    if wanted != task_queue:
        raise ApplicationError(
            f"GPU pod {pod} is reached by the workers of {f'task queue {wanted}' if wanted else 'the common queue'}",
            wanted or "",
            type=names.OTHER_TASK_QUEUE,
            non_retryable=True,
            category=ApplicationErrorCategory.BENIGN,
        )
    return _address(pod, memo)


def _address(pod: str, memo: Mapping[str, Any]) -> PodAddress:
    if memo["state"] == "removed":
        raise ApplicationError(
            f"GPU pod {pod} was removed: what ran there cannot be looked at any more",
            type="pod_removed",
            non_retryable=True,
        )
    return PodAddress.model_validate(memo["address"])


async def pod_memo(client: Client, pod: str) -> Mapping[str, Any]:
    """Return what the pod's workflow shows of itself (``domain/gpu/summary.py``); it can be read while no worker runs.

    Raises ``ApplicationError`` (``unknown_pod``, not retried) if there is no such pod.
    """
    try:
        described = await client.get_workflow_handle(gpu_pod_workflow_id(pod)).describe()
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            raise ApplicationError(f"there is no GPU pod {pod}", type="unknown_pod", non_retryable=True) from error
        raise
    return await described.memo()
