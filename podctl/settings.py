"""Changing a task's settings, so that nobody's change is lost: what others change at the same moment stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from domain.task.commands import ChangeConfig
from podctl.client import PodctlClient, Refused
from podctl.task_input import changed_config

#: How often settings are read and changed before it is told that others keep changing them.
TRIES = 3


@dataclass(frozen=True)
class SettingsChanged:
    """What came of it: the names of the settings that are other ones now."""

    command_id: str
    names: tuple[str, ...]


async def change_settings(
    client: PodctlClient, task_id: str, file: Path | None, changes: Sequence[str], *, by: str
) -> SettingsChanged:
    """Change the settings of a task as ``changed_config`` makes them of those that it has. Raises as that, ``Refused``.

    Single settings are put into what somebody else has made of the others meanwhile; a file is not, for it is all of
    them.
    """
    tries = 1 if file is not None else TRIES
    while True:
        tries -= 1
        state = await client.task(task_id)
        after = changed_config(state.config, file, changes)
        try:
            outcome = await client.execute_task(
                task_id, ChangeConfig(config=after, base_revision=state.config_revision), by=by
            )
        except Refused as refused:
            if refused.code != "stale_revision" or not tries:
                raise
            continue
        names = tuple(name for name in type(after).model_fields if getattr(after, name) != getattr(state.config, name))
        return SettingsChanged(command_id=outcome.command_id, names=names)
