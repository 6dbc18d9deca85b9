"""What a person is about to approve, as the task's history shows it."""

from dataclasses import dataclass
from typing import Literal

from domain.ids import task_workflow_id
from domain.task.models import TaskState
from podctl.client import PodctlClient

Gate = Literal["spec", "plan", "review"]


@dataclass(frozen=True)
class Shown:
    """The newest revision of a spec, plan or review; revision 0 is 'there is none yet'."""

    task: str
    title: str
    gate: Gate
    revision: int
    digest: str


async def shown(client: PodctlClient, task_id: str, gate: Gate) -> Shown:
    """Return what stands at a gate of a task, and what an approval that is sent now is to name.

    Read from the history, so it needs no worker. Raises ``NotFound``.
    """
    state = (await client.log(task_workflow_id(task_id))).state
    if not isinstance(state, TaskState):
        raise TypeError(type(state).__name__)
    subject = {"spec": state.spec, "plan": state.plan, "review": state.review}[gate]
    revision, digest = (0, "") if subject is None else (subject.revision, subject.digest)
    return Shown(task=task_id, title=state.title, gate=gate, revision=revision, digest=digest)
