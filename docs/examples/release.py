"""Carries a release's task: begins it, does its work as it comes up, asks a person before it publishes.

python docs/examples/release.py TASK
"""

import asyncio
import os
import sys
from pathlib import Path

from domain.entity import Event
from domain.ids import task_workflow_id
from domain.task.commands import CompleteWorkstream, FailWorkstream, RequestApproval
from domain.task.models import GateMode, Gates, Result, TaskConfig
from podctl.client import PodctlClient, new_command_id
from podctl.connection import connect
from podctl.task_input import task_input

ME = "release.py"
HERE = Path(__file__).parent


async def main(task: str) -> None:
    """Carry the task to its end."""
    # The server that TEMPORAL_ADDRESS, a profile of Temporal's, or `podctl up` says.
    client = PodctlClient(await connect())

    begin = task_input(
        "Publish the changelog",
        task_id=task,
        by=ME,
        spec=HERE / "spec.md",
        plan=HERE / "plan.yaml",
        config=TaskConfig(gates=Gates(spec=GateMode.AUTO)),
    )
    await client.create_task(begin)
    print(f"waits for: podctl signal approve-plan {task}")

    # Every event of the task, from the first one on, until it is over. The server says when there is a new one.
    async for event in client.follow(task_workflow_id(task)):
        print(f"{event.sequence:3} {event.type} by {event.by}")
        await react(client, task, event)

    state = await client.task(task)
    print(f"{task} is {state.phase}")


async def react(client: PodctlClient, task: str, event: Event) -> None:
    """Do what an event asks of this program."""
    match event.type, event.payload:
        case "workstream_started", {"workstream": "write", "attempt": int(attempt)}:
            # Naming the attempt: should somebody have begun another one meanwhile, this result is not taken for its.
            written = Result(text="- podctl explains its commands", artifacts=("changelog.md",))
            await client.execute_task(task, CompleteWorkstream(ws_id="write", attempt=attempt, result=written), by=ME)
        case "workstream_started", {"workstream": "publish"}:
            question = RequestApproval(
                content="Publish the changelog now?", options=("yes", "no"), workstream_id="publish", blocking=True
            )
            # The same id again, after an error of the network say, would not ask a second time.
            await client.execute_task(task, question, by=ME, command_id=new_command_id())
        case "approval_requested", {"message": str(message)}:
            print(f"waits for: podctl signal approve {task} --message {message} --choice yes")
        case "approval_given", {"workstream": "publish", "choice": "yes"}:
            published = Result(text="published")
            await client.execute_task(task, CompleteWorkstream(ws_id="publish", result=published), by=ME)
            print(f"waits for: podctl signal approve-review {task}")
        case "approval_given", {"workstream": "publish"}:
            await client.execute_task(task, FailWorkstream(ws_id="publish", error=f"{event.by} said no"), by=ME)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
    # All is done and told. A native thread of Temporal's SDK that hands over a last result while Python shuts down
    # would abort it (about once in sixty times), so leave without a shutdown.
    sys.stdout.flush()
    os._exit(0)
