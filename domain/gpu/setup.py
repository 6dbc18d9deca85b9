"""Setting up a machine: what is asked for, the steps in their order, and what has become of each."""

import re
import shlex
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator

from domain.entity import Value
from domain.errors import BadInput

#: Every step in the order in which it is done; ``mount`` only where something is to be mounted.
StepName = Literal["connect", "check", "mount", "models", "uv", "venv", "install", "verify"]
STEPS: Final[tuple[StepName, ...]] = ("connect", "check", "mount", "models", "uv", "venv", "install", "verify")
#: Those that the rules decide by themselves, from what is known of the machine.
_DECIDED: Final[frozenset[StepName]] = frozenset({"connect", "check"})
#: Seconds that a step may take on the machine; far above what it takes on a slow link.
LIMITS: Final[dict[StepName, float]] = {
    "mount": 300.0,
    "models": 300.0,
    "uv": 1_800.0,
    "venv": 3_600.0,
    "install": 14_400.0,
    "verify": 3_600.0,
}
#: A setup that the machine interrupted by a reboot begins again this often, before a person has to look.
MAXIMUM_ROUNDS: Final = 5

_NAMED: Final = ("release", "nightly", "gpt-oss")
_EXACT: Final = re.compile(r"==[0-9][0-9A-Za-z.+!_-]{0,63}")
#: What a shell would act upon. A mount command is words, and no shell reads it: these would silently mean nothing.
_OPERATORS: Final = {";": "';'", "|": "'|'", "&": "'&'", "<": "'<'", ">": "'>'", "$": "'$'", "`": "'`'", "(": "'('",
                     ")": "')'", "\n": "a line break", "\r": "a line break", "\0": "a zero byte"}  # fmt: skip
_PASSWORD: Final = re.compile(r"(^|[,\s])(pass|passwd|password|token|secret)=", re.IGNORECASE)
_LONGEST_TEXT: Final = 4_000

Text = Annotated[str, AfterValidator(lambda text: text[:_LONGEST_TEXT])]


class SetupRequest(Value):
    """What a machine is to be set up with."""

    #: The words of a command that mounts what holds the models; empty: nothing is mounted.
    mount: tuple[str, ...] = ()
    #: Where models are kept; empty: in Hugging Face's own cache.
    models_path: str = ""
    #: ``release``, ``nightly``, ``gpt-oss`` or ``==X.Y.Z``.
    vllm: str = "release"


class SetupStep(Value):
    """One step, and what came of it."""

    name: StepName
    state: Literal["pending", "running", "done", "failed"] = "pending"
    started_at: datetime | None = None
    ended_at: datetime | None = None
    #: What it found or did; why it failed.
    message: str = ""


class SetupFailure(Value):
    """Why a setup ended: the step, a stable code, what to do, and the last lines of the step's log."""

    step: StepName
    code: str
    message: str
    advice: str
    log_tail: str = ""


class VllmInstall(Value):
    """A vLLM that a setup installed: what was asked for, the version that it became, its program on the machine."""

    spec: str
    version: str
    program: str
    at: datetime


class Setup(Value):
    """One setup of a machine; the next one replaces it."""

    #: Counts the setups of this pod.
    number: int
    #: Made of the command that began it: keeps its launches apart from those of an earlier life of the pod.
    identity: str
    #: Grows when a reboot interrupted it and it begins again.
    round: int = 1
    request: SetupRequest
    by: str
    started_at: datetime
    state: Literal["running", "completed", "failed"] = "running"
    ended_at: datetime | None = None
    steps: tuple[SetupStep, ...]
    #: The exact version that the request became, once that is known.
    version: str | None = None
    #: The models' folder as the machine knows it; None: none of its own.
    models_path: str | None = None
    failure: SetupFailure | None = None

    @property
    def current(self) -> SetupStep | None:
        """The step that is under way; None once it has ended."""
        return next((step for step in self.steps if step.state == "running"), None)

    def launch_id(self, pod: str, step: str) -> str:
        """Return the id of a step's launch. It ends as no model server's does: those end in a number."""
        return f"{pod}/setup-{step}/{self.number}-{self.round}-{self.identity}"


def begin(request: SetupRequest, *, number: int, identity: str, by: str, now: datetime) -> Setup:
    """Return a setup whose first step is under way."""
    names = [name for name in STEPS if name != "mount" or request.mount]
    steps = tuple(SetupStep(name=name) for name in names)
    fresh = Setup(number=number, identity=identity, request=request, by=by, started_at=now, steps=steps)
    return _with_step(fresh, names[0], state="running", started_at=now)


