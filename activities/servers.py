"""A task takes hold of a model server, and lets go of it: commands to the workflow of the GPU pod."""

from collections.abc import Callable

from temporalio import activity
from temporalio.client import Client, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.support import heartbeating
from domain.errors import BadInput, Rejected
from domain.gpu.catalog import Catalog
from domain.gpu.commands import AttachServer, Command, DetachServer, Envelope
from domain.gpu.request import start_request
from domain.ids import gpu_pod_workflow_id
from workflows import names
from workflows.messages import AttachInput, AttachOutput, DetachInput


class ServerActivities:
    """Commands from task pods to GPU pods. ``catalog`` says what is known of models, the user's file included."""

    def __init__(self, client: Client, catalog: Callable[[], Catalog]) -> None:
        self._client = client
        self._catalog = catalog

    @activity.defn(name=names.ATTACH_SERVER)
    async def attach_server(self, attach: AttachInput) -> AttachOutput:
        """Have the GPU pod count the task as a holder of the server, which it starts if need be."""
        server = attach.server
        try:
            request = start_request(
                self._catalog(),
                server.model,
                server.name,
                gpus=server.gpus,
                memory=server.memory,
                context=server.context,
                arguments=server.arguments or None,
                restart=server.restart,
                idle_ttl=server.idle_ttl,
            )
        except Rejected as rejected:
            return AttachOutput(code=rejected.code, message=rejected.message)
        except BadInput as error:
            return AttachOutput(code="bad_input", message=str(error))
        return await self._send(
            attach.server.pod, attach.task_id, AttachServer(task_id=attach.task_id, request=request)
        )

    @activity.defn(name=names.DETACH_SERVER)
    async def detach_server(self, detach: DetachInput) -> AttachOutput:
        """Have the GPU pod no longer count the task as a holder; a pod that is gone holds nothing."""
        return await self._send(detach.pod, detach.task_id, DetachServer(task_id=detach.task_id, name=detach.name))

    async def _send(self, pod: str, task_id: str, command: Command) -> AttachOutput:
        info = activity.info()
        # The same over all attempts of this activity: an update that was accepted before its reply was lost counts
        # once.
        command_id = f"{info.workflow_run_id}/{info.activity_id}"
        envelope = Envelope(command_id=command_id, by=f"task {task_id}", command=command)
        try:
            async with heartbeating():
                await self._client.get_workflow_handle(gpu_pod_workflow_id(pod)).execute_update(
                    names.EXECUTE, envelope, id=command_id
                )
        except WorkflowUpdateFailedError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError) and cause.type and cause.type != names.UNPROCESSED_UPDATE:
                return AttachOutput(code=cause.type, message=cause.message)
            raise
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return AttachOutput(
                    code="unknown_pod", message=f"there is no GPU pod {pod}: add it with podctl pods add {pod} 'ssh …'"
                )
            raise
        return AttachOutput()
