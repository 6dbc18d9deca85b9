"""How much memory a model takes at least, held against the GPUs of a pod."""

from dataclasses import dataclass

from domain.errors import BadInput
from domain.gpu.fit import Fit, fits, read_shape, token_bytes
from domain.gpu.inventory import describe_gpus
from domain.gpu.planning import DEFAULT_SHARE
from domain.gpu.request import parse_context
from podctl.hub import model_facts
from podctl.model_offers import PodGpus

LOWER_BOUND = (
    "a lower bound: activations, CUDA graphs and more than one sequence at a time come on top; what does not fit here "
    "never will, what does may still not"
)


@dataclass(frozen=True)
class ModelFit:
    """What a model takes, and what room for it there is on a pod. Bytes, unless it says otherwise."""

    source: str
    weights_bytes: int
    #: KV cache of one token, over all GPUs together; 0 if it is not known.
    token_bytes: int
    cache_unknown: str
    longest_context: int | None
    #: The share of each GPU's memory that is counted on.
    share: float
    pod: str | None
    note: str
    fits: list[Fit]
    context: int | None
    notes: list[str]


def parse_length(text: str | None) -> int | None:
    """Return a context length as people write it (``32k``); BadInput for what is none."""
    if text is None:
        return None
    try:
        length = int(str(parse_context(text)))
    except ValueError as error:
        raise BadInput(f"--context: {error}") from error
    if length < 1:
        raise BadInput(f"--context: {text!r} is no length")
    return length


def model_fit(model: str, gpus: PodGpus | None, context: int | None) -> ModelFit:
    """Return what a model takes and where there is room for it. Raises ``podctl.hub.HubError``."""
    facts = model_facts(model)
    shape = read_shape(facts.config)
    machine = gpus.machine if gpus is not None else None
    note = gpus.note if gpus is not None else "no pod is active: what it takes, without a look at GPUs"
    rows = fits(shape, facts.weights_bytes, machine, DEFAULT_SHARE) if machine is not None else []
    if machine is not None and not rows:
        note = note or f"pod {gpus.pod if gpus else ''} has no GPU to hold it against: {describe_gpus(machine)}"
    return ModelFit(
        source=facts.source,
        weights_bytes=facts.weights_bytes,
        token_bytes=token_bytes(shape),
        cache_unknown=shape.cache_unknown,
        longest_context=shape.longest_context,
        share=DEFAULT_SHARE,
        pod=gpus.pod if gpus is not None else None,
        note=note,
        fits=rows,
        context=context,
        notes=[*shape.notes, LOWER_BOUND],
    )
