"""Names that stand in histories: workflows, messages, activities. They are never renamed, whatever code is."""

from typing import Final

TASK_POD: Final = "TaskPodWorkflow"
GPU_POD: Final = "GpuPodWorkflow"

EXECUTE: Final = "execute"
STATE: Final = "state"
EVENTS: Final = "events"
OUTCOME: Final = "outcome"
BRIEFING: Final = "briefing"

#: The server's word for an update that a workflow task has left unanswered (it was lost between two workers, or the
#: server began anew): neither refused nor done, and to be sent again.
UNPROCESSED_UPDATE: Final = "UnprocessedUpdate"

#: The signal that a GPU pod sends to the task pods which hold one of its model servers.
MODEL_SERVER_SIGNAL: Final = "model-server"

#: An activity's refusal: its pod is reached by the workers of another queue, which is the error's one detail.
OTHER_TASK_QUEUE: Final = "other_task_queue"

INSPECT_POD: Final = "inspect_pod"
WATCH_POD: Final = "watch_pod"
LAUNCH_SERVER: Final = "launch_server"
STOP_LAUNCH: Final = "stop_launch"
ATTACH_SERVER: Final = "attach_server"
DETACH_SERVER: Final = "detach_server"
RUN_COMMAND: Final = "run_command"
SETUP_STEP: Final = "setup_step"
NOTIFY: Final = "notify"
