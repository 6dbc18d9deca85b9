"""Commands of workstreams on a GPU pod: they ask the model server that they are given, and may say much."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL, eventually

CHAT = """
import json, os, urllib.request
body = {"model": os.environ["OPENAI_MODEL"], "max_tokens": 8, "messages": [{"role": "user", "content": "Who are you?"}]}
request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions",
    json.dumps(body).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
)
answer = json.load(urllib.request.urlopen(request))
print(json.dumps([answer["model"], answer["object"], answer["choices"][0]["message"]["role"]]))
"""
#: Far more than what an SSH channel, a pipe or one chunk of the podlet takes at once.
LINES = 200_000


async def run(
    podctl: CommandLine, name: str, folder: Path, executor: Mapping[str, object], servers: list[dict[str, str]]
) -> None:
    """Have a task run one command to its end."""
    work = {"id": "work", "title": "Work", "executor": {"type": "command", **executor}}
    files = {"spec.md": "do it", "plan.yaml": yaml.safe_dump({"model_servers": servers, "workstreams": [work]})}
    for file, text in files.items():
        (folder / file).write_text(text)
    options = ("--spec", str(folder / "spec.md"), "--plan", str(folder / "plan.yaml"), "--gates", "spec=auto,plan=auto")
    await podctl("task", "create", "T", "--id", name, *options)

    async def ended() -> str | None:
        shown = await podctl.json("task", "show", name)
        status = str(shown["workstreams"].get("work", {}).get("status"))
        return status if status in {"completed", "failed"} else None

    assert await eventually(ended, "the command has ended") == "completed"


async def test_a_command_asks_the_model_that_it_is_given(
    podctl: CommandLine, gpu_pod: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    task = unique("task")
    servers = [{"name": "coder", "model": MODEL, "pod": gpu_pod}]
    await run(podctl, task, tmp_path, {"server": "coder", "argv": ["python3", "-c", CHAT]}, servers)
    said = await podctl("task", "logs", task, "work")
    assert said.json == [MODEL, "chat.completion", "assistant"]
    await podctl("task", "cancel", task)


async def test_a_long_log_arrives_whole(
    podctl: CommandLine, gpu_pod: str, unique: Callable[[str], str], tmp_path: Path
) -> None:
    task = unique("task")
    executor = {"pod": gpu_pod, "argv": ["seq", "1000000", str(1_000_000 + LINES - 1)]}
    await run(podctl, task, tmp_path, executor, [])
    expected = "".join(f"{number}\n" for number in range(1_000_000, 1_000_000 + LINES))
    for follow in ((), ("-f",)):
        log = (await podctl("task", "logs", task, "work", *follow)).output
        assert hashlib.sha256(log.encode()).hexdigest() == hashlib.sha256(expected.encode()).hexdigest()
    await podctl("task", "cancel", task)
