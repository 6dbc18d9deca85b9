"""Whether and when a model server whose launch ended is launched again. Carried out by ``Draft`` and ``ServerDue``."""

from datetime import datetime, timedelta

from domain.gpu.models import FailureType, ModelServer

#: A server is launched again so often within an hour; at its next failure it stays failed.
MAXIMUM_RESTARTS = 5
#: A start that a passing cause prevented is tried again so often within an hour, whatever the policy says.
MAXIMUM_TRIES = 3
_WINDOW = timedelta(hours=1)
#: Seconds before the first restart within an hour, doubled with each further one.
FIRST_DELAY_SECONDS = 5.0

#: What may be over by the next try without anybody's doing.
_PASSING: frozenset[FailureType] = frozenset({"memory_draining", "port_taken", "hub_unreachable"})
#: What another launch cannot cure: it needs a person.
_HOPELESS: frozenset[FailureType] = frozenset(
    {
        "bad_arguments",
        "model_gated",
        "model_missing",
        "remote_code",
        "unsupported_model",
        "driver_mismatch",
        "disk_full",
        "shared_memory",
        "program_not_found",
        "kv_cache",
        "planning",
    }
)
#: Not a failure of the server itself: somebody rebooted the machine, or stopped the launch there.
_FROM_OUTSIDE: frozenset[FailureType] = frozenset({"machine_rebooted", "not_launched"})


def limit(server: ModelServer, ended_by: FailureType | None) -> int:
    """Return how many restarts within an hour a server gets after such an end; None: it was stopped on the machine.

    Never for ``no_room``: that is said only to one who would not wait.
    """
    if server.adopted is not None:
        return 0  # what it would be launched again as is not known
    policy = server.request.restart
    own_and_curable = ended_by is not None and ended_by not in _HOPELESS | _FROM_OUTSIDE
    if ended_by == "no_room":
        return 0
    if policy == "always" or (policy == "on-failure" and own_and_curable):
        return MAXIMUM_RESTARTS
    return MAXIMUM_TRIES if ended_by in _PASSING and server.ready_at is None else 0


def recent(server: ModelServer, now: datetime) -> tuple[datetime, ...]:
    """Return when restarts of the server were decided within the last hour."""
    return tuple(at for at in server.restarts if now - at < _WINDOW)


def delay(restarts: int) -> timedelta:
    """Return how long to wait when there were so many restarts within the hour: 5 s, 10 s, … 80 s."""
    return timedelta(seconds=FIRST_DELAY_SECONDS * 2.0**restarts)


def describe(server: ModelServer) -> str:
    """Return when a server is launched again and the how-many-th time that is; empty for one that is not."""
    if server.retry_at is None:
        return ""
    most = limit(server, server.failure.type if server.failure else None)
    return (
        f"launched again at {server.retry_at:%Y-%m-%d %H:%M:%S} "
        f"(restart {len(server.restarts)} of at most {most} within an hour)"
    )
