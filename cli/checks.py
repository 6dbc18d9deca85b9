"""What `podctl doctor` and `podctl pods doctor` print of their checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cli.output import FAILED, Format, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from podctl.doctor import Check


def print_checks(checks: Sequence[Check], output: Format) -> None:
    """Print each check, and what to do; exit with 1 if one failed."""
    from podctl.doctor import Result

    if output is Format.JSON:
        print_json(checks)
    else:
        rows = [(check.name, check.result, check.found) for check in checks]
        print_table(("check", "result", "found"), rows, empty="")
        for check in checks:
            if check.advice:
                print(f"{check.name}: {check.advice}")
    if any(check.result is Result.FAILED for check in checks):
        raise typer.Exit(FAILED)