def step_done(setup: Setup, message: str, now: datetime) -> Setup:
    """Return the setup after its current step was done: the next one is under way, or it is completed."""
    current = setup.current
    if current is None:
        return setup
    setup = _with_step(setup, current.name, state="done", ended_at=now, message=message)
    following = next((step for step in setup.steps if step.state == "pending"), None)
    if following is None:
        return setup.model_copy(update={"state": "completed", "ended_at": now})
    return _with_step(setup, following.name, state="running", started_at=now)


def step_failed(setup: Setup, failure: SetupFailure, now: datetime) -> Setup:
    """Return the setup after its current step failed: it has ended, and a new one goes on from there."""
    setup = _with_step(setup, failure.step, state="failed", ended_at=now, message=failure.message)
    return setup.model_copy(update={"state": "failed", "ended_at": now, "failure": failure})


def begin_again(setup: Setup, now: datetime) -> Setup:
    """Return the setup from its first step on: a reboot took away what the steps before had mounted."""
    again = begin(setup.request, number=setup.number, identity=setup.identity, by=setup.by, now=now)
    return again.model_copy(update={"round": setup.round + 1, "started_at": setup.started_at})


def is_decided(step: SetupStep) -> bool:
    """Return whether a step is a matter of the rules alone; the others are done on the machine."""
    return step.name in _DECIDED


def _with_step(setup: Setup, name: StepName, **changes: object) -> Setup:
    steps = tuple(step.model_copy(update=changes) if step.name == name else step for step in setup.steps)
    return setup.model_copy(update={"steps": steps})


# -- what people write ------------------------------------------------------------------------------------------------


def split_mount(command: str) -> tuple[str, ...]:
    """Return a mount command as words; empty text means none. Raises ``BadInput`` for what only a shell understands."""
    _refuse_operators(command)
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise BadInput(f"--mount {command!r}: {error}") from None
    if words:
        check_mount(words)
    return words


def check_mount(words: tuple[str, ...]) -> None:
    """Raise ``BadInput`` unless these words can be a command that mounts something."""
    for word in words:
        _refuse_operators(word)
        if word.startswith("~"):
            raise BadInput(f"--mount: {word!r} begins with '~', which only a shell replaces: write the whole path")
        if _PASSWORD.search(word):
            raise BadInput(
                "--mount: a password does not belong into a command that Temporal keeps for ever: put it into a file "
                "on the machine (credentials=FILE)"
            )
        if not word.isprintable() or len(word) > _LONGEST_TEXT:
            raise BadInput("--mount: a word of it is too long, or holds characters that cannot be printed")
    if len(words) < 2 or not words[0]:
        raise BadInput(
            "--mount: a command and what it mounts where, for example 'sudo mount -t nfs server:/models /mnt/models'"
        )


def mounted_at(words: tuple[str, ...]) -> str:
    """Return the place that a mount command ends with. Raises ``BadInput`` if its last word is no path."""
    if not words[-1].startswith("/"):
        raise BadInput(f"--mount: its last word, {words[-1]!r}, is no path from /: it has to be where it mounts")
    return words[-1]


def check_models_path(path: str) -> None:
    """Raise ``BadInput`` unless ``path`` can be a folder on the machine."""
    if not path.startswith(("/", "~/")) or not path.isprintable() or len(path) > _LONGEST_TEXT:
        raise BadInput(
            f"--models-path {path[:200]!r}: write a path from / (or from ~/) on the machine, of printable characters, "
            f"at most {_LONGEST_TEXT:,}"
        )


def check_vllm(spec: str) -> None:
    """Raise ``BadInput`` unless ``spec`` says which vLLM."""
    if spec not in _NAMED and not _EXACT.fullmatch(spec):
        raise BadInput(f"--vllm {spec[:80]!r}: one of {', '.join(_NAMED)}, or ==X.Y.Z for an exact version")


def _refuse_operators(text: str) -> None:
    found = next((name for character, name in _OPERATORS.items() if character in text), None)
    if found is not None:
        raise BadInput(
            f"--mount: {found} is for a shell, and no shell reads this command: give one command with its words, or "
            "put the rest into a script on the machine and name that"
        )
