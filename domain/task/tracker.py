"""The tracker: a board of deliverables. Owners say how far their items are; items come, change and go by approval."""

from collections.abc import Iterable

from domain.errors import Rejected
from domain.task.change import Change, check_length, names
from domain.task.commands import CommentItem, CreateTracker, SetEta, SetItemStatus
from domain.task.models import (
    AddItem,
    Comment,
    RemoveItem,
    TaskState,
    Tracker,
    TrackerItem,
    TrackerPhase,
    UpdateItem,
)
from domain.task.readiness import drafts

PHASE_LIMIT = 50
ITEM_LIMIT = 200
#: Bytes of what a phase says of itself, and of one comment.
SUMMARY_LIMIT = 2_000
COMMENT_LIMIT = 2_000
#: Older comments of an item stay in the event log only.
COMMENTS_KEPT = 20

#: What needs an action approval.
ItemChange = AddItem | UpdateItem | RemoveItem


def create_tracker(change: Change, command: CreateTracker) -> None:
    """Begin the board, once."""
    if change.state.tracker is not None:
        raise Rejected(
            "tracker_exists",
            "the task has a tracker already; its items are added, changed and removed by action approval (podctl "
            f"tracker add {change.state.task_id} …)",
        )
    if not command.phases:
        raise Rejected("content_empty", "a tracker needs a phase at least")
    if len(command.phases) > PHASE_LIMIT:
        raise Rejected("too_many_phases", f"{len(command.phases)} phases, the limit is {PHASE_LIMIT}")
    tracker = Tracker(phases=command.phases)
    _check_unique("duplicate_phase", "phase", [phase.phase_id for phase in tracker.phases])
    _check_unique("duplicate_item", "item", [item.item_id for item in tracker.items()])
    _check_count(tracker)
    for phase in tracker.phases:
        check_length(f"the summary of phase {phase.phase_id!r}", phase.summary, SUMMARY_LIMIT, "shorten it")
    for item in tracker.items():
        _check_new(change.state, item)
    change.set(tracker=tracker)
    change.emit(
        "tracker_created",
        phases=[phase.phase_id for phase in tracker.phases],
        items=sum(len(phase.items) for phase in tracker.phases),
    )


def set_item_status(change: Change, command: SetItemStatus) -> None:
    """Say how far an item is. What a workstream owns, only that workstream or its agent says."""
    item = find_item(change.state, command.item_id)
    if command.workstream_id is not None and command.workstream_id not in drafts(change.state):
        known = names(drafts(change.state))
        raise Rejected("workstream_not_found", f"the plan names no workstream {command.workstream_id!r}; {known}")
    owner = owner_of(change.state, item)
    if owner is not None and command.workstream_id != owner and change.by != _agent_of(change.state, owner):
        raise Rejected(
            "not_owner",
            f"item {item.item_id!r} belongs to workstream {owner!r}, which alone says how far it is: name it as "
            "workstream_id (--workstream) if you speak for it",
        )
    if item.status == command.status:
        return
    _put_item(change, item.model_copy(update={"status": command.status}))
    change.emit(
        "tracker_item_status_changed",
        item=item.item_id,
        before=item.status,
        status=command.status,
        workstream=command.workstream_id,
    )


def comment_item(change: Change, command: CommentItem) -> None:
    """Say something about an item."""
    item = find_item(change.state, command.item_id)
    if not command.content.strip():
        raise Rejected("content_empty", f"a comment needs content: 1 to {COMMENT_LIMIT:,} bytes")
    check_length("the comment", command.content, COMMENT_LIMIT, "post a longer one as a message")
    comment = Comment(
        # What has happened so far counts: no two commands see the same number.
        comment_id=f"c-{change.state.sequence + 1}",
        author=change.by,
        content=command.content,
        posted_at=change.now,
    )
    _put_item(change, item.model_copy(update={"comments": (*item.comments, comment)[-COMMENTS_KEPT:]}))
    change.emit("tracker_item_commented", item=item.item_id, comment=comment.comment_id, content=comment.content)


def set_eta(change: Change, command: SetEta) -> None:
    """Say when a phase is expected to be done; no words: it is not known any more."""
    tracker = the_tracker(change.state)
    phase = _find_phase(tracker, command.phase_id)
    if phase.eta == command.eta:
        return
    change.set(tracker=_replaced(tracker, phase.model_copy(update={"eta": command.eta})))
    change.emit("tracker_eta_set", phase=phase.phase_id, before=phase.eta, eta=command.eta)


def changed_tracker(state: TaskState, action: ItemChange) -> Tracker:
    """Return the tracker after a change of its items, or raise ``Rejected`` if that is not possible now."""
    tracker = the_tracker(state)
    if isinstance(action, AddItem):
        phase = _find_phase(tracker, action.phase_id)
        _check_unique("duplicate_item", "item", [*(item.item_id for item in tracker.items()), action.item.item_id])
        _check_new(state, action.item)
        added = _replaced(tracker, phase.model_copy(update={"items": (*phase.items, action.item)}))
        _check_count(added)
        return added
    item = find_item(state, action.item_id)
    if isinstance(action, RemoveItem):
        return _without(tracker, item)
    fields = action.model_dump(include={"summary", "workstream_id"}, exclude_none=True)
    changed = item.model_copy(update=fields)
    if action.workstream_id is not None:
        _check_owner(state, changed)
    target = None if action.phase_id is None else _find_phase(tracker, action.phase_id)
    if target is not None and item not in target.items:
        rest = _without(tracker, item)
        return _replaced(rest, target.model_copy(update={"items": (*target.items, changed)}))
    if changed == item:
        raise Rejected("nothing_to_change", f"item {item.item_id!r} stays as it is: say what is to be different")
    return _with_item(tracker, changed)


