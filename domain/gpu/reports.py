"""What activities report, and what follows from it: reconciling what is believed with what is seen."""

from datetime import timedelta

from domain.gpu import budgets, restarts
from domain.gpu.adoption import adopted, not_adopted
from domain.gpu.beliefs import merge
from domain.gpu.commands import (
    HolderTold,
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodObserved,
    PodUnreachable,
    StopDone,
    StopFailed,
)
from domain.gpu.draft import Draft
from domain.gpu.failures import classify, describe_exit, failure
from domain.gpu.inventory import compact, differences
from domain.gpu.models import Belief, FailureType, ModelServer, ServerState, StopOrder, Told
from domain.gpu.observation import Inventory, Observation, StopResult
from domain.gpu.orphans import note_orphans, orphan_ended, reap_failed
from domain.gpu.servers import after_end, requeue
from domain.gpu.setup_rules import with_installed
from domain.ids import parse_launch_id

#: Memory that may differ from the value noted before a launch and still count as given back, in MiB.
MEMORY_TOLERANCE_MIB = 512
#: Seconds until a machine that something waits for is looked at again: doubled while nothing changes.
FIRST_RECHECK_SECONDS = 15.0
LAST_RECHECK_SECONDS = 600.0
#: A start that the podlet refused this often, each time for a reason that a new plan should have cured, fails.
_REFUSED_LAUNCHES = 5
#: States in which nobody asked for an end yet.
_MAY_SERVE = frozenset({"launching", "loading", "ready", "unhealthy", "lost"})
#: The podlet's refusals after which nothing of the launch exists, nor ever will under its id.
_NOT_LAUNCHED: dict[str, FailureType] = {
    "port_taken": "port_taken",
    "gpu_share_taken": "gpu_share_taken",
    "gpu_missing": "gpu_missing",
    "program_not_found": "program_not_found",
    "launch_stopped": "not_launched",
    "bad_request": "not_launched",
}
#: Those of them that planning again, on a fresh look at the machine, can cure.
_PLAN_AGAIN = frozenset({"port_taken", "gpu_share_taken", "gpu_missing"})


def pod_observed(draft: Draft, command: PodObserved) -> None:
    """Take in a look at the machine. One that may be from before the boot that is known by now is dropped."""
    if draft.state.boot not in {command.boot, command.known_boot}:
        return
    launches = {launch.id: launch for launch in command.launches if launch.kind == "server"}
    _reached(draft)
    _note_boot(draft, command.boot, set(command.expected) - launches.keys())
    _learn_counters(draft, launches)
    # An id of ours that somebody else was quicker to use is not ours.
    ours = {launch.id: launch for launch in launches.values() if launch.owner in {None, draft.state.owner}}
    for server in list(draft.state.servers.values()):
        if not server.holds_lease or server.launch_id is None:
            continue
        seen = ours.get(server.launch_id)
        if seen is not None and seen.boot not in {None, command.boot} and server.state in _MAY_SERVE:
            _rebooted(draft, server)
        elif seen is not None and seen.state != "absent":
            _see(draft, server, seen, command.log_tails.get(seen.id, seen.last_line or ""))
        elif server.launch_id in command.expected:
            _missing(draft, server)
    note_orphans(draft, launches)
    if command.inventory is not None:
        _note_inventory(draft, command.inventory)


def pod_unreachable(draft: Draft, command: PodUnreachable) -> None:
    """Note that the machine does not answer. Nothing else follows: what runs there is left alone."""
    if draft.state.reachable is False:
        return
    draft.update(reachable=False, since=draft.now, unreachable_reason=command.reason)
    kept = [server.name for server in draft.state.servers.values() if server.may_have_process]
    draft.emit("pod_unreachable", reason=command.reason, servers_left_alone=list(kept))


def inspection_failed(draft: Draft, command: InspectionFailed) -> None:
    """Note that the inventory could not be read; tried again after a growing delay while the machine answers."""
    if draft.state.reachable is not True:
        pod_unreachable(draft, PodUnreachable(reason=command.reason))
        return
    delay = draft.state.recheck_seconds
    draft.update(
        inspection_problem=command.reason,
        inspect_not_before=draft.now + timedelta(seconds=delay),
        recheck_seconds=min(delay * 2, LAST_RECHECK_SECONDS),
    )
    draft.emit("inspection_failed", reason=command.reason, retry_in_seconds=delay)


