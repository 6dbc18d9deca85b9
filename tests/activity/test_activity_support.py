"""How what goes wrong with a pod becomes what Temporal does about it, and how activities show that they live."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import support
from activities.support import DEFINITE_REFUSALS, PERSON_DELAY, heartbeating, pod_address, remote_errors
from remote.errors import AuthenticationFailed, HostKeyChanged, PodletError, PodletUnusable, Unreachable


@pytest.mark.parametrize(
    ("error", "kind", "retried_after"),
    [
        (Unreachable("one", "refused", retry_after=7.0), "unreachable", 7.0),
        (Unreachable("one", "dropped"), "unreachable", 0.5),
        (AuthenticationFailed("no key"), "no_access", PERSON_DELAY),
        (HostKeyChanged("another machine"), "host_key_changed", PERSON_DELAY),
        (PodletUnusable("no_python", "no python3"), "no_python", PERSON_DELAY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_what_may_be_over_later_is_tried_again(error: Exception, kind: str, retried_after: float) -> None:
    with pytest.raises(ApplicationError) as raised:
        async with remote_errors():
            raise error
    assert raised.value.type == kind
    assert not raised.value.non_retryable
    assert raised.value.next_retry_delay == timedelta(seconds=retried_after)
    assert raised.value.message == str(error)


@pytest.mark.parametrize("code", [*sorted(DEFINITE_REFUSALS), "failed", "launch_lost"])
async def test_only_what_was_refused_before_anything_happened_is_final(code: str) -> None:
    with pytest.raises(ApplicationError) as raised:
        async with remote_errors():
            raise PodletError(code, "pod one: no")
    assert raised.value.type == code
    assert raised.value.non_retryable == (code in DEFINITE_REFUSALS)


async def test_a_mistake_of_our_own_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with remote_errors():
            raise ZeroDivisionError


async def test_heartbeats_carry_the_newest_progress_and_end_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "HEARTBEAT_INTERVAL", 0.01)
    environment = ActivityEnvironment()
    beats: list[Any] = []
    beaten = asyncio.Event()

    def on_heartbeat(*details: Any) -> None:  # noqa: ANN401 - whatever an activity tells
        beats.append(details[0]["step"])
        if len(set(beats)) == 3:
            beaten.set()

    environment.on_heartbeat = on_heartbeat

    async def work() -> int:
        progress = {"step": 0}
        async with heartbeating(lambda: progress):
            while not beaten.is_set():
                await asyncio.sleep(0.02)
                progress["step"] += 1
        return len(beats)

    count = await environment.run(work)
    assert beats == sorted(beats)
    assert len(beats) == count, "none after the end"


async def test_a_pod_that_nobody_added_is_final(client: Client) -> None:
    with pytest.raises(ApplicationError) as raised:
        await pod_address(client, "never-added")
    assert (raised.value.type, raised.value.non_retryable) == ("unknown_pod", True)
