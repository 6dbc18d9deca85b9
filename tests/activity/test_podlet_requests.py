"""What the podlet does with requests that it cannot understand, and what it promises about itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import BadInput
from domain.ids import NAME_PATTERN, check_name
from domain.task.runs import agent_run_id
from podlet import podlet
from tests.activity.podlet_harness import PODLET, Conversation, Machine, PodletError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
LAUNCH_FIELDS = (
    "id", "kind", "argv", "environment", "secrets", "workspace", "gpus", "ports", "internal_ports", "api_key",
    "served_name", "server", "owner",
)  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path / "machine") as machine:
        yield machine


def refusal(machine: Machine, line: bytes) -> PodletError:
    """Send a line as it is and return the error that comes back."""
    conversation = Conversation(line, machine.environment)
    with pytest.raises(PodletError) as refused:
        conversation.result()
    return refused.value


@pytest.mark.parametrize(
    "line",
    [b"", b"not json", b"[]", b'"text"', b"{", b'{"verb": 3}', b"{}", b'{"verb": null}', b"\xff\xfe", b"[" * 100000],
)
def test_what_is_no_request_is_refused(machine: Machine, line: bytes) -> None:
    error = refusal(machine, line)
    assert error.code == "bad_request"


def test_an_unknown_verb_names_those_there_are(machine: Machine) -> None:
    error = refusal(machine, b'{"verb": "explode"}')
    assert error.code == "unknown_verb"
    assert "observe" in error.message


@pytest.mark.parametrize(
    "launch_id",
    ["a/b", "a/b/c/d", "../b/c", "a/../c", "a/b/..", "a//c", "/a/b/c", "a/b/c/", "a/b/c\n", "a/b/.c", "-a/b/c",
     "a/b/c..d", "a/b/é", "a/b/c d", "a/b/" + "c" * 64, "", "a/b/c;d"],
)  # fmt: skip
def test_ids_that_are_no_names_are_refused(machine: Machine, launch_id: str) -> None:
    with pytest.raises(PodletError) as refused:
        machine.call("stop", id=launch_id)
    assert refused.value.code == "bad_request"
    assert list(machine.root.glob("launches/*")) == []


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("launch", {"argv": "sleep 1"}),
        ("launch", {"argv": []}),
        ("launch", {"argv": [""]}),
        ("launch", {"argv": ["sleep", 1]}),
        ("launch", {"argv": ["sleep", "a\0b"]}),
        ("launch", {"kind": "daemon"}),
        ("launch", {"environment": {"A": 1}}),
        ("launch", {"environment": {"A=B": "1"}}),
        ("launch", {"environment": {"": "1"}}),
        ("launch", {"environment": ["A=1"]}),
        ("launch", {"secrets": {"A": None}}),
        ("launch", {"workspace": "../elsewhere"}),
        ("launch", {"workspace": "task"}),
        ("launch", {"gpus": ["GPU-0"]}),
        ("launch", {"gpus": [{"uuid": "GPU-0"}]}),
        ("launch", {"gpus": [{"uuid": "GPU-0", "share": 0}]}),
        ("launch", {"gpus": [{"uuid": "GPU-0", "share": 1.5}]}),
        ("launch", {"gpus": [{"uuid": "GPU-0", "share": True}]}),
        ("launch", {"gpus": [{"uuid": "GPU-0", "share": 0.5}, {"uuid": "GPU-0", "share": 0.5}]}),
        ("launch", {"ports": 8001}),
        ("launch", {"ports": [0]}),
        ("launch", {"ports": [70000]}),
        ("launch", {"ports": [True]}),
        ("launch", {"internal_ports": [20000]}),
        ("launch", {"api_key": "yes"}),
        ("launch", {"served_name": 3}),
        ("launch", {"server": "tiny"}),
        ("launch", {"owner": 3}),
        ("launch", {"evironment": {}}),
        ("launch", {"root": 3}),
        ("observe", {"ids": "a/b/1"}),
        ("observe", {"ids": ["a"]}),
        ("observe", {"ids": [None]}),
        ("watch", {"interval": "fast"}),
        ("watch", {"interval": 0}),
        ("watch", {"beat": True}),
        ("stop", {}),
        ("stop", {"id": "a/b/1", "grace": -1}),
        ("run", {"id": "a/b/1", "argv": ["true"], "kind": "server"}),
        ("run", {"id": "a/b/1"}),
        ("read_log", {"id": "a/b/1", "offset": 1.5}),
        ("read_log", {"id": "a/b/1", "limit": -1}),
        ("read_log", {"id": "a/b/1", "follow": 1}),
        ("inventory", {"vllm_version": "yes"}),
        ("inventory", {"vllm": ["vllm"]}),
    ],
)
def test_fields_of_the_wrong_type_are_refused(machine: Machine, verb: str, fields: dict[str, Any]) -> None:
    whole = {"id": "a/b/1", "kind": "run", "argv": ["true"], **fields} if verb == "launch" else fields
    with pytest.raises(PodletError) as refused:
        machine.call(verb, **whole)
    assert refused.value.code == "bad_request"
    assert not machine.path("a/b/1").exists()


def test_a_wrong_secret_is_not_repeated_in_the_error(machine: Machine) -> None:
    with pytest.raises(PodletError) as refused:
        machine.call("launch", id="a/b/1", kind="run", argv=["true"], secrets={"TOKEN": ["very-secret"]})
    assert "very-secret" not in refused.value.message


def test_a_broken_record_is_named(machine: Machine) -> None:
    machine.run("pod/job/1", "true")
    machine.path("pod/job/1", "record.json").write_text("{")
    with pytest.raises(PodletError, match=r"pod/job/1/record\.json") as refused:
        machine.observe("pod/job/1")
    assert refused.value.code == "broken_record"


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(LAUNCH_FIELDS, JSON_VALUES)))
def test_any_launch_fields_are_taken_or_refused(fields: dict[str, Any]) -> None:
    assert refusal_code(fields) in (None, "bad_request")


def refusal_code(fields: dict[str, Any]) -> str | None:
    """Return the code with which a launch request is refused; any other exception is a crash."""
    try:
        podlet.LaunchRequest(podlet.Request({"verb": "launch", **fields}))
    except podlet.Failure as failure:
        return failure.code
    return None


@given(JSON_VALUES)
def test_records_are_json(value: object) -> None:
    assert json.loads(podlet._json_text(value)) == value


@given(st.text(alphabet="ab/._-é", max_size=12))
def test_no_id_leaves_its_folder(text: str) -> None:
    try:
        podlet.check_id(text, 3, "launch id")
    except podlet.Failure:
        return
    assert Path("/base/launches", text).resolve().relative_to("/base/launches").parts == tuple(text.split("/"))


@given(st.from_regex(NAME_PATTERN, fullmatch=True), st.from_regex(r"[a-z][a-z0-9-]{0,40}", fullmatch=True))
def test_a_run_of_an_agent_has_an_id_and_a_folder_that_no_workstream_can_have(task: str, agent: str) -> None:
    run_id = agent_run_id(task.replace("..", "."), agent, 3)
    assert podlet.check_id(run_id, 3, "launch id") == run_id
    workspace = run_id.rpartition("/")[0]
    assert podlet.check_id(workspace, 2, "workspace") == workspace
    with pytest.raises(BadInput):
        check_name("workstream", workspace.split("/")[1])


@given(st.text(), st.lists(st.text(min_size=4)))
def test_nothing_of_a_secret_is_left_after_redaction(text: str, secrets: list[str]) -> None:
    """A secret that has stars in it may be made of what stands for another one."""
    shown = podlet.hide("".join([text, *secrets]).encode(), podlet.mark(secrets), is_whole=True)
    assert all(secret not in shown for secret in secrets if "*" not in secret)


@given(st.binary(min_size=4, max_size=40).map(bytes.hex), st.integers(1, 79), st.text(max_size=100))
def test_the_rest_of_a_secret_that_began_before_the_piece_is_left_out(secret: str, cut: int, text: str) -> None:
    shown = podlet.hide((secret[cut:] + text).encode(), podlet.mark([secret]), is_whole=False)
    assert (secret[cut:] + text).encode()[len(secret) :].decode(errors="replace") == shown


@given(st.binary(max_size=400))
def test_any_metrics_are_read_without_a_crash(text: bytes) -> None:
    assert set(podlet.parse_metrics(b"vllm:num_requests_running" + text)) == set(podlet.METRICS.values())


def test_the_file_is_python_3_8() -> None:
    ast.parse(PODLET.read_text(), feature_version=(3, 8))


def test_the_file_needs_the_standard_library_only() -> None:
    tree = ast.parse(PODLET.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_a_supervisor_loads_little() -> None:
    """It lives as long as its launch: what it has loaded is multiplied by every launch there is."""
    code = "import sys; sys.path.append(sys.argv[1]); import podlet; print(*sys.modules)"
    arguments = [sys.executable, "-I", "-S", "-c", code, str(PODLET.parent)]
    loaded = set(subprocess.run(arguments, capture_output=True, check=True, text=True).stdout.split())
    heavy = {
        "json",
        "re",
        "enum",
        "signal",
        "subprocess",
        "socket",
        "ctypes",
        "typing",
        "hashlib",
        "logging",
        "threading",
    }
    assert loaded & heavy == set()