def launch_done(draft: Draft, command: LaunchDone) -> None:
    """Note that a launch exists on the machine. Looks that came in meanwhile know more and win."""
    server = draft.state.server_of_launch(command.launch_id)
    if server is None or server.state != "launching":
        return
    seen = command.observation
    if seen.owner not in {None, draft.state.owner}:
        _id_taken(draft, server, seen)
    elif seen.alive and seen.exit is None and server.adopted is None:
        _loading(draft, draft.change(server, belief=merge(server.belief, seen), pid=seen.pid))
    else:
        _see(draft, server, seen, command.log_tail or seen.last_line or "")


def _id_taken(draft: Draft, server: ModelServer, seen: Observation) -> None:
    """Somebody else has launched under this id, and nothing was launched for us: the next id is tried."""
    draft.emit("launch_refused", server=server.name, launch_id=seen.id, code="id_taken",
               message=f"a launch of this id belongs to {seen.owner}")  # fmt: skip
    if server.adopted is not None:
        not_adopted(draft, server, f"a launch of id {seen.id} belongs to {seen.owner}: adopt it again")
        return
    requeue(draft, draft.end(server, "not_launched", "stopped"))


def launch_failed(draft: Draft, command: LaunchFailed) -> None:
    """Note that a launch was refused: planned again where that can help, else failed and, in doubt, stopped."""
    server = draft.state.server_of_launch(command.launch_id)
    if server is None or server.state != "launching":
        return
    draft.emit("launch_refused", server=server.name, launch_id=command.launch_id, code=command.code,
               message=command.message)  # fmt: skip
    if server.adopted is not None:
        not_adopted(draft, server, command.message)
        return
    if command.code == "port_taken" and server.plan is not None:
        # Which of its ports was taken is not said: the whole plan's are avoided for a while.
        busy = dict.fromkeys((server.plan.port, server.plan.internal_ports[0]), draft.now)
        draft.update(busy_ports={**draft.state.busy_ports, **busy})
    elif command.code in _PLAN_AGAIN:
        draft.update(inventory_stale=True)
    if command.code in _PLAN_AGAIN and server.refused_launches + 1 < _REFUSED_LAUNCHES:
        ended = draft.end(server, "not_launched", "stopped", refused_launches=server.refused_launches + 1)
        requeue(draft, ended)
        return
    kind: FailureType = "disk_full" if command.code == "disk_full" else _NOT_LAUNCHED.get(command.code, "unknown")
    reason = failure(kind, command.message)
    server = draft.fail(server, reason)
    if command.code in _NOT_LAUNCHED:
        draft.end(server, "not_launched", "failed")
    else:
        draft.order_stop(server, 0.0, why="its launch failed, and something of it may be left")


def stop_done(draft: Draft, command: StopDone) -> None:
    """Note a verified stop and release the lease; where GPU memory stayed in use, keep it."""
    server = draft.state.server_of_launch(command.launch_id)
    if server is None:
        orphan_ended(draft, command)
    elif server.holds_lease:
        _stopped(draft, server, command.result)


def stop_failed(draft: Draft, command: StopFailed) -> None:
    """Note that a stop has to be tried again, after a growing delay."""
    server = draft.state.server_of_launch(command.launch_id)
    if server is None:
        reap_failed(draft, command)
        return
    if not server.holds_lease or server.stop is None:
        return
    stop = server.stop.tried_again(draft.now)
    draft.change(server, stop=stop)
    draft.emit(
        "server_stop_failed",
        server=server.name,
        launch_id=command.launch_id,
        code=command.code,
        message=command.message,
        retry_in_seconds=stop.seconds_left(draft.now),
    )


def holder_told(draft: Draft, command: HolderTold) -> None:
    """Note what a task knows about a server."""
    server = draft.state.servers.get(command.name)
    if server is not None and command.task_id in server.holders:
        told = Told(status=command.status, launch_id=command.launch_id)
        draft.change(server, told={**server.told, command.task_id: told})


def _reached(draft: Draft) -> None:
    if draft.state.reachable is True:
        return
    away = (draft.now - draft.state.since).total_seconds() if draft.state.reachable is False else None
    draft.update(reachable=True, since=draft.now, unreachable_reason="")
    draft.emit("pod_reachable", unreachable_seconds=away)


def _note_boot(draft: Draft, boot: str, missing: set[str]) -> None:
    """Note which boot the machine is in. Of another boot's processes nothing is left."""
    before = draft.state.boot
    if before == boot:
        return
    draft.update(boot=boot)
    if before is None:
        return
    draft.update(inventory_stale=True, busy_ports={})
    held = [server for server in draft.state.servers.values() if server.holds_lease]
    draft.emit("pod_rebooted", boot=boot, servers=[server.name for server in held])
    for server in held:
        if server.state == "memory_unexplained":
            after_end(draft, draft.end(server, "rebooted", _final(server)))
        elif server.state in _MAY_SERVE - {"launching"} and server.launch_id in missing:
            _rebooted(draft, server)
        # Of the others the podlet says which boot they were launched in. What is being stopped goes on being stopped.


