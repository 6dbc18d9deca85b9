"""Taking a finished task off the server: every run, so that nothing of its history is left there."""

from dataclasses import dataclass

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from domain.ids import task_workflow_id
from podctl.client import ClientError, PodctlClient
from podctl.export import Export


class StillRunning(ClientError):
    """The task is not over, or has not let go of everything yet."""


@dataclass(frozen=True)
class Deletable:
    """A task that is over: what would be deleted."""

    task: str
    #: Newest first.
    runs: tuple[str, ...]


async def check_over(client: PodctlClient, task_id: str) -> None:
    """Raise ``StillRunning``, with what to do first, if a task is not over; ``NotFound``."""
    newest = await client.describe_task(task_id)
    if newest.status == WorkflowExecutionStatus.RUNNING:
        raise StillRunning(
            f"task {task_id} is still running: podctl task cancel {task_id} ends it; podctl task show {task_id} says "
            "what it still has to stop"
        )


async def deletable(client: PodctlClient, task_id: str) -> Deletable:
    """Return what deleting a task would delete. Raises ``NotFound``, and ``StillRunning`` with what to do first."""
    await check_over(client, task_id)
    workflow_id = task_workflow_id(task_id)
    # The chain of runs as histories name it, and what a reset has left beside it.
    chain = reversed(await client.task_histories(task_id))
    listed = [run.run_id async for run in client.temporal.list_workflows(f'WorkflowId = "{workflow_id}"')]
    return Deletable(task=task_id, runs=tuple(dict.fromkeys([*chain, *listed])))


def archived(export: Export) -> Deletable:
    """Return what can be deleted of a task without losing anything: the runs that stand in its file."""
    return Deletable(
        task=export.task, runs=tuple(run.run_id for run in (*reversed(export.runs), *reversed(export.beside)))
    )


async def delete_task(client: PodctlClient, task: Deletable) -> None:
    """Have the server delete every run of a finished task. It does so by and by, within a minute or so."""
    workflow_id = task_workflow_id(task.task)
    for run_id in task.runs:
        try:
            await client.temporal.workflow_service.delete_workflow_execution(
                DeleteWorkflowExecutionRequest(
                    namespace=client.temporal.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                )
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
