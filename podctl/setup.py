"""Setting up a machine: asked for, followed step by step, and Hugging Face's token brought there without Temporal.

```
SetupFailed         a step of the setup failed: which one, why, the last lines of its log, what to do
```
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from domain.errors import BadInput
from domain.gpu.models import GpuPodState, address
from domain.gpu.setup import Setup, is_decided
from podctl.client import ClientError, PodctlClient
from podctl.live import and_every, follow_pod
from remote.podlet import Podlet
from remote.ssh import SshPool
from remote.ssh_keys import Passphrases

#: Seconds between looks at what the step under way says; heartbeats are no more frequent.
LOOK_EVERY = 1.0
#: What no token of Hugging Face has: it would be a whole file, or something pasted half.
_TOKEN_LENGTHS = range(8, 513)


class SetupFailed(ClientError):
    """A setup has failed; repeated, it goes on from there."""


@dataclass(frozen=True)
class Progress:
    """A pod whose setup is under way, and what the current step says or waits for."""

    state: GpuPodState
    setup: Setup
    note: str


async def follow_setup(client: PodctlClient, pod: str) -> AsyncIterator[Progress]:
    """Give the progress of a pod's setup as it goes on, its end last."""
    async with aclosing(and_every(LOOK_EVERY, follow_pod(client, pod))) as states:
        async for state in states:
            setup = _setup(state)
            said = await client.setup_step_says(pod) if setup.state == "running" else ""
            yield Progress(state, setup, note(state, setup, said))
            if setup.state != "running":
                return
    raise SetupFailed(f"pod {pod} was removed")


def note(state: GpuPodState, setup: Setup, said: str) -> str:
    """Return what the current step does or waits for; ``said`` is what it printed last."""
    if setup.current is None:
        return ""
    if state.reachable is False:
        return f"waits for the machine, and goes on when it is back: {state.unreachable_reason}"
    if is_decided(setup.current):
        failed = f" failed, and is tried again: {state.inspection_problem}" if state.inspection_problem else " …"
        return f"a look at the machine{failed}"
    return said


def failure_text(pod: str, setup: Setup) -> str:
    """Return a failed setup in words: the step, why, the end of its log, what to do."""
    failure = setup.failure
    if failure is None:
        return ""
    tail = f"\nThe end of its log:\n{failure.log_tail.rstrip()}" if failure.log_tail.strip() else ""
    return (
        f"the setup of pod {pod} failed at step {failure.step} ({failure.code}): {failure.message}\n"
        f"What to do: {failure.advice}\nIt goes on from there with: podctl pods setup {pod}{tail}"
    )


def setup_document(state: GpuPodState) -> dict[str, Any]:
    """Return a pod's setup and what setups have brought, for programs."""
    document: dict[str, JsonValue] = state.model_dump(mode="json", include={"setup", "vllm", "models_path"})
    return {"pod": state.name, **document}


def check_hf_token(token: str) -> None:
    """Raise ``BadInput`` unless this can be a token of Hugging Face. The token itself is never shown."""
    if len(token) not in _TOKEN_LENGTHS or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput("that is no Hugging Face token: one line of letters, digits and '_', such as hf_…")


async def keep_hf_token(
    client: PodctlClient, pod: str, token: str, passphrases: Passphrases | None = None
) -> tuple[str, bool]:
    """Write a token into Hugging Face's own file on the machine, over SSH; return its path, and whether it is new.

    It takes no other way: not Temporal's, not a worker's. Raises ``PodletError`` (``hf_token_exists``) where another
    token is, and what a connection raises.
    """
    pool = SshPool(passphrases=passphrases)
    try:
        result = await Podlet(pool).call(address(await client.pod(pod)), "hf_token", {"token": token})
    finally:
        await pool.close()
    return result["path"], result["written"]


def _setup(state: GpuPodState) -> Setup:
    if state.setup is None:
        raise SetupFailed(f"pod {state.name} is not being set up")
    return state.setup
