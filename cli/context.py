"""What commands begin with: the user's folders, the client, the pod that is meant, who speaks."""

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from podctl.client import PodctlClient
    from podctl.paths import PodctlPaths
    from podctl.pods_file import PodsFile

#: Set by the program itself. The SDK's runtime belongs to the whole process: where others use it too, it is theirs.
own_process = False


def user_paths() -> "PodctlPaths":
    """Return the user's folders."""
    from podctl.paths import PodctlPaths

    return PodctlPaths.from_environment()


def pods_file() -> "PodsFile":
    """Return the user's `pods.json`."""
    from podctl.pods_file import PodsFile

    return PodsFile(user_paths().pods_file)


def speaker(name: str | None) -> str:
    """Return who a command is from."""
    from podctl.identity import sender

    return sender(user_paths(), name)


def checked_server_name(name: str | None) -> str | None:
    """Refuse what no server can be called, before anybody is asked."""
    from domain.ids import check_name

    return name if name is None else check_name("model server", name)


def chosen_pod(name: str | None) -> str:
    """Return the pod that was named, else the active one. A name is not looked up: the server knows what there is."""
    return name or pods_file().read().choose(None)


async def open_client() -> "PodctlClient":
    """Return the client, connected. Raises ``NoServer``."""
    from podctl.client import PodctlClient
    from podctl.connection import connect

    if own_process and not os.environ.get("PODCTL_DEBUG"):
        _silence_the_sdk()
    return PodctlClient(await connect(user_paths()))


@cache
def _silence_the_sdk() -> None:
    """Keep the SDK's own log from the user's terminal: what goes wrong is raised, and told once, in our words."""
    import logging

    from temporalio.runtime import Runtime, TelemetryConfig

    logging.getLogger("temporalio").setLevel(logging.CRITICAL + 1)
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)))
