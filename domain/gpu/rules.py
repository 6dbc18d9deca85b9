"""The one way in which a GPU pod's state changes: ``apply``."""

from datetime import datetime
from typing import assert_never, get_args

from domain.entity import ACCEPTED, STATE_LIMIT, Event, Sender, check_size, json_size, shed_record
from domain.errors import Rejected
from domain.gpu import adoption, orphans, reports, servers, setup_rules
from domain.gpu.commands import (
    AcceptMemory,
    AdoptServer,
    AttachServer,
    Command,
    DetachServer,
    Envelope,
    HolderGone,
    HolderTold,
    InspectionFailed,
    LaunchDone,
    LaunchFailed,
    PodInput,
    PodObserved,
    PodUnreachable,
    ReapLaunch,
    Remove,
    Report,
    ServerDue,
    SetAddress,
    SetTaskQueue,
    SetupStepDone,
    SetupStepFailed,
    StartServer,
    StartSetup,
    StopDone,
    StopFailed,
    StopServer,
)
from domain.gpu.draft import Draft
from domain.gpu.models import GpuPodState
from domain.gpu.queue import dispatch

#: Room that what is remembered of commands leaves for what the pod consists of.
RESERVE = 96 * 1024
#: Finished servers that are remembered, each with its last launch.
FINISHED_KEPT = 50


def register_pod(given: PodInput, now: datetime) -> tuple[GpuPodState, tuple[Event, ...]]:
    """Return the state that a GPU pod begins with."""
    state = GpuPodState(
        name=given.name,
        ssh=given.ssh,
        host_key=given.host_key,
        task_queue=given.task_queue,
        root=given.root,
        owner=given.command_id,
        since=now,
        created_by=given.by,
        created_at=now,
    )
    draft = Draft(state, command_id=given.command_id, by=given.by, now=now)
    draft.emit("pod_registered", pod=given.name, ssh=given.ssh.command, host_key=given.host_key,
               task_queue=given.task_queue)  # fmt: skip
    return draft.state.with_ledger(given.command_id, ACCEPTED), draft.events


def apply(state: GpuPodState, envelope: Envelope, now: datetime) -> tuple[GpuPodState, tuple[Event, ...]]:
    """Return the state after a command, and the events that tell of it; raise Rejected and change nothing.

    A command that was accepted before changes nothing again. Reports of activities are never refused.
    """
    before = state.ledger.get(envelope.command_id)
    if before == ACCEPTED:
        return state, ()
    if before is not None:
        raise Rejected(before, "already refused")
    is_report = isinstance(envelope.command, get_args(Report))
    if state.removed and not is_report:
        raise Rejected("pod_removed", f"pod {state.name!r} was removed: add it again with `podctl pods add`")
    draft = Draft(state, command_id=envelope.command_id, by=envelope.by, now=now)
    if not state.removed or isinstance(envelope.command, HolderTold | HolderGone):
        _change(draft, envelope.command)
        setup_rules.advance_setup(draft)
    dispatch(draft)
    _forget_finished(draft)
    changed = fit(draft.state.with_ledger(envelope.command_id, ACCEPTED))
    if not is_report:
        # A fact that does not fit is still a fact. What reports add is bounded, and far below what Temporal carries.
        check_size(
            changed,
            {
                "model servers": changed.servers,
                "remembered command ids": changed.ledger,
                "inventory": changed.inventory,
                "setup": changed.setup,
            },
        )
    return changed, draft.events


def fit(state: GpuPodState) -> GpuPodState:
    """Return ``state``, with the newest of its ledger and refusals only once it nears ``STATE_LIMIT``."""
    return state if json_size(state) <= STATE_LIMIT - RESERVE else shed_record(state)


def check_sender(envelope: Envelope, _sender: Sender) -> None:
    """Raise ``Rejected('not_allowed')`` for a command from outside that only activities and podctl itself may give."""
    if isinstance(envelope.command, (*get_args(Report), ServerDue)):
        raise Rejected("not_allowed", f"{envelope.command.type} is podctl's own, when it decides or reports")
    if envelope.by == "podctl":
        raise Rejected("not_allowed", "'podctl' is the scheduler's own name; say who you are (--as NAME)")


