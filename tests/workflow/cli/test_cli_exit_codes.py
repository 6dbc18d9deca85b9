"""Exit codes of the commands for GPU pods: 2 for what was typed wrongly, 1 for what cannot be done, each said how."""

import re

import pytest

from podctl.paths import PodctlPaths
from podctl.processes import free_ports
from tests.workflow.cli.support import CommandLine
from tests.workflow.support import MODEL

START = ("start", MODEL, "--name", "one")
#: Of the built-in catalog: for 1, 2, 4 and 8 GPUs.
KNOWN_MODEL = "openai/gpt-oss-120b"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((*START, "--gpus", "abc"), "'--gpus': Input should be a valid integer"),
        ((*START, "--gpus", "0"), "'--gpus': Input should be greater than or equal to 1"),
        ((*START, "--frobnicate"), "--frobnicate"),
        ((*START, "surplus"), "surplus"),
        ((*START, "--memory", "lots"), "90%"),
        ((*START, "--memory", "0%"), "memory"),
        ((*START, "--context", "32m"), "32k"),
        (("start", MODEL), "--name"),
        (("start", "--name", "one"), "MODEL"),
        (("start",), "MODEL"),
        (("start", MODEL, "--name", "a/b"), "name"),
        (("start", "two\nlines", "--name", "one"), "model"),
        ((*START, "--gpus", "1", "--vllm"), "--gpus cannot be combined with --vllm"),
        ((*START, "--memory", "90%", "--vllm", "--max-model-len", "1024"), "--memory cannot be combined with --vllm"),
        ((*START, "--context", "32k", "--gpus", "2", "--vllm"), "--gpus and --context cannot be combined"),
        ((*START, "--vllm", "--port", "9"), "--port is podctl's to set"),
        ((*START, "--vllm", "--api-key", "x"), "--api-key must not be given"),
        ((*START, "--idle-ttl", "soon"), "90s, 30m or 2h"),
        ((*START, "--idle-ttl", "10s"), "a minute (60s) is the least"),
        ((*START, "--restart", "sometimes"), "'never', 'on-failure', 'always'"),
        ((*START, "--grace", "-1"), "'--grace'"),
        ((*START, "--grace", "soon"), "'--grace'"),
        (("stop", "one", "two"), "two"),
        (("stop", "one", "--grace", "3601"), "'--grace'"),
        (("stop", "--accept-memory"), "podctl stop NAME --accept-memory"),
        (("stop", "one", "--accept-memory", "--grace", "1"), "--accept-memory"),
        (("list", "--all-pods", "--pod", "here"), "--all-pods"),
        (("list", "surplus"), "surplus"),
        (("list", "-o", "xml"), "xml"),
        (("logs",), "NAME"),
        (("logs", "one", "--tail", "-1"), "'--tail'"),
        (("logs", "one", "--since", "soon"), "10m, 2h or 2026-01-31T12:00:00Z"),
        (("logs", "one", "--since", "1h", "--tail", "1"), "--since and --tail"),
        (("logs", "one", "--previous", "--follow"), "--previous"),
        (("pods", "reap"), "NAME"),
        (("pods", "reap", "here", "here/one/1"), "say --yes"),
        (("pods", "show"), "NAME"),
        (("pods", "remove"), "NAME"),
        (("pods", "active"), "NAME"),
        (("pods", "add", "one"), "SSH"),
        (("pods", "add", "-x", "root@h"), "-x"),
        (("pods", "frobnicate"), "frobnicate"),
        (("frobnicate",), "frobnicate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_is_typed_wrongly_ends_with_2_and_asks_nobody(
    paths: PodctlPaths, command: tuple[str, ...], said: str
) -> None:
    [nobody_listens] = free_ports(1)
    podctl = CommandLine(f"127.0.0.1:{nobody_listens}", paths)
    paths.config.mkdir(parents=True)
    paths.pods_file.write_text('{"pods": {"here": {"ssh": "root@127.0.0.1"}}, "active": "here"}')
    done = await podctl(*command, status=2)
    # Without the frame that is drawn around an error.
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", done.errors).split())
    assert done.output == ""


async def test_what_cannot_be_done_ends_with_1_and_says_what_can(podctl: CommandLine, gpu_pod: str) -> None:
    counts = await podctl("start", KNOWN_MODEL, "--name", "one", "--gpus", "3", status=1)
    assert counts.errors.startswith(f"error: no_such_count: {KNOWN_MODEL} has no entry for 3 GPUs; it has: 1 x ")
    assert all(f"{count} x " in counts.errors for count in (2, 4, 8))
    unknown = await podctl(*START, "--gpus", "2", status=1)
    assert unknown.errors.startswith("error: unknown_model_gpus: ")
    assert "--vllm --tensor-parallel-size 2" in unknown.errors
    large = await podctl("start", KNOWN_MODEL, "--name", "one", "--gpus", "8", status=1)
    assert large.errors.startswith("error: does_not_fit: ")
    assert "2 x H100" in large.errors
    assert await podctl.json("list") == [], "nothing of it is kept"

    await podctl(*START)
    again = await podctl(*START, status=1)
    assert again.errors.startswith("error: already_running: ")
    assert f"on pod {gpu_pod!r} since 20" in again.errors
    assert "port 8001" in again.errors
    await podctl("start", MODEL, "--name", "two")
    full = await podctl("start", MODEL, "--name", "three", "--no-wait", status=1)
    assert full.errors.startswith("error: no_room: ")
    assert "GPU 0 is used by one" in full.errors
    assert "GPU 1 is used by two" in full.errors
    assert [row["name"] for row in await podctl.json("list")] == ["one", "two"]
