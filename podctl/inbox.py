"""What waits for a person, over all tasks, as the server's list shows it: one request, no worker, no task is asked."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest
from temporalio.client import Client

from domain.ids import TASK_WORKFLOW_PREFIX
from podctl.client import PodctlClient

#: Tasks that are looked at.
LIMIT = 10_000
_PAGE = 1_000
_MEMO = frozenset({"title", "inbox", "inbox_count"})
_UNSEARCHABLE = frozenset('"\\')


@dataclass(frozen=True)
class InboxRow:
    """One thing that a person should see, with the command that deals with it; empty for mere news."""

    task: str
    title: str
    item: str
    kind: str
    preview: str
    command: str
    recipient: str
    message: str | None
    workstream: str | None
    created_at: datetime
    urgent: bool
    read: bool


@dataclass(frozen=True)
class Inbox:
    """What somebody should see: unread first, and of those what is urgent, then the oldest."""

    rows: tuple[InboxRow, ...]
    #: Task -> how many items it has that the list has no room for.
    more: Mapping[str, int]


async def read_inbox(client: PodctlClient, recipient: str | None = None) -> Inbox:
    """Return the inbox of one person, or of everybody. Needs no worker."""
    # Some servers break on quotes in a query, and none minds upper and lower case: what is found is looked at again.
    searched = recipient is not None and not any(character in recipient for character in _UNSEARCHABLE)
    whose = f'PodctlInbox = "{recipient}"' if searched else "PodctlInbox IS NOT NULL"
    query = f'ExecutionStatus = "Running" AND {whose}'
    rows: list[InboxRow] = []
    more: dict[str, int] = {}
    async for workflow_id, memo in _listed(client.temporal, query):
        task = workflow_id.removeprefix(TASK_WORKFLOW_PREFIX)
        items: Sequence[Mapping[str, Any]] = memo.get("inbox", ())
        found = [inbox_row(task, str(memo.get("title", "")), item) for item in items]
        rows += [row for row in found if recipient in (None, row.recipient)]
        left = int(memo.get("inbox_count", 0)) - len(items)
        if left > 0:
            more[task] = left
    rows.sort(key=lambda row: (row.read, not row.urgent, not row.command, row.created_at))
    return Inbox(tuple(rows), more)


async def _listed(client: Client, query: str) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
    """Yield the id and what of the memo makes an inbox, of at most ``LIMIT`` workflows.

    The SDK's own list decodes all that the server knows of each, which takes as long as the server does.
    """
    request = ListWorkflowExecutionsRequest(namespace=client.namespace, query=query, page_size=_PAGE)
    for _ in range(LIMIT // _PAGE):
        page = await client.workflow_service.list_workflow_executions(request, retry=True)
        for found in page.executions:
            payloads = {name: payload for name, payload in found.memo.fields.items() if name in _MEMO}
            values = await client.data_converter.decode([*payloads.values()])
            yield found.execution.workflow_id, dict(zip(payloads, values, strict=True))
        if not page.next_page_token:
            return
        request.next_page_token = page.next_page_token


def inbox_row(task: str, title: str, item: Mapping[str, Any]) -> InboxRow:
    """Return an item of a task's memo as a row."""
    return InboxRow(
        task=task,
        title=title,
        item=item["item"],
        kind=item["kind"],
        preview=item["preview"],
        command=item.get("command", ""),
        recipient=item["recipient"],
        message=item.get("message"),
        workstream=item.get("workstream"),
        created_at=datetime.fromisoformat(item["created_at"]),
        urgent=item.get("urgent", False),
        read=item.get("read", False),
    )
