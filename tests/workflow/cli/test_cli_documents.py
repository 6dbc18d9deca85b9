"""`podctl spec`, `plan`, `thread`, `schema`: what people write, in their editor or from files, and what they remark."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from domain.task.commands import AgentDone, RegisterAgent, UpdatePlan, UpdateSpec
from domain.task.models import AgentType
from domain.task.plan_file import read_plan
from podctl.client import PodctlClient
from tests.workflow.cli.pty_harness import at_terminal
from tests.workflow.cli.support import CommandLine

SPEC = "# Wish\n\nA page.\nIt is blue.\n"
PLAN = """\
summary: two parts
workstreams:
  - id: first
    title: First
    executor: signal
  - id: second
    title: Second
    depends_on: [first]
    executor: signal
"""
#: An editor without a screen: what it shows is kept, what it is told (a list, one for each time) is replaced.
EDITOR = """
import json, pathlib, sys
edits, seen, file = (pathlib.Path(argument) for argument in sys.argv[1:])
text = file.read_text()
with seen.open("a") as log:
    log.write(json.dumps(text) + "\\n")
first, *rest = json.loads(edits.read_text())
edits.write_text(json.dumps(rest))
if first is None:
    sys.exit(3)
for before, after in first:
    assert before in text, (before, text)
    text = text.replace(before, after)
file.write_bytes(text.encode("utf-8", "surrogateescape"))
"""


class Editor:
    """The user's editor: what it does the next times, and what it showed."""

    def __init__(self, folder: Path, podctl: CommandLine) -> None:
        self._edits, self._seen = folder / "edits.json", folder / "seen.jsonl"
        program = folder / "editor.py"
        program.write_text(EDITOR)
        podctl.environment["VISUAL"] = f"{sys.executable} '{program}' '{self._edits}' '{self._seen}'"
        podctl.environment["TMPDIR"] = str(folder)

    def will(self, *edits: list[tuple[str, str]] | None) -> None:
        self._edits.write_text(json.dumps(edits))

    @property
    def left_over(self) -> list[Path]:
        """The files that were edited and are still there."""
        return list(self._edits.parent.glob("podctl-*"))

    @property
    def seen(self) -> list[str]:
        return [json.loads(line) for line in self._seen.read_text().splitlines()]


@pytest.fixture
def editor(tmp_path: Path, podctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Editor:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Editor(tmp_path, podctl)


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path) -> str:
    name = unique("task")
    (tmp_path / "spec.md").write_text(SPEC)
    (tmp_path / "plan.yaml").write_text(PLAN)
    files = ("--spec", str(tmp_path / "spec.md"), "--plan", str(tmp_path / "plan.yaml"))
    await podctl("task", "create", "A title", "--id", name, *files, "--as", "ann")
    return name


def kept(errors: str) -> str:
    """Return what stands in the file that a command says it kept."""
    found = re.search(r"what you wrote is in (\S+)", errors)
    assert found is not None, errors
    assert Path(found[1]).stat().st_mode & 0o777 == 0o600
    return Path(found[1]).read_text(errors="surrogateescape")


async def test_a_spec_is_edited_and_what_stands_on_top_is_no_part_of_it(
    podctl: CommandLine, editor: Editor, task: str
) -> None:
    editor.will([("A page.", "Two pages.")])
    done = await podctl("spec", "edit", task, "--as", "ann")
    assert done.output == f"task {task}: spec revision 2 is written, by ann\n"
    [shown] = editor.seen
    assert f"The spec of task {task}, revision 1." in shown
    assert shown.endswith(f"-->\n{SPEC}")
    assert (await podctl("spec", "show", task)).output == SPEC.replace("A page.", "Two pages.")
    shown_as_json = await podctl.json("spec", "show", task)
    assert (shown_as_json["revision"], shown_as_json["text"]) == (2, SPEC.replace("A page.", "Two pages."))
    assert not editor.left_over


