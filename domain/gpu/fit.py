"""How much memory a model takes at least, from the sizes of its weights and its config: arithmetic, and a lower bound.

Counted are the weights and the KV cache of one sequence. Not counted is what depends on vLLM and the load: activations,
CUDA graphs, workspaces, whatever is not split evenly, more sequences than one. Sources: ``config.json`` as transformers
writes it, and the layouts of vLLM's KV cache (full, sliding window, MLA).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from domain.entity import Value
from domain.gpu.inventory import gpu_type
from domain.gpu.observation import Inventory

#: Bytes of a number in the KV cache. vLLM keeps float32 models' cache in 16 bits too.
_DTYPE_BYTES = {"float32": 2, "float16": 2, "bfloat16": 2, "half": 2, "fp8": 1, "float8_e4m3fn": 1}
#: What stands in the config of models whose cache this arithmetic does not know: compressed, or of state-space layers.
_UNKNOWN_CACHES = ("compress_ratios", "hybrid_override_pattern", "layers_block_type", "attn_layer_period", "ssm_cfg")
_CONTEXT_LIMIT = 100_000_000


class CacheLayers(Value):
    """Layers whose KV cache is alike. ``token_bytes`` is what one token takes in all of them, over all heads."""

    layers: int
    token_bytes: int
    #: Heads over which it is split; None: every GPU keeps all of it (MLA).
    heads: int | None
    #: Tokens that are kept at most; None: all.
    window: int | None = None


class ModelShape(Value):
    """What a model's config says about memory."""

    cache: tuple[CacheLayers, ...] = ()
    #: Why the KV cache is not known; empty if it is.
    cache_unknown: str = ""
    #: What the cache does not count.
    notes: tuple[str, ...] = ()
    attention_heads: int | None = None
    longest_context: int | None = None


class Fit(Value):
    """A model on some GPUs of a machine, split over them evenly (tensor parallel)."""

    gpus: int
    kind: str
    memory_bytes: int
    weights_bytes: int
    #: The longest context for which there is room beside the weights; None: not known. 0: not even the weights fit.
    context: int | None
    #: Whether that is all that the model can.
    whole: bool
    reason: str = ""


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """Return what a model's ``config.json`` says; what it does not say is unknown, and said to be."""
    text = next((part for key in ("text_config", "llm_config", "language_config")
                 if isinstance(part := config.get(key), Mapping) and "num_hidden_layers" in part), config)  # fmt: skip
    heads = _whole(text, "num_attention_heads")
    shape = ModelShape(attention_heads=heads, longest_context=_whole(text, "max_position_embeddings"))
    layers, unknown = _whole(text, "num_hidden_layers"), [key for key in _UNKNOWN_CACHES if text.get(key)]
    if config.get("is_encoder_decoder"):
        problem = "it is an encoder-decoder"
    elif unknown:
        problem = f"its config has {unknown[0]}, whose cache is not known here"
    elif layers is None or heads is None:
        problem = "its config does not say num_hidden_layers and num_attention_heads"
    else:
        size = _number_bytes(config, text)
        cache, notes = _mla(text, layers, size) if "kv_lora_rank" in text else _attention(text, layers, heads, size)
        if cache:
            return shape.model_copy(update={"cache": cache, "notes": notes})
        problem = "its config does not say the size of a head"
    return shape.model_copy(update={"cache_unknown": problem})


def token_bytes(shape: ModelShape) -> int:
    """Return what a token of a short context takes, over all GPUs together where it is split."""
    return sum(group.token_bytes for group in shape.cache)


