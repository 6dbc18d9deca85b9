"""What a person or a task asks for when it wants a model server, and which vLLM arguments it may carry."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError, WithJsonSchema

from domain.entity import Value
from domain.errors import BadInput, Rejected
from domain.gpu.arguments import check_argument, redact
from domain.gpu.catalog import Catalog, ModelEntry
from domain.ids import Name

#: Seconds that the requests which run get at a stop, where nobody says another number.
DEFAULT_GRACE_SECONDS = 30.0
#: Bytes that all arguments of one server may take together: they live in the pod's state.
_ARGUMENTS_LIMIT = 16 * 1024


def parse_memory(value: object) -> object:
    """Return ``90%`` as 0.9; anything else is left to the type (a number above 0 and at most 1)."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d+)?)\s*%\s*", value)
        if found:
            return float(found.group(1)) / 100
        if not re.fullmatch(r"\s*[01]?\.\d+\s*|\s*1\s*", value):
            raise ValueError(f"{redact(value)!r} is not a share of GPU memory: write for example 90% or 0.9")
    return value


def parse_context(value: object) -> object:
    """Return ``32k`` as 32768 (k = 1024); anything else is left to the type (a whole number of tokens)."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,5})\s*[kK]\s*", value)
        if found:
            return int(found.group(1)) * 1024
        if not re.fullmatch(r"\s*\d{1,8}\s*", value):
            raise ValueError(f"{redact(value)!r} is not a context length: write for example 32k or 32768")
    return value


def parse_seconds(value: object) -> object:
    """Return ``90s``, ``30m`` or ``2h`` as seconds; anything else is left to the type (a number of seconds)."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d+)?)\s*([smhSMH]?)\s*", value)
        if not found:
            raise ValueError(f"{redact(value)!r} is not a length of time: write for example 90s, 30m or 2h")
        return float(found.group(1)) * {"s": 1, "m": 60, "h": 3600}[found.group(2).lower() or "s"]
    return value


def _also_text(kind: str) -> WithJsonSchema:
    """Return what a JSON schema says of a number that people may also write with a unit."""
    return WithJsonSchema({"anyOf": [{"type": kind}, {"type": "string"}]}, mode="validation")


Memory = Annotated[float, BeforeValidator(parse_memory), Field(gt=0, le=1), _also_text("number")]
Context = Annotated[int, BeforeValidator(parse_context), Field(ge=1, le=100_000_000), _also_text("integer")]
#: Seconds between TERM and KILL. The drain that vLLM is given is derived from it.
Grace = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0, le=3600)]
IdleTtl = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, le=31_536_000), _also_text("number")]
#: ``on-failure``: launched again after a failure of its own that another launch may cure. ``always``: after whatever
#: ended it, except a stop asked of podctl.
RestartPolicy = Literal["never", "on-failure", "always"]
#: A model id or a path on the pod. No leading dash: it must never be taken for an option.
Model = Annotated[str, StringConstraints(pattern=r"^[^-\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,255}$")]
Argument = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=4_096)]


class StartRequest(Value):
    """A model server that is wanted. ``arguments`` are vLLM's own, passed on unchanged (``--vllm …``).

    ``entry`` is what the sender's catalog says about the model, None for an unknown one: it travels with the
    request, so that a catalog edited later cannot change what was asked, and a user's own one counts everywhere.
    """

    model: Model
    name: Name
    gpus: Annotated[int, Field(ge=1, le=64)] | None = None
    memory: Memory | None = None
    context: Context | None = None
    arguments: tuple[Argument, ...] | None = None
    entry: ModelEntry | None = None
    restart: RestartPolicy = "never"
    #: Seconds without a request after which it is stopped; None: it stays.
    idle_ttl: IdleTtl | None = None
    #: Seconds that the requests which run get at a stop.
    grace: Grace = DEFAULT_GRACE_SECONDS
    #: It listens on every interface of the pod. Its key guards /v1 only: /metrics, /tokenize, /invocations are open.
    expose: bool = False


def start_request(  # noqa: PLR0913 - what a person may say of a model server
    catalog: Catalog,
    model: str,
    name: str,
    *,
    gpus: int | None = None,
    memory: str | float | None = None,
    context: str | int | None = None,
    arguments: Sequence[str] | None = None,
    restart: RestartPolicy = "never",
    idle_ttl: str | float | None = None,
    grace: str | float = DEFAULT_GRACE_SECONDS,
    expose: bool = False,
) -> StartRequest:
    """Return the request for a model server, with what ``catalog`` says of the model.

    ``memory``, ``context``, ``idle_ttl`` and ``grace`` as people write them (``90%``, ``32k``, ``30m``);
    ``arguments`` are vLLM's own, None for the catalog's. Raises BadInput for a value that does not parse, Rejected
    for a combination that the rules refuse: checked here as well, because a secret among the arguments must not
    even reach a history as refused.
    """
    try:
        request = StartRequest.model_validate(
            {
                "model": model,
                "name": name,
                "gpus": gpus,
                "memory": memory,
                "context": context,
                "arguments": None if arguments is None else tuple(arguments),
                "entry": catalog.models.get(model),
                "restart": restart,
                "idle_ttl": idle_ttl,
                "grace": grace,
                "expose": expose,
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # The value itself is not repeated: it may be a secret in the wrong place.
        raise BadInput(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
    check_request(request)
    return request


def check_request(request: StartRequest) -> None:
    """Raise Rejected for options that contradict each other, for secrets in arguments, and for what is podctl's.

    Codes: ``options_conflict``, ``secret_in_arguments``, ``reserved_argument``, ``arguments_too_long``. Senders
    call it too, before the request leaves them: a secret must not reach a workflow's history even as refused.
    """
    if request.arguments is None:
        return
    mixed = [f"--{name}" for name in ("gpus", "memory", "context") if getattr(request, name) is not None]
    if mixed:
        raise Rejected(
            "options_conflict",
            f"{' and '.join(mixed)} cannot be combined with --vllm, which passes everything to vLLM unchanged: write "
            "them as vLLM's own options (--tensor-parallel-size, --gpu-memory-utilization, --max-model-len)",
        )
    if sum(len(argument.encode()) for argument in request.arguments) > _ARGUMENTS_LIMIT:
        raise Rejected(
            "arguments_too_long", f"the vLLM arguments of {request.name!r} are over {_ARGUMENTS_LIMIT:,} bytes together"
        )
    for argument in request.arguments:
        check_argument(argument)