async def test_what_is_left_as_it_is_or_emptied_changes_nothing(podctl: CommandLine, editor: Editor, task: str) -> None:
    editor.will([], [(SPEC, "")], None)
    assert "the text is as it was" in (await podctl("spec", "edit", task)).errors
    assert "the text is empty" in (await podctl("spec", "edit", task)).errors
    assert "ended with status 3" in (await podctl("spec", "edit", task, status=1)).errors
    assert (await podctl.json("spec", "show", task))["revision"] == 1
    assert not editor.left_over


async def test_what_was_written_is_kept_where_the_editor_fails_at_last(
    podctl: CommandLine, editor: Editor, task: str
) -> None:
    editor.will([("title: First", "titel: First")], None)
    failed = await podctl("plan", "edit", task, status=1)
    assert "ended with status 3" in failed.errors
    assert "titel: First" in kept(failed.errors)


async def test_an_edit_of_what_has_changed_meanwhile_is_refused_and_kept(
    podctl: CommandLine, editor: Editor, task: str, tmp_path: Path
) -> None:
    # The other one is faster: it writes while the editor is open.
    meanwhile = tmp_path / "meanwhile.py"
    meanwhile.write_text(
        EDITOR + f"\nimport subprocess\nsubprocess.run({_set(podctl, task)!r}, check=True, env={_env(podctl)!r})\n"
    )
    (tmp_path / "other.md").write_text("Somebody else's.\n")
    podctl.environment["VISUAL"] = podctl.environment["VISUAL"].replace("editor.py", "meanwhile.py")
    editor.will([("A page.", "Two pages.")])
    refused = await podctl("spec", "edit", task, status=1)
    assert "error: stale_revision: " in refused.errors
    assert kept(refused.errors) == SPEC.replace("A page.", "Two pages.")
    assert (await podctl("spec", "show", task)).output == "Somebody else's.\n"


def _set(podctl: CommandLine, task: str) -> list[str]:
    folder = podctl.environment["TMPDIR"]
    return [sys.executable, "-m", "cli", "spec", "set", task, f"{folder}/other.md"]


def _env(podctl: CommandLine) -> dict[str, str]:
    return {**os.environ, **podctl.environment}


async def test_a_plan_with_mistakes_is_opened_again_with_them_on_top(
    podctl: CommandLine, editor: Editor, task: str
) -> None:
    editor.will([("title: First", "titel: First")], [("titel: First", "title: Number one")])
    done = await podctl("plan", "edit", task, "--as", "ann")
    assert done.output == f"task {task}: plan revision 2 is written, by ann\n"
    first, second = editor.seen
    assert first.endswith(PLAN)
    top, _, place = second.partition("\n")[0].partition("plan.yaml:")
    line, column, *_ = place.split(":")
    assert top.startswith("#: ")
    # The place is the one that the editor shows, with what stands on top.
    assert "workstreams[0].title: this field is missing" in second
    [wrong] = [
        number for number, text in enumerate(second.split("\n"), 1) if "titel: First" in text and "#" not in text
    ]
    assert f"{task}.plan.yaml:{wrong}:5: workstreams[0].titel: there is no such field" in second
    assert int(line) == wrong - 1
    assert int(column) == 5
    assert "Number one" in (await podctl("plan", "show", task)).output


async def test_a_plan_whose_mistakes_are_left_is_kept_in_a_file(podctl: CommandLine, editor: Editor, task: str) -> None:
    wrong = [("depends_on: [first]", "depends_on: [third]")]
    editor.will(wrong, [])
    refused = await podctl("plan", "edit", task, status=1)
    assert "unknown_dependency" in refused.errors
    assert kept(refused.errors) == PLAN.replace("[first]", "[third]")
    assert (await podctl.json("plan", "show", task))["revision"] == 1


async def test_what_is_not_written_in_this_phase_is_said_before_the_editor_opens(
    podctl: CommandLine, task: str
) -> None:
    podctl.environment["VISUAL"] = "an-editor-that-is-not-there"
    await podctl("signal", "approve-spec", task)
    refused = await podctl("spec", "edit", task, status=1)
    assert refused.errors.startswith("error: invalid_phase: ")
    assert f"podctl spec reopen {task}" in refused.errors
    assert "cannot be started" in (await podctl("plan", "edit", task, status=1)).errors
    await podctl("task", "cancel", task)
    assert (await podctl("plan", "edit", task, status=1)).errors.startswith("error: already_terminal: ")


