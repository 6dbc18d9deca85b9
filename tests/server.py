"""A real Temporal server, in memory, set up as `podctl up` does."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio.testing import WorkflowEnvironment

from podctl.embedded import DYNAMIC_CONFIGURATION, temporal_program
from workflows.search_attributes import SEARCH_ATTRIBUTES


@asynccontextmanager
async def temporal_server(settings: Sequence[str] = ()) -> AsyncIterator[WorkflowEnvironment]:
    """Start a server with more ``settings`` (dynamic configuration); with no binary it fails with how to get one."""
    from workflows.plugin import project_plugin  # only here: a unit test's run need not load the workflows

    arguments = [word for one in (*DYNAMIC_CONFIGURATION, *settings) for word in ("--dynamic-config-value", one)]
    async with await WorkflowEnvironment.start_local(
        plugins=[project_plugin()],
        search_attributes=SEARCH_ATTRIBUTES,
        dev_server_existing_path=str(temporal_program()),
        dev_server_extra_args=arguments,
        dev_server_startup_timeout=timedelta(seconds=60),
    ) as environment:
        yield environment
