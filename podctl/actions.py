"""The actions of a task as documents with stable field names: what ``-o json`` prints, and programs read."""

import json

from pydantic import TypeAdapter, ValidationError

from domain.errors import BadInput
from domain.task.actions import describe, find_action
from domain.task.models import ActionApproval, ProposedAction, TaskState

_ACTION: TypeAdapter[ProposedAction] = TypeAdapter(ProposedAction)
EXAMPLE = '{"type": "remove_item", "item_id": "docs"}'


class ActionView(ActionApproval):
    """One action: what it does, who asked and who decided, what came of it."""

    task: str
    #: What it does, in words.
    description: str


def action_views(state: TaskState) -> list[ActionView]:
    """Return the actions of a task, the oldest first; long finished ones stand in the event log only."""
    return [action_view(state, action_id) for action_id in state.actions]


def action_view(state: TaskState, action_id: str) -> ActionView:
    """Return one action, or raise ``Rejected('action_not_found')`` that says what there is."""
    approval = find_action(state, action_id)
    fields = {name: getattr(approval, name) for name in ActionApproval.model_fields}
    return ActionView(**fields, task=state.task_id, description=describe(approval.action, state.external_sync))


def read_action(text: str) -> ProposedAction:
    """Return the action that is written as JSON. BadInput names the field and what it takes."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise BadInput(f"the action is not JSON: {error}; write for example {EXAMPLE}") from error
    try:
        return _ACTION.validate_python(given)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        problems = "; ".join(f"{'.'.join(str(part) for part in e['loc']) or 'action'}: {e['msg']}" for e in found[:5])
        raise BadInput(f"{problems}; write for example {EXAMPLE}, podctl explain request_action says more") from error