def _change(draft: Draft, command: Command) -> None:  # noqa: C901, PLR0912 - one line per kind of command
    match command:
        case SetAddress():
            _set_address(draft, command)
        case SetTaskQueue():
            draft.update(task_queue=command.task_queue)
            draft.emit("task_queue_changed", task_queue=command.task_queue or "the common one")
        case Remove():
            _remove(draft, command)
        case StartServer():
            servers.start_server(draft, command)
        case AdoptServer():
            adoption.adopt_server(draft, command)
        case AttachServer():
            servers.attach_server(draft, command)
        case DetachServer():
            servers.detach_server(draft, command)
        case StopServer():
            servers.stop_server(draft, command)
        case AcceptMemory():
            servers.accept_memory(draft, command)
        case ReapLaunch():
            orphans.reap_launch(draft, command)
        case ServerDue():
            servers.server_due(draft, command)
        case HolderGone():
            servers.holder_gone(draft, command.task_id)
        case PodObserved():
            reports.pod_observed(draft, command)
        case PodUnreachable():
            reports.pod_unreachable(draft, command)
        case InspectionFailed():
            reports.inspection_failed(draft, command)
        case LaunchDone():
            reports.launch_done(draft, command)
        case LaunchFailed():
            reports.launch_failed(draft, command)
        case StopDone():
            reports.stop_done(draft, command)
        case StopFailed():
            reports.stop_failed(draft, command)
        case HolderTold():
            reports.holder_told(draft, command)
        case StartSetup():
            setup_rules.start_setup(draft, command)
        case SetupStepDone():
            setup_rules.setup_step_done(draft, command)
        case SetupStepFailed():
            setup_rules.setup_step_failed(draft, command)
        case _:
            assert_never(command)


def _set_address(draft: Draft, command: SetAddress) -> None:
    pinned_anew = command.host_key is not None and command.host_key != draft.state.host_key
    before = draft.state.ssh.command
    draft.update(
        ssh=command.ssh,
        host_key=command.host_key or draft.state.host_key,
        address_revision=draft.state.address_revision + 1,
        reachable=None,
        since=draft.now,
        unreachable_reason="",
        inventory_stale=draft.state.inventory is not None,
        inspection_problem="",
        inspect_not_before=None,
    )
    draft.emit("address_changed", before=before, now=command.ssh.command,
               host_key=command.host_key if pinned_anew else "kept")  # fmt: skip


def _remove(draft: Draft, command: Remove) -> None:
    """Forget the machine. Rejected ``servers_running`` unless it is said to be lost."""
    active = [server for server in draft.state.servers.values() if not server.finished]
    if active and not command.lost:
        names = ", ".join(f"{server.name} ({server.state})" for server in active)
        raise Rejected(
            "servers_running",
            f"pod {draft.state.name!r} has model servers that are not stopped: {names}. Stop them first; if the "
            "machine is gone for good, say so with --lost",
        )
    for server in active:
        draft.emit("server_lost", server=server.name, launch_id=server.launch_id, message="the machine is lost")
        if server.holds_lease:
            draft.end(server, "lost", "lost", wanted=False, stop=None, retry_at=None)
        else:
            draft.move(server, "lost", wanted=False, retry_at=None)
    draft.update(removed=True, orphans=())
    draft.emit("pod_removed", lost=command.lost)


def _forget_finished(draft: Draft) -> None:
    finished = sorted((s for s in draft.state.servers.values() if s.finished), key=lambda s: (s.since, s.name))
    excess = finished[: max(0, len(finished) - FINISHED_KEPT)]
    if excess:
        names = {server.name for server in excess}
        draft.update(
            servers={name: server for name, server in draft.state.servers.items() if name not in names},
            counter_floor=max(draft.state.counter_floor, *(server.counter for server in excess)),
        )
