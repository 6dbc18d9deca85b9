"""Names and ids: what is allowed, and how one is derived from another. Ids of what acts are never random."""

import re
import unicodedata
from typing import Annotated

from pydantic import StringConstraints

from domain.errors import BadInput

#: Task, workstream, pod and server names become workflow ids, folder names and search terms: one short safe
#: alphabet serves all of them. No ``/``, no leading dot or dash, so a name can never leave its folder or be
#: taken for an option.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
_NAME = re.compile(NAME_PATTERN)

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]

TASK_WORKFLOW_PREFIX = "task-pod/"
GPU_POD_WORKFLOW_PREFIX = "gpu-pod/"


def check_name(kind: str, name: str) -> str:
    """Return ``name`` if it is a valid name, else raise ``BadInput`` that says what a ``kind`` may be called."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise BadInput(
            f"{kind} {name[:80]!r} is not a valid name: use 1 to 63 letters, digits, '-', '_' or '.', "
            "beginning with a letter or digit"
        )
    return name


def slug(text: str, fallback: str = "task", limit: int = 40) -> str:
    """Return a name made from free text: ASCII, lower case, words joined by ``-``, at most ``limit`` long."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", ascii_text.lower())
    return "-".join(words)[:limit].strip("-") or fallback


def task_workflow_id(task_id: str) -> str:
    """Return the workflow id of a task pod."""
    return TASK_WORKFLOW_PREFIX + task_id


def gpu_pod_workflow_id(pod: str) -> str:
    """Return the workflow id of a GPU pod."""
    return GPU_POD_WORKFLOW_PREFIX + pod


def launch_id(pod: str, server: str, counter: int) -> str:
    """Return the id of one launch of a model server; ``counter`` grows with each launch of that name."""
    return f"{pod}/{server}/{counter}"


def parse_launch_id(text: str) -> tuple[str, str, int] | None:
    """Return pod, server and counter of a launch id; None for what is none."""
    pod, _, rest = text.partition("/")
    server, _, counter = rest.rpartition("/")
    return (pod, server, int(counter)) if pod and server and counter.isdecimal() else None


def run_id(task_id: str, workstream_id: str, attempt: int) -> str:
    """Return the id of one attempt of a ``command`` workstream."""
    return f"{task_id}/{workstream_id}/{attempt}"
