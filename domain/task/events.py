"""Every type of event that a task's log can hold, and what each carries. The tests hold the rules to this table."""

from typing import NamedTuple


class EventType(NamedTuple):
    """What one type of event tells."""

    meaning: str
    #: Every field that its payload can have; one that says nothing may be left out.
    fields: tuple[str, ...]


def _event(meaning: str, fields: str = "") -> EventType:
    return EventType(meaning, tuple(fields.split()))


#: By type, in the order of a task's life.
EVENTS: dict[str, EventType] = {
    "task_created": _event("The task began.", "task title config"),
    "config_changed": _event(
        "Settings were changed; those that did carry their new value.",
        "revision gates agents agent_attempts max_concurrent spawn_cooldown_seconds notify failure_cooldown_seconds "
        "escalate_after_seconds escalate_to",
    ),
    "command_refused": _event("A signal was refused; it changed nothing else.", "command code message"),
    # Spec, plan, review.
    "spec_updated": _event("The spec was written.", "revision digest bytes"),
    "spec_approved": _event("The spec was approved.", "revision digest revision_named comment"),
    "spec_rejected": _event("The spec was sent back.", "revision digest comment"),
    "spec_reopened": _event("The spec is open again: its approval, and the plan's, ended.", "reason"),
    "plan_updated": _event("The plan was written.", "revision digest summary workstreams model_servers to_be_redone"),
    "plan_approved": _event("The plan was approved.", "revision digest revision_named comment"),
    "plan_rejected": _event("The plan was sent back.", "revision digest comment"),
    "plan_reopened": _event("The plan is open again: its approval ended.", "reason"),
    "report_written": _event("The review's report was written.", "review revision digest bytes"),
    "review_approved": _event("The finished work was accepted.", "revision digest revision_named comment"),
    "review_rejected": _event("The finished work was sent back.", "revision digest comment"),
    # Review threads.
    "review_thread_started": _event(
        "Somebody commented on a document.", "thread document revision line_start line_end content"
    ),
    "review_thread_answered": _event("A comment was answered.", "thread comment content"),
    "review_thread_resolved": _event("A thread was settled.", "thread document"),
    "review_thread_reopened": _event("A thread was taken up again.", "thread document"),
    "review_threads_outdated": _event("An edit took away what these are about.", "document revision threads"),
    "review_threads_restored": _event("An edit brought back what these are about.", "document revision threads"),
    # Phases.
    "transition_requested": _event("Somebody asked for another phase.", "to reason needs_approval"),
    "transition_approved": _event("A person let the change of phase happen.", "to requested_by comment"),
    "transition_rejected": _event("A person dropped the change of phase.", "to requested_by reason"),
    "transition_withdrawn": _event(
        "The change of phase no longer made sense: work was taken up again.", "to requested_by"
    ),
    "phase_changed": _event("The task is in another phase.", "from to reason"),
    "task_cancelled": _event("The task was ended by a person.", "reason"),
    # Workstreams.
    "workstream_created": _event(
        "A workstream of the plan became real.", "workstream title depends_on executor priority"
    ),
    "workstream_started": _event("An attempt began.", "workstream title attempt executor pod run_id server"),
    "workstream_awaiting_input": _event("A workstream waits for a person.", "workstream by_hand"),
    "workstream_resumed": _event("A workstream got its answer and goes on.", "workstream"),
    "workstream_completed": _event("An attempt succeeded.", "workstream title attempt result"),
    "workstream_failed": _event(
        "An attempt failed; recoverable: it is tried again by itself, at retry_at.",
        "workstream attempt error recoverable retry_at result",
    ),
    "workstream_interrupted": _event(
        "An attempt was ended, or nobody saw how it ended.", "workstream attempt error recoverable result"
    ),
    "workstream_retried": _event("A workstream is to be done once more.", "workstream attempt"),
    "workstream_skipped": _event("A workstream was left out.", "workstream reason"),
    "workstream_priority_changed": _event("Another one starts first.", "workstream priority"),
    "workstreams_blocked": _event("A failure stands in the way of these.", "workstreams failed"),
    "workstreams_unblocked": _event("No failure stands in the way of these any more.", "workstreams"),
    "run_stopped": _event("A run that had to end is gone, verified.", "run_id pod"),
    "workstream_reassigned": _event(
        "A workstream is to be done in another way; the plan has a new revision.",
        "workstream executor revision digest",
    ),
    # Agents.
    "agent_registered": _event("Somebody outside is at work as an agent.", "agent agent_type workstream"),
    "agent_requested": _event("An agent is to be started as soon as there is a slot.", "agent agent_type instructions"),
    "agent_started": _event(
        "An agent began; basis is what it works on.", "agent agent_type attempt basis executor pod run_id"
    ),
    "agent_awaiting_input": _event("An agent waits for the answer to what it asked.", "agent message"),
    "agent_resumed": _event("An agent got its answer and goes on.", "agent turns"),
    "agent_completed": _event("An agent's work is done.", "agent agent_type workstream attempt"),
    "agent_failed": _event(
        "An agent failed; it is tried again by itself at retry_at, where that is given.",
        "agent agent_type workstream attempt error retry_at",
    ),
    "agent_interrupted": _event(
        "An agent was ended, or nobody saw how it ended.", "agent agent_type workstream attempt error"
    ),
    "agent_unregistered": _event("An agent that had ended was forgotten.", "agent"),
    # Talk.
    "message_posted": _event("Somebody said something.", "message message_type content workstream thread agent"),
    "approval_requested": _event(
        "A question with options waits for a person.", "message content options blocking workstream server agent"
    ),
    "approval_given": _event("A person chose an option.", "message choice comment workstream server agent"),
    "approvals_closed": _event("These questions no longer matter.", "messages reason"),
    # Tracker.
    "tracker_created": _event("The deliverables board was begun.", "phases items"),
    "tracker_item_added": _event("A granted item came to the board.", "item phase summary workstream"),
    "tracker_item_updated": _event(
        "A granted change of an item was made; what changed is named.", "item summary workstream_id phase_id"
    ),
    "tracker_item_removed": _event("A granted removal of an item was made.", "item summary"),
    "tracker_item_status_changed": _event("An item is further, or not so far.", "item before status workstream"),
    "tracker_item_commented": _event("Somebody said something about an item.", "item comment content"),
    "tracker_eta_set": _event("A phase of the board is expected at another time.", "phase before eta"),
    # Actions that need a yes.
    "action_approval_requested": _event("Somebody proposed an action.", "action action_type description reason"),
    "action_approval_granted": _event("A person let an action happen, once.", "action comment run_id pod"),
    "action_approval_rejected": _event("A person refused an action.", "action comment"),
    "action_approval_withdrawn": _event("A proposed action no longer matters.", "action reason"),
    "action_approval_completed": _event("A granted action is done.", "action error exit_code"),
    "action_approval_failed": _event("A granted action failed; it is not repeated.", "action error exit_code"),
    "action_approval_interrupted": _event(
        "Nobody saw how a granted action ended, or it was stopped; it is not repeated.", "action error exit_code"
    ),
    # The pull request outside.
    "draft_pull_request_requested": _event("A draft pull request is wanted.", "title branch"),
    "merge_started": _event("Whoever keeps the repository merges.", "action url"),
    "external_state_recorded": _event("Somebody told how the pull request stands.", "state url number detail"),
    "inbox_escalated": _event("Something has waited too long and is urgent now.", "item recipient preview"),
    "person_notified": _event("The notify hook was called for something that waits.", "item urgent"),
    "notify_failed": _event(
        "The notify hook was called and failed; it is not called again for it.", "item error urgent"
    ),
    "marked_read": _event("Somebody read messages and inbox items; count of them all, the first ids.", "ids count"),
    # Model servers: what the task wants, and what the GPU pod tells.
    **{
        f"model_server_{status}": _event(meaning, "server pod model launch_id detail")
        for status, meaning in {
            "wanted": "The task wants a model server.",
            "attached": "The GPU pod counts the task as a holder.",
            "pending": "It waits for GPUs.",
            "launching": "It is being launched.",
            "loading": "It loads its model.",
            "ready": "It answers requests.",
            "unhealthy": "It runs and does not answer.",
            "unreachable": "Its machine does not answer.",
            "restarting": "It ended and is launched again.",
            "stopping": "It is being stopped.",
            "stopped": "It is stopped, verified.",
            "failed": "It failed; a person decides.",
            "lost": "Its record on the machine is gone.",
            "memory_unexplained": "It is stopped, and its GPU memory did not come back.",
            "releasing": "The task lets go of it, and its pod is being told.",
            "released": "The task no longer holds it.",
        }.items()
    },
}
