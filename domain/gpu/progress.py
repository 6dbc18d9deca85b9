"""How far a start is, told from lines of vLLM's log. For people only: readiness never depends on it."""

import re
from typing import Final, Literal, get_args

from domain.entity import Value

#: In the order in which they come. A download may begin after the load has: vLLM fetches weights when it needs them.
Stage = Literal["start", "download", "load", "compile", "serve"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)


class Progress(Value):
    """What a start is at. ``fraction`` (0 to 1) is None where the log does not tell one."""

    stage: Stage
    fraction: float | None = None
    words: str


#: A bar of tqdm: what it is about, percent, done of all. ``|`` stands before the counts, and more often around the bar.
_BAR = re.compile(
    r"(?P<what>[^|\r]*?):?\s*(?P<percent>\d{1,3})%(?: Completed)?\s*\|(?:[^|]*\|)?"
    r"\s*(?P<done>[\d.]+[kMGT]?)/(?P<all>[\d.]+[kMGT]?)(?:\s*\[[^\]]*?(?P<rate>[\d.]+[kMGT]?B/s)?\])?"
)
#: What stands before the words of a line: its process, and level, time and source file.
_PREFIX = re.compile(r"^(?:\([^()]*pid=\d+\)\s*)?(?:(?:INFO|WARNING|DEBUG)\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*|INFO:\s+)?")

#: What a bar is about -> stage and words. Bars that are about none of these are files being downloaded, if they count
#: bytes.
_BARS: tuple[tuple[str, Stage, str], ...] = (
    (r"Loading .*(?:shards|safetensors|Streamer)", "load", "loading weights, {done} of {all}"),
    (r"Captur\w+ CUDA graph", "compile", "capturing CUDA graphs, {done} of {all}"),
    (r"(?i)warm\s?up|compil|autotun", "compile", "warming up, {done} of {all}"),
    (r"Fetching \d+ files|Downloading shards", "download", "downloading file {done} of {all}"),
)
#: Lines that say what begins, or what has just been done: the first that is found counts.
_LINES: tuple[tuple[str, Stage, str], ...] = (
    (r"Application startup complete", "serve", "answering its first requests"),
    (
        r"Starting vLLM (?:API )?server|Started server process|Waiting for application startup",
        "serve",
        "opening its port",
    ),
    (r"Graph capturing finished|init engine .* took", "compile", "engine is set up"),
    (r"KV cache size: ([\d,]+ tokens)", "compile", r"room for \1 of KV cache"),
    (r"Captur\w+ CUDA graph", "compile", "capturing CUDA graphs"),
    (r"torch\.compile|Dynamo bytecode|Compiling a graph|compiled graph", "compile", "compiling"),
    (r"Warming up|warmup|Autotun", "compile", "warming up"),
    (r"Model loading took|Loading weights took", "load", "weights are loaded"),
    (r"Loading \w+ checkpoint shards|Starting to load model|Loading model", "load", "loading weights"),
    (r"Downloading", "download", "downloading"),
    (r"Initializing a V1 LLM engine|vLLM API server version", "start", "starting the engine"),
)

#: What a stage is about while no line has said more.
_BEGUN: Final[dict[Stage, str]] = {
    "start": "starting the engine",
    "download": "downloading",
    "load": "loading weights",
    "compile": "compiling",
    "serve": "opening its port",
}


def parse_progress(line: str) -> Progress | None:
    """Return what a line of the log says about how far the start is; None for a line that says nothing of it.

    Of several bars in one line, as tqdm leaves them where it overwrites itself, the last counts.
    """
    bars = list(_BAR.finditer(line))
    if bars:
        return _of_bar(bars[-1])
    for pattern, stage, words in _LINES:
        found = re.search(pattern, line)
        if found:
            return Progress(stage=stage, words=found.expand(words))
    return None


def later_progress(before: Progress | None, stage: str | None, line: str) -> Progress | None:
    """Return how far a start is after another look: ``stage`` as it was found on the machine, ``line`` the last one.

    What was known stays while a line says nothing new, unless the machine has come to a later stage since.
    """
    told = parse_progress(line)
    if told is not None:
        return told
    known = next((known for known in STAGES if known == stage), None)
    if known is None or (before is not None and STAGES.index(before.stage) >= STAGES.index(known)):
        return before
    return Progress(stage=known, words=_BEGUN[known])


def _of_bar(bar: re.Match[str]) -> Progress | None:
    what = _PREFIX.sub("", bar["what"]).strip()
    fraction = min(1.0, int(bar["percent"]) / 100)
    for pattern, stage, words in _BARS:
        if re.search(pattern, what):
            return Progress(stage=stage, fraction=fraction, words=words.format(done=bar["done"], all=bar["all"]))
    if not what or bar["all"][-1] not in "kMGT":
        return None
    rate = f", {bar['rate']}" if bar["rate"] else ""
    return Progress(
        stage="download", fraction=fraction, words=f"downloading {what}, {bar['done']} of {bar['all']}{rate}"
    )
