"""`podctl schema`: what files may say, for editors and programs."""

from enum import StrEnum
from typing import Annotated

import typer


class FileKind(StrEnum):
    """The files that people write."""

    PLAN = "plan"
    CONFIG = "config"


def register(parent: typer.Typer) -> None:
    """Add this command to the program."""
    parent.command(rich_help_panel="Tasks")(schema)


def schema(
    kind: Annotated[FileKind, typer.Argument(metavar="FILE", help="plan, or config (a task's settings).")],
) -> None:
    """Print the JSON schema of plan files, or of the files of a task's settings. Editors check YAML with it, too."""
    from cli.output import print_json
    from podctl.file_schemas import file_schema

    print_json(file_schema(kind.value))
