"""The task's pull request: asked for and merged by whoever keeps the repository, who tells what becomes of it."""

from domain.errors import Rejected
from domain.task import actions, messages
from domain.task.change import Change, check_length
from domain.task.commands import (
    MergePullRequest,
    OpenDraftPullRequest,
    RecordExternalState,
    RequestAction,
    RequestMerge,
)
from domain.task.models import ExternalSync, Merge

TITLE_LIMIT = 200
BRANCH_LIMIT = 200
URL_LIMIT = 2_000


def open_draft_pull_request(change: Change, command: OpenDraftPullRequest) -> None:
    """Ask for a draft pull request; a task has one at a time."""
    sync = change.state.external_sync
    if sync.state not in ("none", "closed"):
        raise Rejected(
            "pull_request_exists",
            f"the task's pull request is {sync.state.replace('_', ' ')}{f' ({sync.url})' if sync.url else ''}; another "
            "can be asked for when it is closed",
        )
    if not command.title.strip():
        raise Rejected("content_empty", "a pull request needs a title")
    check_length("the title", command.title, TITLE_LIMIT, "the body has room for more")
    check_length("the body", command.body, messages.MESSAGE_LIMIT, "put the text into a file and name it")
    check_length("the branch", command.branch, BRANCH_LIMIT, "use a shorter name")
    change.set(
        external_sync=ExternalSync(
            state="draft_requested",
            title=command.title,
            body=command.body,
            branch=command.branch,
            updated_by=change.by,
            updated_at=change.now,
        )
    )
    change.emit("draft_pull_request_requested", title=command.title, branch=command.branch)


def request_merge(change: Change, command: RequestMerge) -> None:
    """Ask people for leave to merge."""
    actions.request_action(change, RequestAction(action=Merge(), reason=command.reason))


def merge_pull_request(change: Change, _: MergePullRequest) -> None:
    """Take it that the granted merge is being done. Only after the grant, and by one alone."""
    sync = change.state.external_sync
    if sync.state == "merging":
        at = "" if sync.updated_at is None else f" since {sync.updated_at:%Y-%m-%d %H:%M} UTC"
        raise Rejected("already_merging", f"{sync.updated_by} is merging the pull request{at}: nobody else may begin")
    action = actions.merge_action(change.state)
    if action is None or action.status != "granted":
        wait = f"{action.action_id} waits for a person's grant" if action else "ask for it with request_merge"
        raise Rejected("merge_not_granted", f"nobody has granted merging the pull request: {wait}")
    change.set(
        external_sync=sync.model_copy(
            update={"state": "merging", "updated_by": change.by, "updated_at": change.now, "detail": ""}
        )
    )
    change.emit("merge_started", action=action.action_id, url=sync.url)


def record_external_state(change: Change, command: RecordExternalState) -> None:
    """Take what was seen of the pull request; a merge that is proposed or under way ends by it."""
    check_length("the address", command.url, URL_LIMIT, "give the pull request's own")
    check_length("the detail", command.detail, actions.REASON_LIMIT, "post a longer text as a message")
    if command.url and not command.url.startswith(("http://", "https://")):
        raise Rejected("invalid_url", f"{command.url!r} is no address: give the pull request's own, https://…")
    sync = change.state.external_sync
    if sync.state == "merged" and command.state != "merged":
        raise Rejected("already_merged", f"the pull request {sync.url} is merged; it cannot be {command.state} again")
    seen = sync.model_copy(
        update={
            "state": command.state,
            "reported": command.state,
            "url": command.url or sync.url,
            "number": command.number or sync.number,
            "detail": command.detail,
        }
    )
    asked = sync.state == "merge_requested" and command.state in ("draft", "open")
    if asked:
        seen = seen.model_copy(update={"state": "merge_requested"})
    if seen == sync:
        return
    change.set(external_sync=seen.model_copy(update={"updated_by": change.by, "updated_at": change.now}))
    change.emit("external_state_recorded", state=command.state, url=seen.url, number=seen.number, detail=command.detail)
    merge = actions.merge_action(change.state)
    if merge is None or asked:
        return
    if merge.status == "requested":
        actions.withdraw_action(change, merge.action_id, f"the pull request is {command.state} already")
    elif command.state == "merged":
        actions.end_action(change, merge.action_id)
    else:
        detail = f": {command.detail}" if command.detail else ""
        actions.end_action(change, merge.action_id, error=f"the pull request is {command.state}{detail}")