def _rebooted(draft: Draft, server: ModelServer) -> None:
    reason = failure("machine_rebooted", f"pod {draft.state.name!r} rebooted while it was {server.state}")
    draft.end(draft.fail(server, reason), "rebooted", "failed")


def _learn_counters(draft: Draft, launches: dict[str, Observation]) -> None:
    """Never give a launch id that the machine has seen, even if this state was made anew."""
    highest = draft.state.counter_floor
    for launch_id in launches:
        parts = parse_launch_id(launch_id)
        if parts is None or parts[0] != draft.state.name:
            continue
        known = draft.state.servers.get(parts[1])
        if parts[2] > (known.counter if known else 0):
            highest = max(highest, parts[2])
    if highest != draft.state.counter_floor:
        draft.update(counter_floor=highest)


def _see(draft: Draft, server: ModelServer, seen: Observation, log_tail: str) -> None:
    """Take in a look at one server's launch."""
    if server.adopted is not None and server.state == "launching":
        server = adopted(draft, server, seen)
    belief = merge(server.belief, seen)
    changes = {"belief": belief, "pid": belief.pid, "exit": seen.exit or server.exit, "stage": belief.stage}
    if any(getattr(server, name) != value for name, value in changes.items()):
        stage_before = server.stage
        server = draft.change(server, **changes)
        if server.state == "loading" and not belief.ready and belief.stage not in {stage_before, None, "start"}:
            draft.emit("server_loading", by="podctl", server=server.name, launch_id=seen.id, stage=belief.stage)
    if seen.stopped is not None and seen.stopped.state == "stopped":
        _stopped(draft, server, seen.stopped)
    elif server.state not in _MAY_SERVE:
        return  # being stopped or cleaned up: the verified stop says how it ended
    elif seen.state == "exited" or seen.exit is not None:
        _ended_by_itself(draft, server, seen, log_tail)
    elif seen.state == "running":
        _running(draft, server, seen, belief, log_tail)


def _running(draft: Draft, server: ModelServer, seen: Observation, belief: Belief, log_tail: str) -> None:
    if server.state in {"launching", "lost"}:
        server = _loading(draft, server)
    if server.adopted is None and budgets.is_stalled(belief, seen):
        _stalled(draft, server, seen, belief, log_tail)
    elif not belief.ready:
        return
    elif belief.healthy is False:
        _unhealthy(draft, server, seen, log_tail)
    elif server.state != "ready":
        loaded = (draft.now - server.since).total_seconds() if server.ready_at is None else None
        ready = draft.move(server, "ready", ready_at=server.ready_at or draft.now)
        port = ready.plan.port if ready.plan else None
        draft.emit("server_ready", server=server.name, launch_id=server.launch_id, port=port, load_seconds=loaded)
    elif not server.holders and budgets.is_idle(server.request.idle_ttl, seen):
        # A task that holds it needs it: it is idle between two of the task's requests, however long that takes.
        server = draft.change(server, wanted=False, kept=False)
        draft.order_stop(server, server.request.grace, why=f"idle: no request for {seen.idle_seconds:.0f} s")


def _stalled(draft: Draft, server: ModelServer, seen: Observation, belief: Belief, log_tail: str) -> None:
    stage = belief.stage or "start"
    reason = failure(
        "load_stalled",
        f"no progress for {seen.silent_seconds:.0f} s in stage {stage!r}, which may take {budgets.budget(stage):.0f} s "
        f"without any; the last line of its log: {seen.last_line or 'there is none'}",
        log_tail,
    )
    draft.order_stop(draft.fail(server, reason), 0.0, why="its start has stalled")


def _unhealthy(draft: Draft, server: ModelServer, seen: Observation, log_tail: str) -> None:
    """Note that a server is unhealthy; end one that stays so, where its policy then launches it again."""
    if server.state != "unhealthy":
        reason = seen.unhealthy_reason or ""
        draft.move(server, "unhealthy", unhealthy_reason=reason)
        draft.emit("server_unhealthy", server=server.name, launch_id=server.launch_id, reason=reason or None)
        return
    # On return from an outage it gets its time anew: what it was before says nothing.
    seconds = (draft.now - max(server.since, draft.state.since)).total_seconds()
    patient = seconds < budgets.UNRESPONSIVE_AFTER or not restarts.limit(server, "unresponsive")
    if patient or seen.healthy is not False:
        return
    why = f"unhealthy for {seconds:.0f} s: {server.unhealthy_reason or 'it gave no reason'}"
    server = draft.fail(server, failure("unresponsive", why, log_tail))
    draft.order_stop(server, 0.0, why="it does not respond")


