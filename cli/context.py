"""What commands begin with: the user's folders, the client, the pod that is meant, who speaks."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.complete import complete_pod

if TYPE_CHECKING:
    from podctl.client import PodctlClient
    from podctl.paths import PodctlPaths
    from podctl.pods_file import PodsFile

AsOption = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who says so; else `user` of config.toml, or the login name.")
]
PodOption = Annotated[
    str | None,
    typer.Option("--pod", metavar="POD", autocompletion=complete_pod, help="The GPU pod; else the active one."),
]


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


def chosen_pod(name: str | None) -> str:
    """Return the pod that was named, else the active one. A name is not looked up: the server knows what there is."""
    return name or pods_file().read().choose(None)


async def open_client() -> "PodctlClient":
    """Return the client, connected. Raises ``NoServer``."""
    from podctl.client import PodctlClient
    from podctl.connection import connect

    return PodctlClient(await connect(user_paths()))
