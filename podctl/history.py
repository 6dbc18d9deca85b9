"""A workflow's history as it grows, over the server's long poll: no timer asks, and no history is added."""

from collections.abc import AsyncIterator

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

#: What says that a worker has done something.
_NEWS = frozenset(
    {
        EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED,
    }
)


async def follow_changes(client: Client, workflow_id: str) -> AsyncIterator[None]:
    """Give a sign now and each time that a worker has done something, until the workflow closes.

    For who wants the newest state only: replaying a long history takes longer than asking a worker. Raises
    ``RPCError`` (NOT_FOUND) for an unknown one.
    """
    described = await client.get_workflow_handle(workflow_id).describe()
    yield
    async for _ in follow_history(client, workflow_id, described.run_id, described.history_length):
        yield


async def follow_history(
    client: Client, workflow_id: str, run_id: str, read_through: int
) -> AsyncIterator[list[HistoryEvent]]:
    """Give a run's history whenever a worker has processed more of it, then its successor's, until the last closes."""
    while True:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        history: list[HistoryEvent] = []
        next_run: str | None = None
        news = False
        items = handle.fetch_history_events(wait_new_event=True)
        async for item in items:
            take_in(history, item)
            if item.event_id > read_through:
                if item.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                    next_run = item.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
                news = news or item.event_type in _NEWS or is_closed(item) or next_run is not None
            # What a workflow task did stands after its end: given in the middle, an update would be told with the next.
            if news and items.current_page_index == len(items.current_page or ()):
                news = False
                yield history
        if next_run is None:
            return
        run_id, read_through = next_run, 0


def take_in(history: list[HistoryEvent], item: HistoryEvent) -> None:
    """Add an event to the history of a run that is being followed.

    The server's long poll shows the next workflow task before it is written down; what then comes under its ids counts.
    """
    history[item.event_id - 1 :] = [item]


def is_closed(event: HistoryEvent) -> bool:
    """Return whether a run ended with this event."""
    return event.event_type in {
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED,
        EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT,
    }
