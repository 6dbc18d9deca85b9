"""The table of commands: what `podctl explain` and the docs say of each, against the models and the rules."""

import ast
from pathlib import Path

import pytest

from domain.errors import BadInput
from domain.task.command_fields import FIELDS, field_of
from domain.task.commands import CreateWorkstream, Envelope, MarkRead, SetPriority, SkipWorkstream, UpdateSpec
from domain.task.models import Priority
from domain.task.rejections import COMMON, REJECTIONS
from domain.task.rules import RULES
from podctl.command_input import read_command
from podctl.explain import COMMANDS, explain, pages
from tools.task_docs import PAGES

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_pages_of_tasks_are_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run: python tools/task_docs.py"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_has_a_meaning_and_the_example_works(command: str) -> None:
    fields = [name for name in COMMANDS[command].model_fields if name != "type"]
    assert [name for name in fields if field_of(command, name) is None] == []
    page = explain(command)
    assert page.meaning
    assert page.example["type"] == command
    Envelope.model_validate({"command_id": "c1", "by": "ann", "command": page.example})


def test_every_command_has_a_rule_with_senders_and_phases() -> None:
    assert RULES.keys() == set(COMMANDS.values())
    for page in pages():
        assert page.senders
        assert page.phases


def test_no_meaning_is_left_over() -> None:
    used = {
        f"{command}.{name}" if f"{command}.{name}" in FIELDS else name
        for command, kind in COMMANDS.items()
        for name in kind.model_fields
    }
    assert FIELDS.keys() <= used


def test_every_refusal_of_the_rules_is_in_the_table() -> None:
    found: dict[str, str] = {}
    for path in sorted((ROOT / "domain" / "task").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Rejected" | "Problem"), args=[ast.Constant(value=str(code)), *_]):
                    found[code] = f"{path.name}:{node.lineno}"
    missing = {code: where for code, where in found.items() if code not in REJECTIONS}
    assert not missing, f"add to domain/task/rejections.py, then run python tools/task_docs.py: {missing}"


def test_every_refusal_of_the_table_stands_in_the_rules() -> None:
    sources = [*(ROOT / "domain").rglob("*.py"), *(ROOT / "workflows").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path.name != "rejections.py")
    assert [code for code in REJECTIONS if f'"{code}"' not in text] == []
    assert list(REJECTIONS) == sorted(REJECTIONS)
    assert set(COMMON) <= REJECTIONS.keys()


def test_the_refusals_of_a_command_are_those_its_rule_can_reach() -> None:
    assert set(explain("update_spec").rejections) == {"content_too_long", "stale_revision"}
    assert {"spec_empty", "already_approved", "stale_revision"} <= explain("approve_spec").rejections.keys()
    # An answer is carried out, and meets what that meets.
    assert {"invalid_choice", "workstream_not_finished"} <= explain("give_approval").rejections.keys()
    assert "dependency_cycle" in explain("create_workstream").rejections
    assert not explain("evaluate").rejections


def test_every_code_of_the_table_belongs_to_a_command_or_to_all() -> None:
    told = {code for page in pages() for code in page.rejections} | set(COMMON)
    no_command_yet = {"unknown_signal", "unknown_update", "wrong_argument_count", "wrong_payload"}
    assert REJECTIONS.keys() - told == no_command_yet


def test_fields_are_given_as_options() -> None:
    assert read_command("set_priority", ["--ws-id", "docs", "--priority=high"], None) == SetPriority(
        ws_id="docs", priority=Priority.HIGH
    )
    assert read_command("mark_read", ["--ids", "m-1", "--ids", "m-2"], None) == MarkRead(ids=("m-1", "m-2"))
    assert read_command("skip_workstream", ["--ws-id", "a", "--with-dependents", "true"], None) == SkipWorkstream(
        ws_id="a", with_dependents=True
    )
    # What looks like an option or like JSON is text where text is meant.
    assert read_command("update_spec", ["--content", '{"a": 1}'], None) == UpdateSpec(content='{"a": 1}')
    assert read_command("update_spec", ["--content", "--"], None) == UpdateSpec(content="--")


def test_an_object_is_given_as_json() -> None:
    draft = '{"id": "docs", "title": "The docs", "executor": {"type": "signal"}}'
    by_option = read_command("create_workstream", ["--workstream", draft], None)
    assert isinstance(by_option, CreateWorkstream)
    assert by_option == read_command("create_workstream", [], f'{{"workstream": {draft}}}')
    assert by_option.workstream.id == "docs"


@pytest.mark.parametrize(
    ("command", "options", "document", "says"),
    [
        ("aprove_spec", [], None, "did you mean approve_spec"),
        ("run_stopped", ["--run-id", "x"], None, "not a person's"),
        ("set_priority", ["--wsid", "x"], None, "--ws-id, --priority"),
        ("set_priority", ["docs"], None, "no option 'docs'"),
        ("set_priority", ["--type", "x"], None, "no option"),
        ("set_priority", ["--ws-id"], None, "needs a value"),
        ("set_priority", ["--ws-id", "docs"], None, "priority: Field required"),
        ("set_priority", ["--ws-id", "docs", "--priority", "urgent"], None, "'low', 'normal' or 'high'"),
        ("set_priority", ["--ws-id", "docs"], "{}", "not both"),
        ("set_priority", [], "{", "not JSON"),
        ("set_priority", [], "[]", "one JSON object"),
        ("set_priority", [], '{"type": "evaluate"}', "'evaluate'"),
        ("update_plan", ["--plan", "{"], None, "--plan: this is not JSON"),
        ("update_plan", [], '{"plan": {"workstream": []}}', "plan.workstream"),
    ],
)
def test_what_is_typed_wrong_is_told_with_what_is_right(
    command: str, options: list[str], document: str | None, says: str
) -> None:
    with pytest.raises(BadInput) as caught:
        read_command(command, options, document)
    assert says in str(caught.value)
