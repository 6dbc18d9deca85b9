"""Timeouts and retry policies of every activity, in one place. All in seconds.

A dead worker is noticed by its missing heartbeat; what it had begun is then looked at again by another one. Retries
have no end where a person or a returning machine is what is waited for: they add nothing to the history.
"""

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy

#: Three to four heartbeats (``activities/support.py``): a worker that lost that many is dead.
HEARTBEAT: Final = timedelta(seconds=12)
#: Observers run for as long as the thing that they observe.
OBSERVER: Final = timedelta(days=3650)
#: One attempt at something that ends by itself; far above what it takes on a slow link, upload included.
ATTEMPT: Final = timedelta(minutes=10)
#: One call of the notify hook; more than the 30 s that the hook itself gets.
NOTIFY: Final = timedelta(minutes=1)
#: How long a task's activity waits for a worker of a pod's own queue before it is asked again which queue that is.
TAKEN_UP: Final = timedelta(minutes=10)

#: Pauses stay short: a watch lives for weeks, and each worker that died on it made the next pause longer. Machines that
#: are away have pauses of their own (``remote/ssh.py``).
UNTIL_DONE: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=4)
)
#: For what must not happen twice.
ONCE: Final = RetryPolicy(maximum_attempts=1)
