import asyncio
from collections.abc import AsyncGenerator

from podctl.live import and_every


async def test_a_state_that_comes_while_the_one_before_is_looked_at_is_given() -> None:
    """The last one, too: nothing comes after it that would make up for it."""
    looked_at = asyncio.Event()

    async def states() -> AsyncGenerator[str]:
        yield "stopping"
        await looked_at.wait()
        yield "stopped"
        await asyncio.Event().wait()

    given: list[str] = []
    async with asyncio.timeout(20):
        async for state in and_every(0.01, states()):
            given.append(state)
            if given == ["stopping", "stopping"]:
                looked_at.set()
                # As long as it takes to read what stands beside it.
                await asyncio.sleep(0.05)
            if state == "stopped":
                break
    assert given[-1] == "stopped"


async def test_it_ends_with_the_last_state() -> None:
    async def states() -> AsyncGenerator[int]:
        yield 1
        yield 2

    assert [state async for state in and_every(20, states())] == [1, 2]
