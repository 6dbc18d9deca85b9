"""How long podctl looks on: at a start without progress, at an unhealthy server, at one that nobody uses.

The watch asks ``is_due`` of what it sees and returns; the rules ask the same of its report, and act.
"""

from collections.abc import Collection, Mapping

from domain.gpu.models import Belief
from domain.gpu.observation import Observation

#: Seconds without any progress that each stage of a start may take. A start that makes progress may take for ever.
STAGE_BUDGETS = {"start": 300.0, "download": 600.0, "load": 600.0, "compile": 1800.0, "serve": 300.0}
#: Seconds after which an unhealthy server is ended, where its restart policy then launches it again.
UNRESPONSIVE_AFTER = 60.0


def budget(stage: str | None) -> float:
    """Return the seconds that a start may take in ``stage`` without progress."""
    return STAGE_BUDGETS.get(stage or "", STAGE_BUDGETS["start"])


def is_stalled(belief: Belief, seen: Observation) -> bool:
    """Return whether a start that was seen so has made no progress for longer than its stage may take."""
    silent = seen.silent_seconds
    return not belief.ready and silent is not None and silent >= budget(belief.stage)


def is_idle(ttl: float | None, seen: Observation) -> bool:
    """Return whether a server had no request for as long as it may."""
    return ttl is not None and seen.idle_seconds is not None and seen.idle_seconds >= ttl


def is_due(
    belief: Belief,
    seen: Observation,
    *,
    unhealthy_seconds: float,
    loading: Collection[str],
    idle_ttls: Mapping[str, float],
    impatient: Collection[str],
) -> bool:
    """Return whether time alone makes what is seen of a launch worth a report.

    ``loading``, ``idle_ttls`` and ``impatient`` name the launches of which that is expected (``schedule.Watch``).
    """
    return (
        (seen.id in loading and is_stalled(belief, seen))
        or is_idle(idle_ttls.get(seen.id), seen)
        or (seen.id in impatient and unhealthy_seconds >= UNRESPONSIVE_AFTER)
    )
