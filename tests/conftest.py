"""Fixtures that several kinds of tests share: one real Temporal server for the test run, a task queue for each test."""

import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from podctl.paths import PodctlPaths
from tests.server import temporal_server

# Whoever starts the tests in the background may have told them to ignore Ctrl-C, and the programs they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)
# How fast a machine is says nothing about what is right. What is found by chance would not be the fault of the change
# that is tested just then: who looks further gives --hypothesis-profile=exploring.
settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("podctl", settings.get_profile("exploring"), derandomize=True)
settings.load_profile("podctl")


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests away from the folders, the Temporal profiles and the secrets of whoever runs them."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        for name in tuple(os.environ):
            if name.startswith(("TEMPORAL_", "PODCTL_")) and name != "PODCTL_TEMPORAL_BIN":
                patch.delenv(name)
        patch.setenv("TEMPORAL_CONFIG_FILE", os.devnull)
        patch.setenv("PODCTL_CONFIG_DIR", str(folder / "config"))
        patch.setenv("PODCTL_DATA_DIR", str(folder / "data"))
        yield


@pytest.fixture
def paths(tmp_path: Path) -> PodctlPaths:
    """Folders of their own for one test."""
    return PodctlPaths(config=tmp_path / "config", data=tmp_path / "data")


@pytest.fixture(scope="session")
async def temporal_environment() -> AsyncIterator[WorkflowEnvironment]:
    """The test run's server."""
    async with temporal_server() as environment:
        yield environment


@pytest.fixture(scope="session")
def client(temporal_environment: WorkflowEnvironment) -> Client:
    """A client of the test run's server, with the project's plugin."""
    return temporal_environment.client


@pytest.fixture
def task_queue() -> str:
    """A task queue that no other test polls."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Make names that no other test uses on the test run's server: ``unique("task")``."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:12]}"