async def test_a_task_without_a_plan_is_given_the_beginning_of_one(
    podctl: CommandLine, editor: Editor, unique: Callable[[str], str]
) -> None:
    name = unique("task")
    await podctl("task", "create", "Not: planned", "--id", name)
    editor.will([("id: first", "id: one")])
    await podctl("plan", "edit", name)
    assert list((await podctl.json("task", "show", name))["plan"]["workstreams"]) == ["one"]
    assert "not written yet" in (await podctl("spec", "show", name)).output
    editor.will([("change nothing. This comment is no part of the spec.\n-->\n", "-->\nA spec.\n")])
    await podctl("spec", "edit", name)
    assert (await podctl("spec", "show", name)).output == "A spec.\n"


async def test_files_are_written_and_stale_ones_refused(podctl: CommandLine, task: str, tmp_path: Path) -> None:
    file = tmp_path / "new.md"
    file.write_bytes(b"\xef\xbb\xbfNew.\n")
    assert "spec revision 2 is written" in (await podctl("spec", "set", task, str(file), "--revision", "1")).output
    assert (await podctl("spec", "show", task)).output == "New.\n"
    assert "stale_revision" in (await podctl("spec", "set", task, str(file), "--revision", "1", status=1)).errors
    file.write_text(PLAN.replace("First", "Begin"))
    assert (await podctl.json("plan", "set", task, str(file)))["message"] == "plan revision 2 is written"
    file.write_bytes(b"a\nb\xff\n")
    assert f"{file}:2:2: this is not UTF-8 text" in (await podctl("plan", "set", task, str(file), status=2)).errors
    file.write_text("x" * 1_000_000)
    refused = await podctl("spec", "set", task, str(file), status=1)
    assert "content_too_long: the spec is 1,000,000 bytes, the limit is 262,144" in refused.errors
    assert "put the bulk into a file that the workstreams can read and name it" in refused.errors
    file.write_text("x" * 10_000_000)
    for words in (("spec", "set", task, str(file)), ("task", "create", "T", "--plan", str(file))):
        assert "is larger than 4,194,304 bytes" in (await podctl(*words, status=2)).errors


