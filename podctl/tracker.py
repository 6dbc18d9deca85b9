"""The tracker of a task as a document with stable field names: what ``-o json`` prints, and programs read."""

from pathlib import Path

from domain.entity import Value
from domain.task.commands import CreateTracker
from domain.task.models import TaskState, TrackerPhase
from domain.task.tracker import progress, the_tracker
from domain.task.tracker_file import read_tracker
from podctl.task_input import read_text


class TrackerView(Value):
    """The board, and how far it is."""

    task: str
    done: int
    total: int
    phases: tuple[TrackerPhase, ...]


def tracker_view(state: TaskState) -> TrackerView:
    """Return a task's board, or raise ``Rejected('no_tracker')``."""
    tracker = the_tracker(state)
    done, total = progress(tracker)
    return TrackerView(task=state.task_id, done=done, total=total, phases=tracker.phases)


def read_tracker_file(path: Path) -> CreateTracker:
    """Return the board in a YAML file. BadInput names file, line and field of what is wrong."""
    return read_tracker(read_text(path), str(path))
