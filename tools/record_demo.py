"""Run the demonstration and draw ``docs/demo.svg`` from what it printed: ``python tools/record_demo.py``."""

import asyncio
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from demo.story import run_demo

#: Headings whose part of the output is too long for a picture.
LEFT_OUT = ("Temporal and a worker start", "A GPU pod is added", "Its event log", "The finished task", "On the GPU pod")
WIDTH = 118
PICTURE = Path(__file__).parent.parent / "docs" / "demo.svg"


def main() -> None:
    """Record and draw."""
    output = io.StringIO()
    asyncio.run(run_demo(keep=False, console=Console(file=output, width=WIDTH, highlight=False)))
    picture = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    picture.print(Text("$ make demo", style="bold"))
    shown = True
    for line in output.getvalue().splitlines():
        if line.startswith("■"):
            shown = not line[2:].startswith(LEFT_OUT)
            if shown:
                picture.print()
        elif line.startswith("Everything of this demonstration"):
            continue
        if shown and line.strip():
            picture.print(_styled(re.sub(r"/\S*/(spec\.md|plan\.yaml)", r"\1", line)))
    PICTURE.write_text(picture.export_svg(title="podctl demo"), encoding="utf-8")


def _styled(line: str) -> Text:
    styles = {"■": "bold", "$ podctl": "cyan", "$ kill": "red", "✔": "green"}
    style = next((style for mark, style in styles.items() if line.lstrip().startswith(mark)), "")
    return Text(line[:WIDTH], style=style)


if __name__ == "__main__":
    main()
