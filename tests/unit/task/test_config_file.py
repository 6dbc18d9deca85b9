"""Settings as a file: what may be written, and that each mistake is shown at its place."""

import pytest

from domain.errors import BadInput
from domain.task.config_file import read_config
from domain.task.models import CommandExecutor, GateMode, SignalExecutor, TaskConfig

GOOD = """\
gates: {spec: auto, review: human}
agents:
  spec_writer: signal
  planner:
    type: command
    argv: [plan-it]
    pod: gpu1
max_concurrent: 5
notify: [notify-send, podctl]
failure_cooldown_seconds: [5, 30, 300]
escalate_after_seconds: 3600
escalate_to: bob
"""


def test_a_config_file_is_read() -> None:
    config = read_config(GOOD, "task.yaml")
    assert (config.gates.spec, config.gates.plan) == (GateMode.AUTO, GateMode.HUMAN)
    assert config.agents.spec_writer == SignalExecutor()
    assert config.agents.planner == CommandExecutor(argv=("plan-it",), pod="gpu1")
    assert config.agents.reviewer is None
    assert config.failure_cooldown_seconds == (5.0, 30.0, 300.0)
    assert TaskConfig.model_validate_json(config.model_dump_json()) == config
    assert read_config("max_concurrent: 2", "task.yaml") == TaskConfig(max_concurrent=2)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("spec: auto", "spec: maybe", "task.yaml:1:9: gates.spec: "),
        ("spec: auto", "specs: auto", "task.yaml:1:9: gates.specs: there is no such field"),
        ("spec_writer: signal", "spec_writer: agent", "task.yaml:3:3: agents.spec_writer: "),
        ("argv: [plan-it]", "args: [plan-it]", "task.yaml:5:5: agents.planner.argv: this field is missing"),
        ("argv: [plan-it]", "args: [plan-it]", "task.yaml:6:5: agents.planner.args: there is no such field"),
        ("max_concurrent: 5", "max_concurrent: 0", "task.yaml:8:1: max_concurrent: "),
        ("[5, 30, 300]", "[5, -30]", "task.yaml:10:31: failure_cooldown_seconds[1]: "),
        ("agents:", "agents: 5\nother:", "task.yaml:2:1: agents: "),
    ],
)
def test_a_mistake_is_shown_at_its_place(before: str, after: str, expected: str) -> None:
    assert before in GOOD
    with pytest.raises(BadInput) as caught:
        read_config(GOOD.replace(before, after), "task.yaml")
    assert expected in str(caught.value)


def test_what_is_no_config_at_all_is_refused() -> None:
    with pytest.raises(BadInput, match="the file is empty; a config has settings"):
        read_config("# nothing\n", "task.yaml")
    with pytest.raises(BadInput, match="a config is a mapping"):
        read_config("[a]", "task.yaml")
