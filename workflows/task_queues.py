"""Task queues."""

from typing import Final

#: Polled by every worker; a GPU pod that only some workers can reach names another one.
DEFAULT_TASK_QUEUE: Final = "podctl"
