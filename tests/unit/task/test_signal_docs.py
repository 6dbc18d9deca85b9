"""docs/signals.md says what the program takes."""

import json
import re
from pathlib import Path

from domain.task.signals import EXAMPLES, MODEL_SERVER, command_from_signal

DOCUMENT = Path(__file__).parents[3] / "docs" / "signals.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| `(\{.*\})` \|$", re.MULTILINE)


def test_documented_signals_are_those_there_are() -> None:
    documented = dict(ROW.findall(DOCUMENT.read_text(encoding="utf-8")))
    assert documented == {name: example for name, example in EXAMPLES.items() if name != MODEL_SERVER}


def test_documented_inputs_work_as_they_stand() -> None:
    for name, example in ROW.findall(DOCUMENT.read_text(encoding="utf-8")):
        assert command_from_signal(name, [json.loads(example)]).by == "ann"