@pytest.mark.parametrize(
    ("data", "place", "problem"),
    [
        (
            PLAN.replace("title: First", "titel: First\n    title: One"),
            ":4:5",
            "workstreams[0].titel: there is no such field",
        ),
        (PLAN.replace("[first]", "first"), ":8:5", "workstreams[1].depends_on: "),
        (PLAN.replace("id: first", "id: first\n    depends_on: [second]"), ":4:5", "first -> second -> first"),
        (PLAN.replace("id: second", "id: first"), ":6:5", "'first' stands twice"),
        (PLAN.replace("executor: signal", "executor: magic"), ":5:5", "workstreams[0].executor: "),
        (PLAN.replace("title: First", "title: First: Second"), ":4:17", "this is not YAML"),
        (PLAN.replace("title: First", "title: First\n    title: One"), ":5:5", "stands here for the second time"),
        (PLAN.replace("title: First", "\ttitle: First"), ":4:5", "this is not YAML"),
        (PLAN.replace("title: First", "title: First\0"), ":4:17", "U+0000"),
        (PLAN.replace("title: First", "title: !!python/object/apply:os.system [x]"), ":4:12", "is not allowed here"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", ":1:4", "anchors and aliases are not allowed"),
        ("a: " + "[" * 50_000, ":1:23", "nested deeper"),
        (PLAN.encode("utf-16"), ":1:1", "this is not UTF-8 text"),
        (PLAN.replace("First", "F\udcff"), ":4:13", "this is not UTF-8 text"),
        ("", "", "the file is empty"),
    ],
    ids=[*map(str, range(15))],
)
async def test_a_plan_file_that_cannot_be_used_is_told_with_its_place(
    podctl_without_worker: CommandLine, tmp_path: Path, data: str | bytes, place: str, problem: str
) -> None:
    file = tmp_path / "plan.yaml"
    file.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogateescape"))
    done = await podctl_without_worker("task", "create", "T", "--plan", str(file), status=2)
    assert f"error: {file}{place}: " in done.errors
    assert problem in done.errors


async def test_a_plan_is_shown_as_its_file_and_as_a_tree(
    podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("task")
    file = tmp_path / "plan.yaml"
    parts = {"a": "", "b": "a", "c": "a", "d": "b, c", "e": ""}
    file.write_text(
        "workstreams:\n"
        + "".join(
            f"  - {{id: {part}, title: Part {part}, depends_on: [{after}], executor: signal}}\n"
            for part, after in parts.items()
        )
    )
    await podctl("task", "create", "T", "--id", name, "--plan", str(file))
    written = (await podctl("plan", "show", name)).output
    assert read_plan(written, "plan.yaml") == read_plan(file.read_text(), "plan.yaml")
    tree = (await podctl("plan", "show", name, "--tree")).output.splitlines()
    assert tree[0].startswith(f"plan of task {name}  revision 1")
    assert tree[1:] == [
        "a  planned  Part a",
        "├─ b  planned  Part b",
        "└─ c  planned  Part c",
        "   └─ d  planned  Part d  after b",
        "e  planned  Part e",
    ]


async def test_remarks_stay_with_their_lines(podctl: CommandLine, working: PodctlClient, task: str) -> None:
    begun = await podctl("thread", "comment", task, "spec", "Which size?", "--lines", "3", "--as", "rita")
    assert begun.output == f"task {task}: thread t-1 is begun, by rita\n"
    await podctl("thread", "comment", task, "spec", "Why blue?", "--text", "blue")
    await podctl("thread", "comment", task, "plan", "One more?")
    await working.execute_task(
        task, UpdateSpec(content="New.\n\n" + SPEC.replace("It is blue.", "It is red.")), by="bob"
    )
    rows = [line.split() for line in (await podctl("thread", "list", task)).output.splitlines()]
    assert [row[:4] for row in rows[1:]] == [
        ["t-1", "spec:5", "open", "rita"],
        ["t-2", "spec:4", "outdated", rows[2][3]],
        ["t-3", "plan", "open", rows[3][3]],
    ]
    await podctl("thread", "reply", task, "t-1", "A4.", "--as", "ann")
    shown = (await podctl("thread", "show", task, "t-1")).output
    for words in ("t-1  spec:5, open", "  > A page.", "rita, ", "  Which size?", "ann, ", "  A4."):
        assert words in shown
    assert "this text is no longer there" in (await podctl("thread", "show", task, "t-2")).output
    await podctl("thread", "resolve", task, "t-1")
    assert [thread["thread_id"] for thread in await podctl.json("thread", "list", task, "--document", "spec")] == [
        "t-2"
    ]
    everything = await podctl.json("thread", "list", task, "--all")
    assert [thread["resolved"] for thread in everything] == [True, False, False]
    await podctl("thread", "reopen", task, "t-1")
    assert "review_thread_reopened" in (await podctl("events", task)).output


async def test_a_document_is_shown_on_a_terminal_with_its_remarks(podctl: CommandLine, task: str) -> None:
    await podctl("thread", "comment", task, "spec", "Which size?", "--lines", "3-4", "--as", "rita")
    async with podctl.on_terminal("spec", "show", task) as terminal:
        await terminal.shows("Which size?")
        assert await terminal.ended() == 0
    lines = terminal.text.replace("\r", "").splitlines()
    assert f"spec of task {task}  revision 1" in lines[0]
    assert lines[1:5] == ["1   # Wish", "2   ", "3 ▌ A page.", "4 ▌ It is blue.  ◀ t-1"]


async def test_remarks_on_what_is_not_there_are_refused(podctl: CommandLine, working: PodctlClient, task: str) -> None:
    say = ("thread", "comment", task, "spec", "Hm.")
    assert "write 3, or 3-5" in (await podctl(*say, "--lines", "4-3", status=2)).errors
    assert "anchor_not_found: " in (await podctl(*say, "--lines", "9", status=1)).errors
    assert "anchor_not_found: " in (await podctl(*say, "--text", "red", status=1)).errors
    assert (
        "stand in lines 1, 4 of the spec: say which with --lines"
        in (await podctl(*say, "--text", "is", status=2)).errors
    )
    assert "document_empty: " in (await podctl("thread", "comment", task, "report", "Hm.", status=1)).errors
    assert "thread_not_found: " in (await podctl("thread", "show", task, "t-9", status=1)).errors
    await working.execute_task(task, UpdatePlan(plan=read_plan(PLAN, "p")), by="bob")
    stale = await podctl("thread", "comment", task, "plan", "Hm.", "--lines", "3", "--revision", "1", status=1)
    assert "stale_revision: " in stale.errors
    empty = await podctl("thread", "list", task)
    assert "podctl thread comment" in empty.output


async def test_a_report_is_read_and_remarked_on(podctl: CommandLine, working: PodctlClient, task: str) -> None:
    assert "the report of task" in (await podctl("report", task)).output
    await podctl("signal", "approve-spec", task)
    await podctl("signal", "approve-plan", task)
    for part in ("first", "second"):
        await podctl("signal", "workstream-result", task, part)
    reviewer = RegisterAgent(agent_id="rita", agent_type=AgentType.REVIEWER)
    await working.execute_task(task, reviewer, by="rita")
    await working.execute_task(task, AgentDone(agent_id="rita", text="# Report\n\nFine.\n"), by="rita")
    assert (await podctl("report", task)).output == "# Report\n\nFine.\n"
    await podctl("thread", "comment", task, "report", "Really?", "--text", "Fine.")
    shown = await podctl.json("report", task)
    assert (shown["revision"], shown["updated_by"]) == (1, "rita")
    assert shown["threads"][0]["anchor"]["line_start"] == 3


async def test_an_edit_that_no_worker_takes_is_kept(
    podctl_without_worker: CommandLine, tmp_path: Path, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("podctl.client.ANSWER_TIMEOUT", 0.2)
    name = unique("task")
    (tmp_path / "spec.md").write_text(SPEC)
    await podctl_without_worker("task", "create", "T", "--id", name, "--spec", str(tmp_path / "spec.md"))
    Editor(tmp_path, podctl_without_worker).will([("A page.", "Two pages.")])
    done = await podctl_without_worker("spec", "edit", name, status=1)
    assert "no worker answered" in done.errors
    assert kept(done.errors) == SPEC.replace("A page.", "Two pages.")


async def test_ctrl_c_in_the_editor_is_the_editors(podctl: CommandLine, task: str, tmp_path: Path) -> None:
    program = tmp_path / "editor.py"
    program.write_text(
        "import os, pathlib, select, signal, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'not now'))\n"
        "os.write(1, b'editing')\n"
        # Python looks after a signal that comes just before it begins to read only when it has read.
        "while not select.select([0], [], [], 0.05)[0]: pass\n"
        "pathlib.Path(sys.argv[1]).write_text(sys.stdin.readline())\n"
    )
    podctl.environment["VISUAL"] = f"{sys.executable} '{program}'"
    async with at_terminal(podctl, "spec", "edit", task) as terminal:
        await terminal.shows("editing")
        terminal.type("\x03")
        await terminal.shows("not now")
        terminal.type("Typed.\n")
        await terminal.shows("spec revision 2 is written")
        assert await terminal.ended() == 0
    assert (await podctl("spec", "show", task)).output == "Typed.\n"


async def test_schemas_are_of_what_files_may_say(podctl: CommandLine) -> None:
    plan = json.loads((await podctl("schema", "plan")).output)
    assert set(plan["properties"]) == {"summary", "model_servers", "workstreams"}
    executor = plan["$defs"]["WorkstreamDraft"]["properties"]["executor"]
    assert {"const": "signal"} in executor["anyOf"]
    memory = plan["$defs"]["ModelServerDraft"]["properties"]["memory"]
    assert {"type": "string"} in memory["anyOf"]
    config = json.loads((await podctl("schema", "config")).output)
    assert {"gates", "agents", "notify", "max_concurrent"} <= set(config["properties"])
