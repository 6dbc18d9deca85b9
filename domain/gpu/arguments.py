"""vLLM's arguments: how an option is read and replaced, which are podctl's own, and that none is a secret."""

import re
from collections.abc import Sequence

from domain.errors import Rejected

#: Tokens as Hugging Face, OpenAI and the like hand them out.
_TOKEN = re.compile(
    # Not at the beginning of a word only: in a URL they follow a letter (%3Dhf_…). "task-…" must not be taken for one.
    r"hf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|nvapi-[A-Za-z0-9_-]{20,}"
)
#: What podctl decides itself, and what to do instead of asking vLLM for it.
_OURS = {
    "--port": "podctl picks a free port; see it with `podctl list`",
    "--host": "model servers listen on the pod's loopback and are reached through the SSH connection; with --expose "
    "they listen on every interface",
    "--uds": "model servers listen on a port of the pod's loopback",
    "--shutdown-timeout": "it follows from --grace",
    "--headless": "a server that spans machines is not supported",
}
_SECRETS = {
    "--api-key": "podctl makes a key for each launch on the pod itself",
    "--hf-token": "set HF_TOKEN where the worker runs; it reaches the server through its environment",
}


def check_argument(argument: str) -> None:
    """Raise Rejected ``secret_in_arguments`` or ``reserved_argument`` for what must not be among the arguments."""
    name = _normal(argument).partition("=")[0]
    if _TOKEN.search(argument):
        raise Rejected(
            "secret_in_arguments",
            f"the vLLM arguments contain an access token{f' (in {name})' if name.startswith('--') else ''}: arguments "
            "are kept in the history and seen by every process on the pod. " + _SECRETS["--hf-token"],
        )
    for option, instead in _SECRETS.items():
        if _means(name, option):
            raise Rejected("secret_in_arguments", f"{option} must not be given: {instead}")
    for option, instead in _OURS.items():
        if _means(name, option):
            raise Rejected("reserved_argument", f"{option} is podctl's to set: {instead}")


def redact(text: str) -> str:
    """Return ``text`` with everything that looks like an access token replaced by ``***``."""
    return _TOKEN.sub("***", text)


def option_value(arguments: Sequence[str], *names: str) -> str | None:
    """Return the last value given for one of these options, in either form (``--x 1``, ``--x=1``), or None."""
    value: str | None = None
    for position, argument in enumerate(arguments):
        name, equals, _ = _normal(argument).partition("=")
        if name in names:
            if equals:
                value = argument.partition("=")[2]
            elif position + 1 < len(arguments):
                value = arguments[position + 1]
    return value


def with_option(arguments: Sequence[str], name: str, value: str) -> tuple[str, ...]:
    """Return ``arguments`` with the option ``name`` set to ``value``, in place of what it was."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif _normal(argument) == name:
            skip = True
        elif not _normal(argument).startswith(f"{name}="):
            kept.append(argument)
    return (*kept, name, value)


def _means(name: str, option: str) -> bool:
    """Whether vLLM would read ``name`` as ``option``: argparse takes unambiguous beginnings too."""
    return len(name) > len("--xx") and option.startswith(name)


def _normal(argument: str) -> str:
    """Return an argument with its option name as vLLM reads it: ``--api_key=x`` is ``--api-key=x``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
