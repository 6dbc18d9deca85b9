"""Taking a finished task off the server: every run, so that nothing of its history is left there."""

from dataclasses import dataclass

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from domain.ids import task_workflow_id
from podctl.client import ClientError, PodctlClient


class StillRunning(ClientError):
    """The task is not over, or has not let go of everything yet."""


@dataclass(frozen=True)
class Deletable:
    """A task that is over: what would be deleted."""

    task: str
    #: Newest first.
    runs: tuple[str, ...]


async def deletable(client: PodctlClient, task_id: str) -> Deletable:
    """Return what deleting a task would delete. Raises ``NotFound``, and ``StillRunning`` with what to do first."""
    newest = await client.describe_task(task_id)
    if newest.status == WorkflowExecutionStatus.RUNNING:
        raise StillRunning(
            f"task {task_id} is still running: podctl task cancel {task_id} ends it; podctl task show {task_id} says "
            "what it still has to stop"
        )
    workflow_id = task_workflow_id(task_id)
    # The chain of runs as histories name it, and what a reset has left beside it.
    chain = [run.run_id for run in reversed(await client.task_histories(task_id))]
    listed = [run.run_id async for run in client.temporal.list_workflows(f'WorkflowId = "{workflow_id}"')]
    return Deletable(task=task_id, runs=tuple(dict.fromkeys([*chain, *listed])))


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
