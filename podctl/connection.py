"""Which Temporal server podctl talks to, and connecting to it."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from temporalio.client import Client, Plugin
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig

from domain.errors import BadInput
from podctl.paths import PodctlPaths
from podctl.run_file import ServerProcess, read_run

#: Seconds after which a server that does not answer is told: people wait for it at their prompt.
CONNECT_TIMEOUT = 2.5
#: Where a Temporal server listens if nobody says otherwise.
DEFAULT_ADDRESS = "localhost:7233"
DEFAULT_NAMESPACE = "default"


class NoServer(Exception):
    """No Temporal server answers; the message says where it was looked for and what to do."""


@dataclass(frozen=True)
class Target:
    """A Temporal server and why it is this one."""

    address: str
    namespace: str
    #: `TEMPORAL_ADDRESS`, a profile's name, `podctl up`, or the default.
    source: str
    #: Whether it is the one that `podctl up` runs.
    embedded: bool
    settings: ClientConnectConfig


def target(paths: PodctlPaths) -> Target:
    """Return the configured server, else the embedded one of ``paths``, else the default address.

    Configured is what Temporal's own tools use: `TEMPORAL_ADDRESS`, or an address in the profile that
    `TEMPORAL_PROFILE` names. Raises BadInput for a configuration that cannot be read.
    """
    try:
        profile = ClientConfigProfile.load(override_env_vars=dict(os.environ))
    except RuntimeError as error:
        raise BadInput(f"Temporal's client configuration cannot be used: {error}") from error
    settings = profile.to_client_connect_config()
    namespace = profile.namespace or DEFAULT_NAMESPACE
    if profile.address:
        name = os.environ.get("TEMPORAL_PROFILE", "default")
        source = "TEMPORAL_ADDRESS" if os.environ.get("TEMPORAL_ADDRESS") else f"profile {name!r}"
        return Target(profile.address, namespace, source, embedded=False, settings=settings)
    run = read_run(paths.run_file)
    if run.server is not None:
        return target_of(run.server)
    return Target(DEFAULT_ADDRESS, namespace, "default", embedded=False, settings=settings)


def target_of(server: ServerProcess) -> Target:
    """Return the target for an embedded server.

    Nothing of a profile is in it: a namespace, key or certificate there is for the server that the profile names.
    """
    return Target(server.address, DEFAULT_NAMESPACE, "podctl up", embedded=True, settings={})


async def connect(paths: PodctlPaths | None = None, *, plugins: Sequence[Plugin] = ()) -> Client:
    """Return a client that speaks with our workflows; raises NoServer within three seconds when no server answers.

    A worker brings the project's plugin. Without it no workflow is loaded, which takes longer than most commands.
    """
    chosen = target(paths or PodctlPaths.from_environment())
    return await connect_to(chosen, plugins=plugins, data_converter=pydantic_data_converter)


async def connect_to(
    chosen: Target, *, plugins: Sequence[Plugin] = (), data_converter: DataConverter = DataConverter.default
) -> Client:
    """Return a client for ``chosen``, by default without anything of ours; raises NoServer as ``connect`` does."""
    settings: ClientConnectConfig = {**chosen.settings, "target_host": chosen.address, "namespace": chosen.namespace}
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await Client.connect(**settings, plugins=plugins, data_converter=data_converter)
    except TimeoutError as error:
        raise NoServer(_no_server(chosen, f"no answer within {CONNECT_TIMEOUT:g} s")) from error
    except RuntimeError as error:
        raise NoServer(_no_server(chosen, _reason(error))) from error


def _no_server(chosen: Target, reason: str) -> str:
    where = f"no Temporal server at {chosen.address} ({chosen.source}): {reason}"
    if chosen.embedded:
        return f"{where}. `podctl up` starts it again; nothing is lost"
    if chosen.source == "default":
        return f"{where}. `podctl up` starts one on this machine; TEMPORAL_ADDRESS or a profile names another"
    return f"{where}. Check {chosen.source}, or unset it to use the server of `podctl up`"


def _reason(error: RuntimeError) -> str:
    """Return the part of the SDK's message that means something to a person."""
    text = str(error)
    if "ConnectionRefused" in text:
        return "connection refused"
    if "dns error" in text:
        return "unknown host name"
    return text[:300]
