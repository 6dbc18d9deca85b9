"""Agents against a real Temporal server: programs on a pod write the plan, people and programs outside report."""

import re
from pathlib import Path

from pydantic import JsonValue

from domain.task.models import TaskConfig
from podctl.task_runs import RunPlace, run_place
from tests.workflow.support import SimulatedPod, Task, Tasks, eventually

#: Reads what it is told, and writes a plan of one workstream that is named after the spec's content.
PLANNER = """
import json, os
told = json.load(open(os.environ["PODCTL_INPUT"]))
assert (told["agent"]["id"], told["agent"]["type"]) == (os.environ["PODCTL_AGENT"], "planner"), told
with open(os.environ["PODCTL_OUTPUT"], "w") as plan:
    plan.write(f"workstreams: [{{id: {told['spec']['content']}, title: Only part, executor: signal}}]")
print("wrote the plan")
"""
DOCUMENT = Path(__file__).parents[2] / "docs" / "agents.md"
#: Writes no plan at first, and one that is none the second time.
SECOND_THOUGHTS = """
import os, sys
attempts = os.path.expanduser("~/attempts-" + os.environ["PODCTL_TASK"])
with open(attempts, "a") as file:
    file.write("x")
number = os.path.getsize(attempts)
if number == 1:
    sys.exit("no idea")
with open(os.environ["PODCTL_OUTPUT"], "w") as plan:
    plan.write("workstreams: nothing" if number == 2 else "workstreams: [{id: a, title: A, executor: signal}]")
"""


def settings(pod: SimulatedPod, program: str, **more: object) -> TaskConfig:
    planner = {"type": "command", "argv": ["python3", "-c", program], "pod": pod.name}
    return TaskConfig.model_validate({"agents": {"planner": planner}, **more})


async def agent_errors(task: Task) -> list[str]:
    return [agent.error or "" for agent in (await task.state()).agents.values()]


async def test_a_program_on_a_pod_writes_the_plan(tasks: Tasks, pod: SimulatedPod) -> None:
    task = await tasks.create(spec="leaflet", config=settings(pod, PLANNER))
    await task.ok("approve-spec")
    state = await task.until(lambda state: state.plan, "there is a plan")
    assert state.plan
    assert list(state.plan.workstreams) == ["leaflet"]
    [agent] = state.agents.values()
    assert (agent.agent_id, agent.status, agent.output) == ("planner-1", "completed", "wrote the plan\n")
    assert run_place(state, "planner-1") == RunPlace(pod=pod.name, run_id=f"{task.id}/_planner-1/1")
    await task.ok("approve-plan", revision=1)
    await task.ok("workstream-result", workstream="leaflet", status="completed")
    await task.reaches("review")


async def test_the_planner_of_the_page_of_agents_works(tasks: Tasks, pod: SimulatedPod) -> None:
    [program] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    task = await tasks.create(spec="# Leaflet\n- Draw it\n- Print it\n", config=settings(pod, program))
    await task.ok("approve-spec")
    state = await task.until(lambda state: state.plan, "there is a plan")
    assert state.plan
    assert [draft.title for draft in state.plan.workstreams.values()] == ["Draw it", "Print it"]


async def test_a_planner_that_fails_or_writes_no_plan_is_tried_again(tasks: Tasks, pod: SimulatedPod) -> None:
    config = settings(pod, SECOND_THOUGHTS, failure_cooldown_seconds=[0.1])
    task = await tasks.create(spec="leaflet", config=config)
    await task.ok("approve-spec")
    await task.until(lambda state: state.plan, "there is a plan")
    first, second, third = await agent_errors(task)
    assert first == "exit code 1: no idea"
    assert second.startswith("what it wrote is no plan: $PODCTL_OUTPUT:1:1: workstreams:"), second
    assert third == ""


async def test_a_planner_that_never_succeeds_is_asked_about_and_the_task_goes_on(
    tasks: Tasks, pod: SimulatedPod
) -> None:
    config = settings(pod, "raise SystemExit(3)", agent_attempts=1)
    task = await tasks.create(spec="leaflet", config=config)
    await task.ok("approve-spec")
    state = await task.until(lambda state: list(state.open_approvals()), "a person is asked")
    [message] = state.open_approvals()
    await task.ok("approve", message_id=message.message_id, choice="write by hand")
    state = await task.state()
    assert [item.item_id for item in state.inbox.values()] == ["write/plan"]


async def test_agents_outside_report_by_signal(tasks: Tasks) -> None:
    outside = {"type": "signal"}
    agents = {"spec_writer": outside, "planner": outside, "reviewer": outside}
    config = {"agents": agents, "failure_cooldown_seconds": [0.1]}
    task = await tasks.create(spec=None, config=TaskConfig.model_validate(config))
    refused = await task.signal("agent-result", agent="spec-writer-1", status="completed")
    assert refused.code == "content_empty"
    await task.ok("agent-result", agent="spec-writer-1", status="completed", text="# It")
    await task.ok("approve-spec", revision=1)
    plan: JsonValue = {"workstreams": [{"id": "a", "title": "A", "executor": {"type": "signal"}}]}
    await task.ok("agent-result", agent="planner-2", status="failed", error="no idea")
    state = await task.until(
        lambda state: any(a.attempt == 2 and a.status == "running" for a in state.agents.values()), "it is tried again"
    )
    assert state.agents["planner-2"].error == "no idea"
    await task.ok("agent-result", agent="planner-3", status="completed", plan=plan)


async def test_cancelling_stops_what_an_agent_runs(tasks: Tasks, pod: SimulatedPod) -> None:
    planner = {"type": "command", "argv": ["sleep", "1001"], "pod": pod.name}
    task = await tasks.create(spec="leaflet", config=TaskConfig.model_validate({"agents": {"planner": planner}}))
    await task.ok("approve-spec")

    async def runs() -> bool:
        return any(process.title == "sleep 1001" for process in await pod.machine.processes())

    await eventually(runs, "the planner runs")
    await task.handle.cancel(reason="enough")
    await task.handle.result()
    state = await task.state()
    assert (state.phase, state.agents["planner-1"].status) == ("cancelled", "interrupted")
    assert not await runs()
