"""`podctl task`, `signal`, `inbox`, `events`: a task from wish to completed, and what is refused on the way."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from domain.task.commands import RequestAction, RequestApproval, UpdateSpec
from domain.task.models import CommandExecutor, RunAction
from podctl.client import PodctlClient
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import eventually

PLAN = """
summary: two parts
workstreams:
  - {id: first, title: First, executor: signal}
  - {id: second, title: Second, depends_on: [first], executor: signal}
"""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.md"
    path.write_text("# What is wanted\n\nAll of *it*.\n")
    return str(path)


@pytest.fixture
async def task(podctl: CommandLine, unique: Callable[[str], str], spec: str, plan: str) -> str:
    name = unique("task")
    await podctl("task", "create", "A title", "--id", name, "--spec", spec, "--plan", plan, "--as", "ann")
    return name


async def test_a_task_from_wish_to_completed(podctl: CommandLine, task: str) -> None:
    approved = await podctl("signal", "approve-spec", task, "--as", "ann")
    shown = await podctl.json("task", "show", task)
    assert (
        f"approving the spec of task {task} (A title): revision 1, digest {shown['spec']['digest']}" in approved.output
    )
    assert "spec approved, by ann" in approved.output
    assert shown["phase"] == "planning"
    assert shown["spec"]["approval"]["by"] == "ann"
    assert shown["spec"]["approval"]["revision_named"] is True

    async def plan_waits() -> bool:
        rows = [row for row in await podctl.json("inbox", "--all") if row["task"] == task]
        return [row["command"] for row in rows] == [f"podctl signal approve-plan {task}"]

    await eventually(plan_waits, "the server's list says that the plan waits")
    report = await podctl.json("signal", "approve-plan", task, "--as", "bob", "--comment", "go")
    assert report == {
        "task": task,
        "signal": "approve-plan",
        "title": "A title",
        "revision": 1,
        "digest": shown["plan"]["digest"],
        "command_id": report["command_id"],
        "status": "accepted",
    }

    await podctl("signal", "message", task, "how is it going?", "--type", "question", "--workstream", "first")
    await podctl("signal", "workstream-result", task, "first", "--result", "done by hand", "--artifact", "out.txt")
    await podctl("signal", "workstream-result", task, "second")

    async def in_review() -> list[dict[str, Any]]:
        rows = [row for row in await podctl.json("task", "list") if row["task"] == task]
        return [row for row in rows if row["phase"] == "review"]

    [row] = await eventually(in_review, "the server's list says that the review waits")
    assert (row["title"], row["progress"]) == ("A title", "2/2")
    assert row["needs_approval"] is True
    await podctl("signal", "approve-review", task)

    shown = await podctl("task", "show", task)
    for words in ("completed", "All of *it*.", "approved by bob", "done by hand", "how is it going?"):
        assert words in shown.output
    assert not any(line.endswith(" ") for line in shown.output.splitlines())
    assert "\x1b" not in shown.output
    assert (await podctl("task", "cancel", task, status=1)).errors.startswith("error: already_terminal")


async def test_the_inbox_is_ones_own_unread_first_and_needs_no_task_to_answer(
    podctl: CommandLine, task: str, unique: Callable[[str], str]
) -> None:
    me = unique("ann")
    other, third = unique("task"), unique("task")
    await podctl("task", "create", "No spec", "--id", other, "--as", me)
    await podctl("task", "create", "No spec", "--id", third, "--as", f'{me} "the \\ boss"')

    async def items(*options: str) -> list[tuple[str, str, bool]]:
        return [(row["task"], row["item"], row["read"]) for row in await podctl.json("inbox", *options)]

    async def found() -> bool:
        return len(await items("--as", me)) == 1

    await eventually(found, "the server's list has the new task")
    assert await items("--as", me) == [(other, "write/spec", False)]
    assert await items("--as", me.upper()) == []
    await podctl("signal", "message", other, "how?", "--type", "question", "--as", "bob")
    read = await podctl("inbox", "read", other, "write/spec", "--as", me)
    assert read.output == f"task {other}: write/spec marked read, by {me}\n"

    async def told() -> bool:
        return await items("--as", me) == [(other, "message/m-1", False), (other, "write/spec", True)]

    await eventually(told, "the unread question comes first")
    assert await items("--as", me, "--unread") == [(other, "message/m-1", False)]

    async def quoted() -> bool:
        return await items("--as", f'{me} "the \\ boss"') == [(third, "write/spec", False)]

    await eventually(quoted, "names with quotes are found too")
    everybody = {row["task"] for row in await podctl.json("inbox", "--all")}
    assert {task, other, third} <= everybody
    assert (await podctl("inbox", "read", other, "no-such", status=1)).errors.startswith("error: message_not_found")
    assert "nothing waits for nobody" in (await podctl("inbox", "--as", "nobody")).output


async def test_the_list_has_what_is_asked_for(podctl: CommandLine, task: str, unique: Callable[[str], str]) -> None:
    over, work = unique("task"), unique("task")
    await podctl("task", "create", "Nothing yet", "--id", work)
    await podctl("task", "create", "Over", "--id", over)
    await podctl("task", "cancel", over)
    mine = {task, over, work}

    async def listed(*options: str) -> set[str]:
        return mine & {row["task"] for row in await podctl.json("task", "list", *options)}

    async def settled() -> bool:
        return await listed() == {task, work} and await listed("--needs-approval") == {task}

    await eventually(settled, "the server's list has all three")
    assert await listed("--all") == mine
    assert await listed("--phase", "cancelled") == {over}
    assert await listed("--phase", "spec_clarification") == {task, work}
    assert await listed("--phase", "spec_clarification", "--needs-approval") == {task}


async def test_settings_are_shown_and_changed_while_the_task_runs(
    podctl: CommandLine, task: str, tmp_path: Path
) -> None:
    shown = await podctl("task", "config", task)
    assert "max_concurrent: 3\n" in shown.output
    changed = await podctl(
        *("task", "config", task, "--as", "bob", "--set", "max_concurrent=5", "--set", "gates.plan=auto"),
        *("--set", "agents.planner=signal", "--set", "notify=[/bin/true, now]", "--set", "escalate_to=bob"),
    )
    assert changed.output == f"task {task}: changed gates, agents, max_concurrent, notify, escalate_to, by bob\n"
    config = await podctl.json("task", "config", task)
    assert (config["max_concurrent"], config["gates"]["plan"], config["escalate_to"]) == (5, "auto", "bob")
    assert config["notify"] == ["/bin/true", "now"]
    assert config["agents"]["planner"] == {"type": "signal"}
    file = tmp_path / "config.yaml"
    file.write_text(shown.output)
    await podctl("task", "config", task, "--file", str(file))
    assert (await podctl("task", "config", task)).output == shown.output
    for wrong, told in (
        ("max_concurrent=many", "max_concurrent: Input should be a valid integer"),
        ("max_concurent=5", "names no setting: write KEY=VALUE; there are gates, agents"),
        ("gates.pln=auto", "there are spec, plan, execution, review"),
        ("gates.plan=maybe", "gates.plan: Input should be"),
        ("notify=[", "the value is not YAML"),
        ("max_concurrent", "write KEY=VALUE"),
    ):
        assert told in (await podctl("task", "config", task, "--set", wrong, status=2)).errors
    assert (await podctl("task", "config", task)).output == shown.output


async def test_a_task_fits_a_terminal_of_eighty_columns_and_says_first_what_it_waits_for(
    podctl: CommandLine, task: str
) -> None:
    for gate in ("spec", "plan"):
        await podctl("signal", f"approve-{gate}", task)
    await podctl("signal", "message", task, "which colour? " * 20, "--type", "question")
    async with podctl.on_terminal("task", "show", task, columns=80) as terminal:
        assert await terminal.ended() == 0
        lines = terminal.text.splitlines()
    assert max(len(line) for line in lines) <= 80
    waits = next(number for number, line in enumerate(lines) if line.strip() == "Waits for")
    assert waits < 6
    shown = "\n".join(lines)
    assert f"podctl signal message {task} 'ANSWER' --reply-to m-1" in shown
    for whole in ("first", "in progress", "pending", "Second (after first; by signal)"):
        assert whole in shown


async def test_on_a_terminal_the_inbox_has_each_command_on_a_line_of_its_own(
    podctl: CommandLine, unique: Callable[[str], str]
) -> None:
    me = unique("ann")
    mine = unique("a-task-with-a-long-name")
    await podctl("task", "create", "T", "--id", mine, "--as", me)
    for words in (("inbox", "--as", me), ("inbox", "--as", me, "--watch")):
        async with podctl.on_terminal(*words, columns=80) as terminal:
            await terminal.shows("the task has no spec yet")
            assert max(len(line) for line in terminal.text.splitlines()) <= 80
            assert f"{mine}  write/spec  " in terminal.text


async def test_the_inbox_can_be_watched(podctl: CommandLine, unique: Callable[[str], str]) -> None:
    me, task = unique("ann"), unique("task")
    async with podctl.started("inbox", "--watch", "--as", me) as watching:
        await podctl("task", "create", "No spec", "--id", task, "--as", me)
        assert "the task has no spec yet" in await watching.line(task)
        watching.interrupt()
        assert (await watching.ended()).status == 130


async def test_events_are_lines_or_json_lines_and_begin_after_since(podctl: CommandLine, task: str) -> None:
    await podctl("signal", "approve-spec", task, "--as", "ann")
    lines = (await podctl("events", task, "-o", "json")).output.splitlines()
    types = [line.split('"type":"')[1].split('"')[0] for line in lines]
    assert types[:3] == ["task_created", "spec_updated", "plan_updated"]
    assert "spec_approved" in types
    assert (await podctl("events", task, "--since", "2", "-o", "json")).output.splitlines() == lines[2:]
    table = (await podctl("events", task)).output.splitlines()
    assert len(table) == len(lines)
    approved = table[types.index("spec_approved")]
    assert " ann " in approved
    assert "revision=1" in approved


async def test_what_comes_too_early_twice_or_too_late_is_refused_with_its_code(
    podctl: CommandLine, working: PodctlClient, task: str, unique: Callable[[str], str]
) -> None:
    empty = unique("task")
    await podctl("task", "create", "Nothing yet", "--id", empty)
    assert (await podctl("signal", "approve-spec", empty, status=1)).errors.startswith("error: spec_empty: ")
    assert (await podctl("signal", "approve-plan", empty, status=1)).errors.startswith("error: invalid_phase: ")
    assert (await podctl("signal", "approve", empty, status=1)).errors.startswith("error: nothing_to_approve: ")

    await working.execute_task(task, UpdateSpec(content="another one"), by="bob")
    stale = await podctl("signal", "approve-spec", task, "--revision", "1", status=1)
    assert stale.errors.startswith("error: stale_revision: ")
    assert "revision 2" in (await podctl("signal", "approve-spec", task)).output
    assert (await podctl("signal", "approve-spec", task, status=1)).errors.startswith("error: already_approved: ")
    assert (await podctl("signal", "reject", task, "--gate", "review", status=1)).errors.startswith(
        "error: nothing_to_approve: "
    )
    refused = await podctl("signal", "workstream-result", task, "first", status=1)
    assert refused.errors.startswith("error: invalid_phase: ")
    shown = await podctl.json("task", "show", task)
    assert [refusal["code"] for refusal in shown["refusals"]][:2] == ["stale_revision", "already_approved"]


async def test_approving_what_waits_names_it_so_that_it_is_not_taken_for_what_waits_next(
    podctl: CommandLine, working: PodctlClient, task: str
) -> None:
    first = await podctl.json("signal", "approve", task, "--as", "ann")
    assert (first["signal"], first["revision"]) == ("approve-spec", 1)
    assert (await podctl.json("task", "show", task))["plan"]["approval"] is None
    assert f"approving the plan of task {task}" in (await podctl("signal", "approve", task)).output
    await working.execute_task(task, RequestApproval(content="go on?"), by="bob")
    report = await podctl.json("signal", "approve", task)
    assert report["signal"] == "approve"
    assert (await podctl("signal", "approve", task, status=1)).errors.startswith("error: nothing_to_approve: ")


async def test_with_an_action_beside_the_gate_nothing_is_decided_until_one_is_named(
    podctl: CommandLine, working: PodctlClient, task: str
) -> None:
    run = RunAction(executor=CommandExecutor(pod="gpu1", argv=("true",)))
    await working.execute_task(task, RequestAction(action=run), by="bob")
    for verdict, commands in (
        ("approve", (f"podctl signal approve-spec {task}", f"approve {task} --message m-1 --choice grant")),
        ("reject", (f"podctl signal reject {task} --gate spec", f"reject {task} --message m-1")),
    ):
        refused = await podctl("signal", verdict, task, status=1)
        assert refused.errors.startswith("error: ambiguous: ")
        assert all(command in refused.errors for command in commands), refused.errors
    shown = await podctl.json("task", "show", task)
    assert shown["spec"]["approval"] is None
    assert shown["refusals"] == []
    rejected = await podctl("signal", "reject", task, "--gate", "spec")
    assert f"sending back the spec of task {task} (A title): revision 1" in rejected.output


async def test_the_one_action_that_waits_is_answered_by_its_name(
    podctl: CommandLine, working: PodctlClient, task: str
) -> None:
    await podctl("signal", "approve-spec", task)
    await podctl("signal", "approve-plan", task)
    for name in ("one", "two"):
        run = RunAction(executor=CommandExecutor(pod="gpu1", argv=(name,)))
        await working.execute_task(task, RequestAction(action=run), by="bob")
        done = await podctl("signal", "reject", task)
        message = [*(await working.task(task)).messages.values()][-1]
        assert f"answering {message.message_id} with reject: " in done.output
        assert name in done.output
    await working.execute_task(task, RequestAction(action=run), by="bob")
    assert " with grant: " in (await podctl("signal", "approve", task, "--as", "carol")).output
    *rejected, granted = (await working.task(task)).actions.values()
    assert {action.status for action in rejected} == {"rejected"}
    assert granted.decided_by == "carol"


async def test_a_rejected_plan_stays_with_the_reason(podctl: CommandLine, task: str) -> None:
    await podctl("signal", "approve-spec", task)
    await podctl("signal", "reject", task, "--comment", "tests are missing", "--as", "bob")
    shown = await podctl.json("task", "show", task)
    assert shown["phase"] == "planning"
    assert shown["plan"]["rejection"]["comment"] == "tests are missing"
    assert "sent back by bob" in (await podctl("task", "show", task)).output


async def test_cancel_ends_a_task_with_its_reason(podctl: CommandLine, task: str) -> None:
    done = await podctl.json("task", "cancel", task, "--reason", "no longer needed", "--as", "ann")
    assert (done["task"], done["by"], done["message"]) == (task, "ann", "cancelled")
    shown = await podctl.json("task", "show", task)
    assert (shown["phase"], shown["cancelled_by"], shown["cancel_reason"]) == ("cancelled", "ann", "no longer needed")


@pytest.mark.parametrize(
    "arguments",
    [
        ("task", "show"),
        ("task", "cancel"),
        ("events",),
        ("events", "-f"),
        ("watch",),
        ("signal", "approve-spec"),
        ("signal", "approve"),
    ],
)
@pytest.mark.usefixtures("task")
async def test_an_unknown_task_is_answered_with_those_there_are(
    podctl: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = await podctl(*arguments, "no-such-task", status=1)
    assert done.errors.startswith("error: there is no ")
    assert "no-such-task" in done.errors
    # A server's list of tasks is cut: others' are there too.
    assert re.search(r"there are: (task-pod/)?[a-z]+-", done.errors)


async def test_a_second_task_of_the_same_id_is_refused(podctl: CommandLine, task: str) -> None:
    done = await podctl("task", "create", "Again", "--id", task, status=1)
    assert f"task {task} exists already" in done.errors
    assert "--id" in done.errors


async def test_the_id_is_made_of_the_title(podctl: CommandLine, unique: Callable[[str], str]) -> None:
    title = unique("Ein schöner Título")
    begun = await podctl.json("task", "create", title)
    assert begun["task"].startswith("ein-schoner-titulo-")


async def test_what_cannot_be_read_is_a_usage_error_that_names_the_place(
    podctl: CommandLine, tmp_path: Path, plan: str
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(PLAN.replace("depends_on: [first]", "depends_on: [third]"))
    done = await podctl("task", "create", "T", "--plan", str(broken), status=2)
    assert f"{broken}:5:" in done.errors
    assert "third" in done.errors
    broken.write_text(PLAN.replace("id: first, title: First,", "id: first, title: First, depends_on: [second],"))
    assert "first -> second -> first" in (await podctl("task", "create", "T", "--plan", str(broken), status=2)).errors

    missing = await podctl("task", "create", "T", "--spec", str(tmp_path / "none.md"), status=2)
    assert str(tmp_path / "none.md") in missing.errors
    assert "spec=human" in (await podctl("task", "create", "T", "--gates", "spec=maybe", status=2)).errors
    assert (
        "not a valid name" in (await podctl("task", "create", "T", "--id", "../etc", "--plan", plan, status=2)).errors
    )
    assert (await podctl("task", "create", status=2)).errors
    assert (await podctl("events", status=2)).errors
    assert (await podctl("signal", "workstream-result", "t", "ws", "--status", "maybe", status=2)).errors


async def test_gates_and_slots_are_taken_over(podctl: CommandLine, unique: Callable[[str], str], plan: str) -> None:
    name = unique("task")
    gates = ("--gates", "spec=auto, plan=auto,review=auto", "--max-concurrent", "1")
    await podctl("task", "create", "By itself", "--id", name, "--plan", plan, *gates)
    config = (await podctl.json("task", "show", name))["config"]
    assert config["gates"] == {"spec": "auto", "plan": "auto", "execution": "auto", "review": "auto"}
    assert config["max_concurrent"] == 1


async def test_settings_come_from_a_file_and_those_given_one_by_one_win(
    podctl: CommandLine, unique: Callable[[str], str], tmp_path: Path
) -> None:
    name = unique("task")
    file = tmp_path / "task.yaml"
    file.write_text("gates: {spec: auto}\nmax_concurrent: 7\nescalate_to: bob\n")
    given = ("--config", str(file), "--gates", "plan=auto", "--max-concurrent", "2")
    await podctl("task", "create", "T", "--id", name, *given)
    config = (await podctl.json("task", "show", name))["config"]
    assert (config["gates"]["spec"], config["gates"]["plan"], config["gates"]["review"]) == ("auto", "auto", "human")
    assert (config["max_concurrent"], config["escalate_to"]) == (2, "bob")
    file.write_text("gates: {specs: auto}\n")
    refused = await podctl("task", "create", "T", "--config", str(file), status=2)
    assert f"{file}:1:9: gates.specs: there is no such field" in refused.errors


async def test_the_sender_is_as_given_else_configured(podctl: CommandLine, unique: Callable[[str], str]) -> None:
    podctl.paths.config.mkdir(parents=True)
    config = podctl.paths.config / "config.toml"
    config.write_text('user = "carl"\n')
    name = unique("task")
    await podctl("task", "create", "T", "--id", name)
    assert (await podctl.json("task", "show", name))["created_by"] == "carl"
    config.write_text("user = 3\n")
    assert str(config) in (await podctl("task", "create", "T", status=2)).errors
    assert "--as" in (await podctl("task", "create", "T", "--as", " ", status=2)).errors


async def test_there_is_no_output_of_work_that_people_do(podctl: CommandLine, task: str) -> None:
    assert (await podctl("task", "logs", task, "first", status=1)).errors.startswith("error: no_output: ")
    unknown = await podctl("task", "logs", task, "third", status=1)
    assert unknown.errors.startswith("error: workstream_not_found: ")
    assert "there are first, second" in unknown.errors
