"""What podctl needs of a Temporal namespace (search attributes, retention) and who works there."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey

from podctl.client import Summary
from workflows.search_attributes import SEARCH_ATTRIBUTES


async def missing_search_attributes(client: Client) -> tuple[SearchAttributeKey[Any], ...]:
    """Return those of our search attributes that the client's namespace lacks or has with another type."""
    registered = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    return tuple(key for key in SEARCH_ATTRIBUTES if registered.custom_attributes.get(key.name) != _type_of(key))


async def register_search_attributes(client: Client) -> None:
    """Register those of our search attributes that the client's namespace lacks. Needs an operator's rights."""
    if missing := await missing_search_attributes(client):
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace, search_attributes={key.name: _type_of(key) for key in missing}
            )
        )


async def set_retention(client: Client, retention: timedelta) -> None:
    """Keep closed workflows of the client's namespace for ``retention``."""
    kept = Duration()
    kept.FromTimedelta(retention)
    await client.workflow_service.update_namespace(
        UpdateNamespaceRequest(
            namespace=client.namespace, config=NamespaceConfig(workflow_execution_retention_ttl=kept)
        )
    )


@dataclass(frozen=True)
class Poller:
    """A worker that asked a task queue for work within the last five minutes; it may have died since."""

    identity: str
    last_asked: datetime


async def pollers(client: Client, task_queue: str) -> tuple[Poller, ...]:
    """Return who polls ``task_queue`` for workflow tasks, the latest first."""
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    found = (Poller(each.identity, each.last_access_time.ToDatetime(UTC)) for each in described.pollers)
    return tuple(sorted(found, key=lambda poller: poller.last_asked, reverse=True))


async def unserved(client: Client, pods: Iterable[Summary]) -> Mapping[str, tuple[str, ...]]:
    """Return the task queues of pods that nobody polls, with the names of those pods."""
    named: dict[str, list[str]] = {}
    for pod in pods:
        if queue := pod.memo.get("task_queue"):
            named.setdefault(queue, []).append(pod.name)
    found = await asyncio.gather(*(pollers(client, queue) for queue in named))
    return {queue: tuple(sorted(named[queue])) for queue, there in zip(named, found, strict=True) if not there}


def _type_of(key: SearchAttributeKey[Any]) -> IndexedValueType.ValueType:
    return IndexedValueType.ValueType(key.indexed_value_type)