def change_items(change: Change, action: ItemChange) -> None:
    """Carry out a granted change of items, or raise ``Rejected`` if it is not possible any more."""
    before = None if isinstance(action, AddItem) else find_item(change.state, action.item_id)
    change.set(tracker=changed_tracker(change.state, action))
    if isinstance(action, AddItem):
        item = action.item
        change.emit(
            "tracker_item_added",
            item=item.item_id,
            phase=action.phase_id,
            summary=item.summary,
            workstream=item.workstream_id,
        )
    elif isinstance(action, UpdateItem):
        change.emit(
            "tracker_item_updated",
            item=action.item_id,
            **action.model_dump(mode="json", exclude={"type", "item_id"}, exclude_none=True),
        )
    else:
        change.emit("tracker_item_removed", item=action.item_id, summary=None if before is None else before.summary)


def progress(tracker: Tracker) -> tuple[int, int]:
    """Return how many items are done, and how many there are."""
    statuses = [item.status for item in tracker.items()]
    return statuses.count("done"), len(statuses)


def the_tracker(state: TaskState) -> Tracker:
    """Return the tracker, or raise ``Rejected('no_tracker')``."""
    if state.tracker is None:
        raise Rejected("no_tracker", f"the task has no tracker yet: podctl tracker create {state.task_id} FILE")
    return state.tracker


def find_item(state: TaskState, item_id: str) -> TrackerItem:
    """Return an item, or raise ``Rejected('item_not_found')`` naming those there are."""
    tracker = the_tracker(state)
    item = next((item for item in tracker.items() if item.item_id == item_id), None)
    if item is None:
        there_are = names(item.item_id for item in tracker.items())
        raise Rejected("item_not_found", f"there is no item {item_id!r} on the tracker; {there_are}")
    return item


def owner_of(state: TaskState, item: TrackerItem) -> str | None:
    """Return the workstream that owns an item; None also when the plan has dropped it, so that nobody is locked out."""
    return item.workstream_id if item.workstream_id in drafts(state) else None


def _agent_of(state: TaskState, ws_id: str) -> str | None:
    workstream = state.workstreams.get(ws_id)
    return None if workstream is None else workstream.agent_id


def _check_new(state: TaskState, item: TrackerItem) -> None:
    if item.comments:
        raise Rejected("comments_not_allowed", f"item {item.item_id!r} comes with comments; they are made one by one")
    _check_owner(state, item)


def _check_owner(state: TaskState, item: TrackerItem) -> None:
    if item.workstream_id is not None and item.workstream_id not in drafts(state):
        raise Rejected(
            "workstream_not_found",
            f"item {item.item_id!r} is to belong to workstream {item.workstream_id!r}, which the plan does not name; "
            f"{names(drafts(state))}",
        )


def _check_unique(code: str, what: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise Rejected(code, f"{what} {name!r} would stand twice on the tracker; each needs an id of its own")
        seen.add(name)


def _check_count(tracker: Tracker) -> None:
    count = sum(len(phase.items) for phase in tracker.phases)
    if count > ITEM_LIMIT:
        raise Rejected("too_many_items", f"this would make {count} items on the tracker, the limit is {ITEM_LIMIT}")


def _find_phase(tracker: Tracker, phase_id: str) -> TrackerPhase:
    phase = next((phase for phase in tracker.phases if phase.phase_id == phase_id), None)
    if phase is None:
        there_are = names(phase.phase_id for phase in tracker.phases)
        raise Rejected("tracker_phase_not_found", f"there is no phase {phase_id!r} on the tracker; {there_are}")
    return phase


def _put_item(change: Change, item: TrackerItem) -> None:
    change.set(tracker=_with_item(the_tracker(change.state), item))


def _with_item(tracker: Tracker, item: TrackerItem) -> Tracker:
    """Return the tracker with another version of an item, where it stands."""
    phase = next(phase for phase in tracker.phases if any(old.item_id == item.item_id for old in phase.items))
    items = tuple(item if old.item_id == item.item_id else old for old in phase.items)
    return _replaced(tracker, phase.model_copy(update={"items": items}))


def _without(tracker: Tracker, item: TrackerItem) -> Tracker:
    phase = next(phase for phase in tracker.phases if item in phase.items)
    items = tuple(old for old in phase.items if old.item_id != item.item_id)
    return _replaced(tracker, phase.model_copy(update={"items": items}))


def _replaced(tracker: Tracker, phase: TrackerPhase) -> Tracker:
    return Tracker(phases=tuple(phase if old.phase_id == phase.phase_id else old for old in tracker.phases))