def _loading(draft: Draft, server: ModelServer) -> ModelServer:
    draft.emit("server_loading", by="podctl", server=server.name, launch_id=server.launch_id, pid=server.pid)
    return draft.move(server, "loading", failure=None)


def _ended_by_itself(draft: Draft, server: ModelServer, seen: Observation, log_tail: str) -> None:
    if seen.stop_requested:
        draft.order_stop(draft.plan_restart(server, None), 0.0, why="it was stopped on the machine")
        return
    was_ready = server.belief is not None and server.belief.ready
    server = draft.fail(server, classify(seen.exit, log_tail, was_ready=was_ready))
    if server.retry_at is not None:
        draft.order_stop(server, 0.0, why="what its launch left is cleaned up before the next one")
    elif seen.state == "exited" and seen.members == 0:
        # It has failed, and that can be said at once; what it left behind is cleaned up before its GPUs are given on.
        draft.change(server, stop=StopOrder(requested_at=draft.now, by="podctl", grace=0.0))
    else:
        draft.order_stop(server, 0.0, why="its root process is gone and others of it still run")


def _missing(draft: Draft, server: ModelServer) -> None:
    """The machine has no record of a launch that was there. Its processes may live: nothing is concluded."""
    if server.belief is not None:
        server = draft.change(server, belief=None)
    if server.state not in {"loading", "ready", "unhealthy"}:
        return
    reason = failure("record_missing", f"the machine has no record of launch {server.launch_id} any more")
    draft.move(server, "lost", failure=reason)
    draft.emit("server_lost", server=server.name, launch_id=server.launch_id, message=reason.message,
               advice=reason.advice)  # fmt: skip


def _note_inventory(draft: Draft, inventory: Inventory) -> None:
    changes = differences(draft.state.inventory, inventory)
    recheck = FIRST_RECHECK_SECONDS if changes else min(draft.state.recheck_seconds * 2, LAST_RECHECK_SECONDS)
    draft.update(
        inventory=compact(with_installed(draft.state, inventory)),
        inventory_at=draft.now,
        inventory_stale=False,
        recheck_seconds=recheck,
        inspection_problem="",
        inspect_not_before=None,
    )
    if changes:
        draft.emit("inventory_changed", changes=list(changes))
    for server in list(draft.state.servers.values()):
        if server.state == "memory_unexplained" and _memory_came_back(server, inventory):
            after_end(draft, draft.end(server, "verified", _final(server)))


def _stopped(draft: Draft, server: ModelServer, result: StopResult) -> None:
    exit_ = result.exit or server.exit
    if server.stop is None and server.state != "memory_unexplained":  # stopped by somebody else's hand
        server = draft.plan_restart(server, None)
    if result.state == "memory_unexplained":
        readings = {uuid: f"{m.before} MiB before the launch, {m.now} MiB now" for uuid, m in result.memory.items()}
        draft.move(server, "memory_unexplained", stop=None, stop_result=result, exit=exit_)
        draft.update(recheck_seconds=FIRST_RECHECK_SECONDS)
        draft.emit("server_memory_unexplained", server=server.name, launch_id=server.launch_id, memory=dict(readings))
        return
    draft.emit(
        "server_stopped",
        server=server.name,
        launch_id=server.launch_id,
        killed=result.killed,
        seconds=result.seconds,
        exit=describe_exit(exit_) if exit_ and server.failure is None else None,
        after_failure=server.failure.type if server.failure else None,
        left_files_removed=len(result.shared_memory_removed) + len(result.sockets_removed),
    )
    after_end(draft, draft.end(server, "verified", _final(server), stop=None, stop_result=result, exit=exit_))


def _final(server: ModelServer) -> ServerState:
    return "failed" if server.failure is not None else "stopped"


def _memory_came_back(server: ModelServer, inventory: Inventory) -> bool:
    readings = server.stop_result.memory if server.stop_result else {}
    used = {gpu.uuid: gpu.memory_used_mib for gpu in inventory.gpus}
    for uuid in server.plan.gpus if server.plan else ():
        before = readings[uuid].before if uuid in readings else None
        now = used.get(uuid)
        if before is None or now is None or now > before + MEMORY_TOLERANCE_MIB:
            return False
    return True
