"""`podctl start | stop | list | logs` and `task logs`, on a simulated machine with two GPUs."""

from collections.abc import Callable
from pathlib import Path

from podctl.client import PodctlClient
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually

START = ("start", MODEL, "--name")


async def test_a_model_server_is_started_listed_read_and_stopped(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await machine.settings(load_seconds=1)  # long enough to be told
    started = await podctl(*START, "one", "--context", "32k", "-o", "json")
    row = started.json
    assert (row["name"], row["pod"], row["state"], row["gpus"], row["kept"]) == ("one", gpu_pod, "ready", [0], True)
    assert "one is loading" in started.errors
    # What it says of itself moves on.
    decided = ("name", "state", "since", "gpus", "port", "launch_id", "pid", "created_at", "ready_at")
    [listed] = await podctl.json("list")
    assert {field: listed[field] for field in decided} == {field: row[field] for field in decided}
    table = await podctl("list")
    assert table.output.splitlines()[1].split()[:3] == ["one", MODEL, "ready"]
    assert "1 ready" in (await podctl("pods")).output

    log = (await podctl("logs", "one")).output
    assert "'max-model-len': 32768" in log
    whole = log.splitlines()
    tail = (await podctl("logs", "one", "--tail", "2")).output.splitlines()
    assert len(tail) == 2
    assert (await podctl("logs", "one", "--tail", "0")).output == ""
    assert len((await podctl("logs", "one", "--tail", "100000")).output.splitlines()) >= len(whole)

    again = await podctl(*START, "one", status=1)
    assert again.errors.startswith("error: already_running: ")
    assert "already_running" not in (await podctl("pods", "remove", gpu_pod, status=1)).errors
    stopped = await podctl("stop", "one")
    assert "model server one is stopped" in stopped.output
    [row] = await podctl.json("list")
    assert (row["state"], row["gpus"], row["port"]) == ("stopped", [], None)
    assert (await podctl("stop", "one", status=1)).errors.startswith("error: not_running: ")


async def test_without_room_a_start_waits_in_the_queue_or_fails(podctl: CommandLine, gpu_pod: str) -> None:
    for name in ("one", "two"):
        await podctl(*START, name)
    full = await podctl(*START, "three", "--no-wait", status=1)
    assert "no_room" in full.errors
    for name in ("four", "five"):
        assert (await podctl.json(*START, name, "--detach"))["state"] == "pending"
    rows = {row["name"]: row for row in await podctl.json("list")}
    assert (rows["four"]["queue_position"], rows["five"]["queue_position"]) == (1, 2)
    assert rows["four"]["waits_for"]
    assert "number 2 in the queue" in (await podctl("list")).output
    assert (await podctl("logs", "four", status=1)).errors.startswith("error: not_launched: ")

    assert (await podctl("stop", status=2)).errors  # nobody there to be asked
    stopped = await podctl("stop", "--yes", "--pod", gpu_pod)
    assert stopped.output.count("is stopped") == 4
    assert "no model server runs" in (await podctl("stop", "--yes")).output


async def test_a_start_that_fails_says_why_and_what_to_try(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    assert gpu_pod
    await machine.settings(start_failure="out_of_memory", load_seconds=0)
    failed = await podctl(*START, "big", status=1)
    assert "failed (out_of_memory)" in failed.errors
    assert "The end of its log:" in failed.errors
    [row] = await podctl.json("list")
    assert row["failure"]["type"] == "out_of_memory"


async def test_options_for_vllm_pass_unchanged_and_exclude_ours(podctl: CommandLine, gpu_pod: str) -> None:
    own = ("--vllm", "--max-model-len", "4096", "--name", "not-podctl's")
    conflict = await podctl(*START, "one", "--memory", "50%", *own, status=2)
    assert conflict.errors.startswith("error: options_conflict: ")
    secret = await podctl(*START, "one", "--vllm", "--api-key", "hunter2", status=2)
    assert secret.errors.startswith("error: secret_in_arguments: ")
    assert "hunter2" not in secret.errors
    assert "90%" in (await podctl(*START, "one", "--memory", "lots", status=2)).errors
    assert "options" not in (await podctl(*START, "one", "--gpus", "3", status=1)).output
    await podctl(*START, "one", "--detach", *own)
    shown = await podctl.json("list")
    assert [row["name"] for row in shown] == ["one"]
    assert f"pod {gpu_pod}" in (await podctl("stop", "one")).output


async def test_an_unknown_server_is_answered_with_those_there_are(podctl: CommandLine, gpu_pod: str) -> None:
    assert gpu_pod
    await podctl(*START, "one")
    for command in ("logs", "stop"):
        done = await podctl(command, "nobody", status=1)
        assert done.errors.startswith("error: server_not_found: ")
        assert "one" in done.errors


async def test_an_unreachable_pod_says_since_when_and_what_is_kept(
    podctl: CommandLine, working: PodctlClient, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await podctl(*START, "one")
    await machine.unreachable(outage="refuse")
    await machine.drop_connections()

    async def is_reachable(expected: bool) -> bool:
        return (await working.pod(gpu_pod)).reachable is expected

    await eventually(lambda: is_reachable(False), "the outage is noticed")
    listed = await podctl("list")
    assert "unreachable since 20" in listed.errors
    assert "Kept meanwhile: model server one" in listed.errors
    assert (await podctl.json("list"))[0]["state"] == "unreachable"
    assert "Kept meanwhile" in (await podctl("pods", "show", gpu_pod)).output
    assert "Kept meanwhile" in (await podctl("logs", "one", status=1)).errors
    stopped = await podctl("stop", "one")
    assert "the stop of one is asked for" in stopped.output
    assert "carried out when it is back" in stopped.output
    await machine.reachable()

    async def is_stopped() -> bool:
        return (await working.pod(gpu_pod)).servers["one"].state == "stopped"

    await eventually(is_stopped, "the stop is carried out")


async def test_a_followed_log_goes_on_at_the_byte_where_the_connection_was_lost(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await podctl(*START, "one")
    async with podctl.started("logs", "one", "-f", "--pod", gpu_pod) as following:
        first = await following.line()
        await following.line("GET /health")
        await machine.drop_connections()
        await following.error_line("going on when it is back")
        await following.line("GET /health")
        await podctl("stop", "one")
        rest = await following.ended()
    assert rest.status == 0
    assert first not in rest.output
    assert (await podctl("logs", "one")).output.endswith(rest.output[-200:])


async def test_ctrl_c_leaves_what_was_asked_for_and_says_how_to_look_again(
    podctl: CommandLine, machine: SimulatedMachine, gpu_pod: str
) -> None:
    await machine.settings(load_seconds=4)
    async with podctl.started(*START, "one") as starting:
        await starting.error_line("one is")
        starting.interrupt()
        done = await starting.ended()
    assert done.status == 130
    assert f"podctl list --pod {gpu_pod}" in done.errors

    async def is_ready() -> bool:
        return bool((await podctl.json("list"))[0]["state"] == "ready")

    await eventually(is_ready, "the start goes on")


async def test_the_output_of_a_workstream_is_read_where_it_ran(
    podctl: CommandLine, gpu_pod: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        f"""
workstreams:
  - {{id: say, title: Say, executor: {{type: command, pod: {gpu_pod}, argv: [sh, -c, "echo one; echo two"]}}}}
  - {{id: later, title: Later, depends_on: [person], executor: {{type: command, pod: {gpu_pod}, argv: ["true"]}}}}
  - {{id: person, title: Person, executor: signal}}
"""
    )
    task = unique("task")
    await podctl("task", "create", "T", "--id", task, "--plan", str(plan), "--gates", "spec=auto,plan=auto")
    waiting = await podctl("task", "logs", task, "say", status=1)
    assert waiting.errors.startswith("error: not_started: ")
    spec = tmp_path / "spec.md"
    spec.write_text("do it")
    await podctl("task", "cancel", task)
    task = unique("task")
    files = ("--plan", str(plan), "--spec", str(spec))
    await podctl("task", "create", "T", "--id", task, *files, "--gates", "spec=auto,plan=auto")

    async def is_done() -> bool:
        shown = await podctl.json("task", "show", task)
        return bool(shown["workstreams"].get("say", {}).get("status") == "completed")

    await eventually(is_done, "the command has ended")
    assert (await podctl("task", "logs", task, "say", "-f")).output == "one\ntwo\n"
    assert (await podctl("task", "logs", task, "say", "--tail", "1")).output == "two\n"
    assert (await podctl("task", "logs", task, "later", status=1)).errors.startswith("error: not_started: ")
    await podctl("task", "cancel", task)
