"""Living launches that no server here owns: listed, gone around, and ended only where that is certain."""

from domain.errors import Rejected
from domain.gpu.beliefs import merge
from domain.gpu.commands import ReapLaunch, StopDone, StopFailed
from domain.gpu.draft import Draft
from domain.gpu.models import Belief, GpuPodState, Orphan, StopOrder
from domain.gpu.observation import Observation
from domain.gpu.request import DEFAULT_GRACE_SECONDS
from domain.ids import parse_launch_id


def note_orphans(draft: Draft, launches: dict[str, Observation]) -> None:
    """Take in which launches live that no server here owns.

    One that is being ended stays until that is verified: its GPUs are not given on before.
    """
    owned = {server.launch_id for server in draft.state.servers.values() if server.holds_lease}
    before = {orphan.launch_id: orphan for orphan in draft.state.orphans}
    now = {
        launch.id: _seen(before.get(launch.id), launch)
        for launch in launches.values()
        if launch.alive and launch.id not in owned
    }
    for launch_id, orphan in before.items():
        if orphan.reap is not None and launch_id not in now:
            now[launch_id] = orphan.model_copy(update={"belief": Belief(state="absent")})
    if now == before:
        return
    draft.update(orphans=tuple(now.values()))
    for launch_id in now.keys() - before.keys():
        orphan = now[launch_id]
        draft.emit("orphan_found", launch_id=launch_id, owner=orphan.owner, gpus=[gpu.uuid for gpu in orphan.gpus])
        if _end_was_decided(draft.state, orphan):
            _order(draft, orphan, why="this pod launched it and has decided its end")
    for launch_id in before.keys() - now.keys():
        draft.emit("orphan_gone", launch_id=launch_id)


def reap_launch(draft: Draft, command: ReapLaunch) -> None:
    """A person wants an orphan ended. Rejected: ``orphan_not_found``, ``not_the_owner``."""
    orphan = _find(draft.state, command.launch_id)
    if orphan is None:
        known = ", ".join(orphan.launch_id for orphan in draft.state.orphans) or "none"
        raise Rejected(
            "orphan_not_found",
            f"pod {draft.state.name!r} lists no launch {command.launch_id!r} that no server here owns; it lists: "
            f"{known}. Servers are ended with `podctl stop`",
        )
    named = command.owner is not None and command.owner == (orphan.owner or "")
    if orphan.owner != draft.state.owner and not named:
        raise Rejected(
            "not_the_owner",
            f"launch {orphan.launch_id!r} was launched by {orphan.owner or 'nobody who left a name'}, not by this pod: "
            f"somebody else may need it. To end it all the same, name its owner: --owner '{orphan.owner or ''}'",
        )
    if orphan.reap is None:
        _order(draft, orphan, why="asked for")


def orphan_ended(draft: Draft, command: StopDone) -> None:
    """Take in the answer to a reap. Where GPU memory stayed in use, it is verified again later."""
    orphan = _find(draft.state, command.launch_id)
    if orphan is None or orphan.reap is None:
        return
    if command.result.state != "stopped":
        _retry(draft, orphan, orphan.reap, code=command.result.state, message="its GPU memory did not come back")
        return
    draft.update(orphans=tuple(other for other in draft.state.orphans if other is not orphan))
    draft.emit("orphan_reaped", launch_id=orphan.launch_id, owner=orphan.owner, killed=command.result.killed)


def reap_failed(draft: Draft, command: StopFailed) -> None:
    """Note that a reap has to be tried again, after a growing delay."""
    orphan = _find(draft.state, command.launch_id)
    if orphan is not None and orphan.reap is not None:
        _retry(draft, orphan, orphan.reap, code=command.code, message=command.message)


def _seen(before: Orphan | None, launch: Observation) -> Orphan:
    return Orphan(
        launch_id=launch.id,
        belief=merge(before.belief if before else None, launch),
        gpus=launch.gpus,
        ports=(*launch.ports, *launch.inner_ports),
        owner=launch.owner,
        started_at=launch.started_at,
        reap=before.reap if before else None,
    )


def _end_was_decided(state: GpuPodState, orphan: Orphan) -> bool:
    """Return whether this very state launched it and has gone on from it."""
    parts = parse_launch_id(orphan.launch_id)
    if not state.owner or orphan.owner != state.owner or parts is None or parts[0] != state.name:
        return False
    server = state.servers.get(parts[1])
    return server is not None and parts[2] <= server.counter and orphan.launch_id != server.launch_id


def _order(draft: Draft, orphan: Orphan, *, why: str) -> None:
    order = StopOrder(requested_at=draft.now, by=draft.by, grace=DEFAULT_GRACE_SECONDS)
    _replace(draft, orphan, order)
    draft.emit("orphan_reaping", launch_id=orphan.launch_id, owner=orphan.owner, reason=why)


def _retry(draft: Draft, orphan: Orphan, order: StopOrder, *, code: str, message: str) -> None:
    again = order.tried_again(draft.now)
    _replace(draft, orphan, again)
    draft.emit("orphan_reap_failed", launch_id=orphan.launch_id, code=code, message=message,
               retry_in_seconds=again.seconds_left(draft.now))  # fmt: skip


def _replace(draft: Draft, orphan: Orphan, order: StopOrder) -> None:
    ordered = orphan.model_copy(update={"reap": order})
    draft.update(orphans=tuple(ordered if other is orphan else other for other in draft.state.orphans))


def _find(state: GpuPodState, launch_id: str) -> Orphan | None:
    return next((orphan for orphan in state.orphans if orphan.launch_id == launch_id), None)
