"""What is believed about launches, and whether a look at the machine differs from it.

Watching is level-triggered: the watcher is given beliefs and returns as soon as ``differs``; applying what it saw
makes the beliefs agree, so that a watcher that starts again does not return at once. Both sides use ``merge``.
"""

from collections.abc import Collection, Iterable, Mapping

from domain.gpu.models import Belief
from domain.gpu.observation import Observation
from domain.ids import parse_launch_id

#: Stages of a start in their order; a log line of an earlier one does not turn the progress back.
STAGES = ("start", "download", "load", "compile", "serve")


def merge(belief: Belief | None, seen: Observation) -> Belief:
    """Return the belief after a look. Ready, an exit and the stage stay: a look taken earlier may arrive later."""
    old = belief or Belief(state="absent")
    return Belief(
        state="exited" if old.state == "exited" or seen.state == "exited" else seen.state,
        pid=seen.pid if seen.pid is not None else old.pid,
        start_time=seen.start_time if seen.start_time is not None else old.start_time,
        root_exited=old.root_exited or seen.exit is not None,
        members_left=seen.members > 0 and (seen.exit is not None or seen.state == "exited"),
        ready=old.ready or seen.readiness == "ready",
        healthy=seen.healthy if seen.healthy is not None else old.healthy,
        stage=_later(old.stage, seen.stage),
        stop_verified=old.stop_verified or (seen.stopped is not None and seen.stopped.state == "stopped"),
    )


def differs(launches: Iterable[Observation], beliefs: Mapping[str, Belief], owned: Collection[str]) -> bool:
    """Return whether what a machine shows would change what is believed of it.

    ``beliefs`` are those of launches that were seen, ``owned`` the ids of launches that the pod's servers hold: of
    these an ended one matters too, of others only living ones.
    """
    seen = {
        launch.id: launch
        for launch in launches
        if launch.kind == "server" and launch.state != "absent" and (launch.alive or launch.id in owned)
    }
    if any(launch_id not in seen for launch_id in beliefs):
        return True
    return any(merge(beliefs.get(launch_id), launch) != beliefs.get(launch_id) for launch_id, launch in seen.items())


def newer(launches: Iterable[Observation], pod: str, counters: Mapping[str, int], floor: int) -> frozenset[str]:
    """Return the ids of launches of ``pod`` that are newer than its workflow knew when it gave its ``counters``.

    Such a one is owned even if it has ended by the time it is first seen: it may have died within its first moments.
    """
    found = set()
    for launch in launches:
        parts = parse_launch_id(launch.id)
        if parts is not None and parts[0] == pod and parts[2] > max(counters.get(parts[1], 0), floor):
            found.add(launch.id)
    return frozenset(found)


def _later(old: str | None, new: str | None) -> str | None:
    if old in STAGES and (new not in STAGES or STAGES.index(new) < STAGES.index(old)):
        return old
    return new if new is not None else old
