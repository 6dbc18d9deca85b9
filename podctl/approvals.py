"""What a person is about to approve, as the task's history shows it."""

from dataclasses import dataclass

from domain.ids import task_workflow_id
from domain.task.approvable import Approvable, Verdict, the_one_approvable
from domain.task.models import TaskState
from domain.task.waits import Gate
from podctl.client import PodctlClient


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
    state = await _state(client, task_id)
    subject = {"spec": state.spec, "plan": state.plan, "review": state.review}[gate]
    revision, digest = (0, "") if subject is None else (subject.revision, subject.digest)
    return Shown(task=task_id, title=state.title, gate=gate, revision=revision, digest=digest)


async def one_that_waits(client: PodctlClient, task_id: str, verdict: Verdict, choice: str | None = None) -> Approvable:
    """Return the one thing that waits for a verdict. Raises ``NotFound``, and ``Rejected`` if it is not just one.

    Whoever approves 'what waits' means what waits now: sent by its name, it cannot be taken for what waits next.
    """
    return the_one_approvable(await _state(client, task_id), verdict, choice)


async def _state(client: PodctlClient, task_id: str) -> TaskState:
    state = (await client.log(task_workflow_id(task_id))).state
    if not isinstance(state, TaskState):
        raise TypeError(type(state).__name__)
    return state