def cache_bytes(shape: ModelShape, tokens: int, split: int) -> int:
    """Return what the KV cache of one sequence of ``tokens`` takes on each of ``split`` GPUs."""
    return sum(
        -(-group.token_bytes * min(tokens, group.window or tokens) * _part(group.heads, split) // (group.heads or 1))
        for group in shape.cache
    )


def longest_context(shape: ModelShape, free_bytes: int, split: int) -> int:
    """Return the most tokens of one sequence that ``free_bytes`` on each GPU have room for; 0: none."""
    most = shape.longest_context or _CONTEXT_LIMIT
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if cache_bytes(shape, middle, split) <= free_bytes:
            least = middle
        else:
            most = middle - 1
    return least


def splits(shape: ModelShape, count: int) -> list[int]:
    """Return over how many of ``count`` GPUs the model can be split: its heads have to come out even."""
    heads, cached = shape.attention_heads, [group.heads for group in shape.cache if group.heads]
    return [
        split
        for split in range(1, count + 1)
        if (heads is None or heads % split == 0) and all(kv % split == 0 or split % kv == 0 for kv in cached)
    ]


def fits(shape: ModelShape, weights: int, machine: Inventory, share: float) -> list[Fit]:
    """Return the model on each count of each kind of the machine's GPUs; ``share`` of a GPU's memory is used."""
    kinds: dict[str, list[int | None]] = {}
    for gpu in machine.gpus:
        if not gpu.mig:
            kinds.setdefault(gpu_type(gpu.name), []).append(gpu.memory_total_mib)
    rows = []
    for kind, memories in kinds.items():
        known = [memory for memory in memories if memory is not None]
        memory = min(known, default=0) * 2**20
        rows += [_fit(shape, weights, kind, memory, share, split) for split in splits(shape, len(memories))]
    return rows


def _fit(shape: ModelShape, weights: int, kind: str, memory: int, share: float, split: int) -> Fit:
    part = -(-weights // split)
    free = int(memory * share) - part
    row = Fit(gpus=split, kind=kind, memory_bytes=memory, weights_bytes=part, context=None, whole=False)
    if not memory:
        return row.model_copy(update={"reason": "nvidia-smi does not say how much memory it has"})
    if free <= 0:
        return row.model_copy(update={"context": 0, "reason": "not even the weights fit"})
    if shape.cache_unknown:
        return row.model_copy(update={"reason": "the weights fit; the KV cache is not known"})
    context = longest_context(shape, free, split)
    whole = context > 0 and context == shape.longest_context
    reason = "" if context else "the weights fit, and no KV cache beside them"
    return row.model_copy(update={"context": context, "whole": whole, "reason": reason})


def _mla(text: Mapping[str, Any], layers: int, size: int) -> tuple[tuple[CacheLayers, ...], tuple[str, ...]]:
    """Return the cache of multi-head latent attention: one compressed vector for each token and layer."""
    rank, rope = _whole(text, "kv_lora_rank"), _whole(text, "qk_rope_head_dim")
    if rank is None or rope is None:
        return (), ()
    notes = ("the cache of its sparse-attention index is not counted",) if text.get("index_head_dim") else ()
    return (CacheLayers(layers=layers, token_bytes=layers * (rank + rope) * size, heads=None),), notes


def _attention(
    text: Mapping[str, Any], layers: int, heads: int, size: int
) -> tuple[tuple[CacheLayers, ...], tuple[str, ...]]:
    """Return the cache of layers with keys and values, those of a sliding window apart."""
    hidden = _whole(text, "hidden_size")
    dimension = _whole(text, "head_dim") or (hidden // heads if hidden else None)
    if dimension is None:
        return (), ()
    own = layers - (_whole(text, "num_kv_shared_layers") or 0)  # the last ones read the cache of an earlier layer
    kinds = _layer_kinds(text, layers)[: max(own, 1)]
    cached = _whole(text, "num_key_value_heads") or heads
    # Where full layers differ from the others (Gemma): fewer heads of another size, whose keys may serve as values.
    full_heads = _whole(text, "num_global_key_value_heads") or cached
    full_dimension = _whole(text, "global_head_dim") or dimension
    full_vectors = 1 if text.get("attention_k_eq_v") else 2
    window = _whole(text, "sliding_window")
    full, sliding = kinds.count("full"), kinds.count("sliding")
    cache = [
        CacheLayers(
            layers=full, token_bytes=full * full_vectors * full_heads * full_dimension * size, heads=full_heads
        ),
        CacheLayers(layers=sliding, token_bytes=sliding * 2 * cached * dimension * size, heads=cached, window=window),
    ]
    others = len(kinds) - full - sliding
    notes = (f"the state of {others} layers without attention is not counted",) if others else ()
    return tuple(group for group in cache if group.layers), notes


def _layer_kinds(text: Mapping[str, Any], layers: int) -> list[str]:
    """Return ``full``, ``sliding`` or another word for each layer."""
    named = text.get("layer_types")
    if isinstance(named, Sequence) and not isinstance(named, str) and len(named) == layers:
        words = {"full_attention": "full", "attention": "full", "sliding_attention": "sliding"}
        # A kind that is not known here has a cache that is not counted: the bound stays a lower one.
        return [words.get(str(kind), "other") for kind in named]
    every = _whole(text, "full_attention_interval")
    if every:
        return ["full" if (layer + 1) % every == 0 else "other" for layer in range(layers)]
    if not _whole(text, "sliding_window") or text.get("use_sliding_window") is False:
        return ["full"] * layers
    pattern = _whole(text, "sliding_window_pattern")
    if pattern:
        return ["full" if (layer + 1) % pattern == 0 else "sliding" for layer in range(layers)]
    first = _whole(text, "max_window_layers") if text.get("use_sliding_window") else None
    return ["full" if layer < (first or 0) else "sliding" for layer in range(layers)]


def _number_bytes(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    quantised = config.get("quantization_config")
    scheme = quantised.get("kv_cache_scheme") if isinstance(quantised, Mapping) else None
    bits = _whole(scheme, "num_bits") if isinstance(scheme, Mapping) else None
    if bits:
        return max(1, bits // 8)
    names = (text.get("dtype"), text.get("torch_dtype"), config.get("dtype"), config.get("torch_dtype"))
    return next((_DTYPE_BYTES[name] for name in names if isinstance(name, str) and name in _DTYPE_BYTES), 2)


def _part(heads: int | None, split: int) -> int:
    """Return how many of ``heads`` a GPU keeps; where there are more GPUs than heads, some keep the same one."""
    return 1 if heads is None else -(-heads // split)


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
