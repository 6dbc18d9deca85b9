"""The deployment files say what they have to; the namespace's set-up is run for real against a Temporal server."""

import asyncio
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from podctl.embedded import DYNAMIC_CONFIGURATION, RETENTION, temporal_program
from podctl.namespace import missing_search_attributes

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.temporal.yml"
#: Made by the test on the test run's server, in place of `default`.
NAMESPACE = "set-up-by-compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return loaded


def test_it_has_a_database_a_server_a_web_ui_and_a_worker(compose: dict[str, Any]) -> None:
    images = {
        name: service.get("image", "built here").partition(":")[0] for name, service in compose["services"].items()
    }
    assert images == {
        "postgresql": "postgres",
        "schema": "temporalio/admin-tools",
        "temporal": "temporalio/server",
        "namespace": "temporalio/admin-tools",
        "web-ui": "temporalio/ui",
        "worker": "built here",
    }


def test_what_stays_is_watched_and_what_ends_is_waited_for(compose: dict[str, Any]) -> None:
    services = compose["services"]
    ends = {"schema", "namespace"}
    assert {name for name, service in services.items() if "healthcheck" not in service} == ends
    for service in services.values():
        for name, dependency in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if name in ends else "service_healthy"
            assert dependency["condition"] == expected


def test_passwords_come_from_the_environment_only_and_have_no_default(compose: dict[str, Any]) -> None:
    secrets = [
        value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if re.search("PASSWORD|PWD|SECRET", name)
    ]
    assert secrets
    assert all(re.fullmatch(r"\$\{\w+:\?[^}]+\}", value) for value in secrets)


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_named_volumes_and_configs_are_declared(compose: dict[str, Any]) -> None:
    used = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", ())
        if not volume.startswith(("$", ".", "/"))
    }
    assert used == set(compose["volumes"])
    assert {config["source"] for config in compose["services"]["temporal"]["configs"]} == set(compose["configs"])


def test_the_server_is_set_as_the_embedded_one(compose: dict[str, Any]) -> None:
    settings = yaml.safe_load(compose["configs"]["dynamic-configuration"]["content"])
    assert tuple(f"{name}={values[0]['value']}" for name, values in settings.items()) == DYNAMIC_CONFIGURATION


async def test_the_namespace_set_up_gives_what_podctl_needs_and_may_run_again(
    compose: dict[str, Any], client: Client
) -> None:
    service = compose["services"]["namespace"]
    [script] = service["command"]
    address = client.service_client.config.target_host
    program = temporal_program()
    environment = {
        **os.environ,
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_NAMESPACE": NAMESPACE,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    }
    assert environment.keys() >= service["environment"].keys()
    for _ in range(2):
        await asyncio.to_thread(
            subprocess.run,
            [*service["entrypoint"], script.replace("--namespace default", f"--namespace {NAMESPACE}")],
            check=True,
            env=environment,
        )
    made = await Client.connect(address, namespace=NAMESPACE)
    assert await missing_search_attributes(made) == ()
    described = await made.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=NAMESPACE))
    assert described.config.workflow_execution_retention_ttl.ToTimedelta() == RETENTION


def test_the_image_runs_without_root_and_installs_only_what_is_locked() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    last_stage = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER (?!root)\w+$", last_stage, re.MULTILINE)
    installs = re.findall(r"pip install (?:[^\\\n]|\\\n)*", text)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_every_package_is_copied_into_the_image_and_let_through_by_dockerignore() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    wanted = {name.partition(".")[0] for name in setuptools["packages"]} | {
        f"{name}.py" for name in setuptools["py-modules"]
    }
    let_through = set(re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    copied = {
        word
        for line in re.findall(
            r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
        )
        for word in line.split()
    }
    assert wanted <= let_through
    assert wanted <= copied


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-development.lock"])
def test_every_locked_file_has_a_hash_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    requirements = re.findall(r"^[a-z0-9].*(?:\n    .*)*", text, re.MULTILINE)
    assert len(requirements) > 20
    assert all("--hash=sha256:" in requirement for requirement in requirements)
    assert "://" not in text
