"""Writes `docs/commands.md` and `docs/events.md` from the rules: ``python tools/task_docs.py`` (tests hold them)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"

_COMMANDS = """\
# What can be asked of a task

Written by `python tools/task_docs.py` from the rules; don't edit it by hand. `podctl explain COMMAND` says the same at
the command line, with every field of every object.

Each command is sent as an update (`execute`) by podctl or a program, and counts once: the same `command_id` again
changes nothing. One that is refused leaves no trace and changes nothing; the refusal has a code and says what is wrong.
What people do most also goes as a signal ([signals.md](signals.md)), which needs no worker. `podctl task send TASK
COMMAND` gives any command of a person's as it is.

Who: a `person` is anybody outside, agents and programs included; a `pod` is a GPU pod, by its own signal; `podctl` is
the scheduler, and the reports of activities.
"""

_EVENTS = """\
# The event log

Written by `python tools/task_docs.py` from `domain/task/events.py`; don't edit it by hand.

The history of a task's workflow is its event log. `podctl events TASK` reads it, over all runs of the workflow, without
a worker; `-o json` prints one object a line, `--since SEQ` begins after a number, `--follow` goes on as events happen.
Events have gapless numbers from 1. What is past the server's retention is said (`events 1 to 812`), not missing; the
approvals stand in the task's state as well (`podctl task show`).

Every event has `sequence`, `type`, `at`, `by` (who said so), `command_id`, `payload`, and `client` (who the history
says sent the command). A field of a payload that says nothing may be left out. New types and fields may come with a new
version; a program skips what it does not know.
"""


def commands_page() -> str:
    """Return the whole page of commands."""
    from domain.task.rejections import COMMON, REJECTIONS
    from podctl.explain import CommandPage, FieldPage, pages

    def field(one: FieldPage) -> str:
        default = "" if one.required or one.default in (None, "", [], {}) else f" Default: `{json.dumps(one.default)}`."
        return f"| `{one.name}`{' *' if one.required else ''} | {cell(one.type)} | {cell(one.meaning + default)} |"

    def section(page: CommandPage) -> Iterator[str]:
        yield f"### `{page.command}`"
        yield ""
        yield f"{page.meaning} Who: {', '.join(page.senders)}. Phases: {phases(page.phases)}."
        yield ""
        if page.fields:
            yield "| field | type | meaning |"
            yield "|---|---|---|"
            yield from (field(one) for one in page.fields)
            yield ""
        yield f"`{json.dumps(page.example, ensure_ascii=False)}`"
        yield ""
        if page.rejections:
            yield f"Refused with {', '.join(f'`{code}`' for code in page.rejections)}."
            yield ""

    lines = [_COMMANDS, "## Commands", "", "Fields with * must be given.", ""]
    for page in pages():
        lines += section(page)
    lines += ["## Refusals", "", f"Every command can meet {', '.join(f'`{code}`' for code in COMMON)}.", ""]
    lines += ["| code | meaning |", "|---|---|"]
    lines += [f"| `{code}` | {cell(meaning)} |" for code, meaning in REJECTIONS.items()]
    return "\n".join([*lines, ""])


def events_page() -> str:
    """Return the whole page of events."""
    from domain.task.events import EVENTS

    rows = [
        f"| `{name}` | {cell(event.meaning)} | {', '.join(f'`{field}`' for field in event.fields)} |"
        for name, event in EVENTS.items()
    ]
    return "\n".join([_EVENTS, "| type | meaning | payload |", "|---|---|---|", *rows, ""])


def phases(names: tuple[str, ...]) -> str:
    """Return phases in few words."""
    from domain.task.models import FINAL_PHASES, Phase

    live = {phase.value for phase in set(Phase) - FINAL_PHASES}
    if set(names) == {phase.value for phase in Phase}:
        return "all"
    return "all but the final ones" if set(names) == live else ", ".join(names)


def cell(text: str) -> str:
    """Return text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {DOCS / "commands.md": commands_page, DOCS / "events.md": events_page}

if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    for path, page in PAGES.items():
        path.write_text(page(), encoding="utf-8")
