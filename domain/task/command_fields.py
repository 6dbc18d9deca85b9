"""What the fields of commands mean, each with a value that shows what it looks like."""

from typing import NamedTuple

from pydantic import JsonValue


class Field(NamedTuple):
    """One field of a command."""

    meaning: str
    example: JsonValue


_PLAN: JsonValue = {
    "summary": "one part",
    "workstreams": [{"id": "docs", "title": "The docs", "executor": {"type": "signal"}}],
}

#: By name; ``command.name`` where a command means something else by it.
FIELDS: dict[str, Field] = {
    "acceptance_criteria": Field("How it is told that the work is done, one each.", ["the tests pass"]),
    "action": Field("What is to be done, once it is granted.", {"type": "merge"}),
    "action_id": Field("The action's id.", "action-1"),
    "agent_id": Field("The agent's id.", "writer-1"),
    "agent_type": Field("What the agent does.", "workstream"),
    "anchor": Field(
        "The place in the document; left out: the whole document.",
        {"selected_text": "All of it.", "line_start": 3, "line_end": 3},
    ),
    "attempt": Field("The attempt that this is about; left out: the one under way.", 1),
    "base_revision": Field("The revision that was edited; refused if there is a newer one.", 1),
    "basis": Field("The input that the agent is started for.", "spec/1"),
    "blocking": Field("Whether work waits for the answer.", True),
    "body": Field("The pull request's description.", "What was done, and why."),
    "branch": Field("The branch that is to be merged.", "podctl/leaflet"),
    "choice": Field("One of the question's options.", "retry"),
    "code": Field("The refusal's code.", "unknown_pod"),
    "comment": Field("Kept with it, for people.", "well done"),
    "config": Field("All settings; those left out get their default.", {"max_concurrent": 5}),
    "content": Field("What is said, in markdown.", "How is it going?"),
    "detail": Field("Anything else that people should know.", "waits for its checks"),
    "document": Field("Which document it is about.", "spec"),
    "error": Field("Why it failed; the last 4 KB are kept.", "the tests fail"),
    "escalated": Field("Whether it was because the item had been escalated.", False),
    "eta": Field("When it is expected, in words.", "next week"),
    "executor": Field("Who or what does the work.", {"type": "signal"}),
    "gate": Field("Which, where more than one thing waits.", "plan"),
    "ids": Field("Messages and inbox items.", ["m-1"]),
    "instructions": Field("What to do beyond the obvious, in words.", "keep it to one page"),
    "interrupted": Field("Nobody saw how it ended.", False),
    "item_id": Field("The item's id.", "handbook"),
    "escalate.item_id": Field("The inbox item's id.", "gate/spec"),
    "notified.item_id": Field("The inbox item's id.", "gate/spec"),
    "launch_id": Field("Which launch of the server it is about.", "gpu1/coder/1"),
    "message": Field("What the refusal says.", "there is no GPU pod gpu1"),
    "message_id": Field("The message's id.", "m-1"),
    "message_type": Field("What kind of message it is.", "question"),
    "name": Field("The model server's name.", "coder"),
    "number": Field("The pull request's number.", 7),
    "options": Field("What can be answered.", ["yes", "no"]),
    "phase_id": Field("The id of the tracker's phase.", "first"),
    "phases": Field(
        "The board's phases, in order, each with its items.",
        [{"phase_id": "first", "name": "First", "items": [{"item_id": "handbook", "summary": "The handbook"}]}],
    ),
    "plan": Field("The whole plan, as a plan file says it.", _PLAN),
    "pod": Field("The GPU pod.", "gpu1"),
    "priority": Field("Which one starts first.", "high"),
    "reason": Field("Why; it is kept with the task.", "not needed any more"),
    "agent_failed.recoverable": Field(
        "Nothing took effect: it may be tried again by itself; left out: unless it works on a workstream.", False
    ),
    "recoverable": Field("Nothing took effect: it may be tried again by itself.", True),
    "requirements": Field("What must hold, one each.", ["it fits one page"]),
    "result": Field("What came of it.", {"text": "written", "artifacts": ["docs/index.md"]}),
    "revision": Field("The revision that was read; refused if there is a newer one.", 1),
    "run_id": Field("The run's id.", "leaflet/docs/1"),
    "state": Field("What has become of it.", "open"),
    "status": Field("How far it is.", "done"),
    "server_changed.status": Field("What has become of the server.", "ready"),
    "text": Field("The spec or the report that it wrote.", "# What is wanted"),
    "thread_id": Field("The message that this answers.", "m-1"),
    "reply_to_thread.thread_id": Field("The review thread's id.", "t-1"),
    "resolve_thread.thread_id": Field("The review thread's id.", "t-1"),
    "reopen_thread.thread_id": Field("The review thread's id.", "t-1"),
    "title": Field("The pull request's title.", "A leaflet about kitchen timers"),
    "to": Field("The phase to move to.", "planning"),
    "update_spec.content": Field("The whole spec, in markdown; up to 256 KB.", "# What is wanted\n\nA leaflet.\n"),
    "url": Field("Where it can be looked at.", "https://example.org/pull/7"),
    "with_dependents": Field("Whether what depends on it is left out too.", True),
    "workstream": Field(
        "The workstream, as a plan file says it.", {"id": "docs", "title": "The docs", "executor": {"type": "signal"}}
    ),
    "workstream_id": Field("The workstream that it is about.", "docs"),
    "set_item_status.workstream_id": Field(
        "The workstream that speaks: an item's owner alone says how far it is.", "docs"
    ),
    "ws_id": Field("The workstream's id.", "docs"),
}


def field_of(command: str, name: str) -> Field | None:
    """Return what a command's field means, or None if nobody has said so."""
    return FIELDS.get(f"{command}.{name}", FIELDS.get(name))
