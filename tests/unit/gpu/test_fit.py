from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gpu.fit import cache_bytes, fits, longest_context, read_shape, splits, token_bytes
from tests.unit.gpu.pod import gpus, inventory

GB = 10**9
#: As transformers writes them; the sizes are those of well-known models.
LLAMA_8B = {
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
    "max_position_embeddings": 131_072, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3 = {
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "max_position_embeddings": 163_840, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS = {
    "num_hidden_layers": 36, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 18, "max_position_embeddings": 131_072,
}  # fmt: skip


def with_(config: dict[str, Any], **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {**config, **changes}


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (LLAMA_8B, 2 * 32 * 8 * 128 * 2),
        (with_(LLAMA_8B, torch_dtype="float32"), 131_072),
        (with_(LLAMA_8B, quantization_config={"kv_cache_scheme": {"num_bits": 8}}), 65_536),
        ({"text_config": LLAMA_8B, "vision_config": {"num_hidden_layers": 2}}, 131_072),
        (DEEPSEEK_V3, 61 * 576 * 2),
        (GPT_OSS, 2 * 36 * 8 * 64 * 2),
        (with_(LLAMA_8B, num_kv_shared_layers=16), 65_536),
        (with_(LLAMA_8B, layer_types=["linear_attention", "full_attention"] * 16), 65_536),
        (with_(LLAMA_8B, full_attention_interval=4), 32_768),
    ],
)
def test_what_a_token_takes(config: dict[str, Any], size: int) -> None:
    assert token_bytes(read_shape(config)) == size


def test_a_sliding_window_keeps_no_more_than_it_sees() -> None:
    shape = read_shape(GPT_OSS)
    layer = 2 * 8 * 64 * 2
    assert cache_bytes(shape, 100, 1) == 36 * layer * 100
    assert cache_bytes(shape, 1_000, 1) == 18 * layer * 1_000 + 18 * layer * 128
    mistral = read_shape(with_(LLAMA_8B, sliding_window=4_096))
    assert cache_bytes(mistral, 100_000, 1) == 131_072 * 4_096
    qwen = read_shape(with_(LLAMA_8B, sliding_window=4_096, use_sliding_window=False, max_window_layers=28))
    assert cache_bytes(qwen, 100_000, 1) == 131_072 * 100_000
    partly = read_shape(with_(LLAMA_8B, sliding_window=4_096, use_sliding_window=True, max_window_layers=28))
    assert cache_bytes(partly, 100_000, 1) == 4_096 * (28 * 100_000 + 4 * 4_096)
    gemma = read_shape(with_(LLAMA_8B, sliding_window=1_024, sliding_window_pattern=8))
    assert cache_bytes(gemma, 100_000, 1) == 4_096 * (4 * 100_000 + 28 * 1_024)


def test_heads_are_split_and_compressed_vectors_are_not() -> None:
    llama, deepseek = read_shape(LLAMA_8B), read_shape(DEEPSEEK_V3)
    assert [cache_bytes(llama, 8, split) for split in (1, 2, 8, 16)] == [2**20, 2**19, 2**17, 2**17]
    assert cache_bytes(deepseek, 8, 1) == cache_bytes(deepseek, 8, 8)
    assert splits(llama, 16) == [1, 2, 4, 8, 16]
    assert splits(read_shape(with_(LLAMA_8B, num_attention_heads=40, num_key_value_heads=10)), 8) == [1, 2, 5]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "num_hidden_layers"),
        (with_(LLAMA_8B, num_hidden_layers="32"), "num_hidden_layers"),
        (with_(LLAMA_8B, hidden_size=None), "size of a head"),
        (with_(LLAMA_8B, is_encoder_decoder=True), "encoder-decoder"),
        (with_(LLAMA_8B, hybrid_override_pattern="M-M*"), "hybrid_override_pattern"),
        (with_(DEEPSEEK_V3, compress_ratios=[4, 128]), "compress_ratios"),
        (with_(DEEPSEEK_V3, kv_lora_rank=None), "size of a head"),
    ],
)
def test_what_is_not_known_is_said(config: dict[str, Any], says: str) -> None:
    shape = read_shape(config)
    assert says in shape.cache_unknown
    [row] = fits(shape, 10 * GB, inventory(1), 0.9)
    assert (row.context, row.reason) == (None, "the weights fit; the KV cache is not known")


def test_what_is_not_counted_is_said() -> None:
    linear = read_shape(with_(LLAMA_8B, layer_types=["linear_attention"] * 31 + ["full_attention"]))
    assert linear.notes == ("the state of 31 layers without attention is not counted",)
    assert "sparse-attention index" in read_shape(with_(DEEPSEEK_V3, index_head_dim=128)).notes[0]


def test_rows_for_every_count_and_kind_of_gpu() -> None:
    rows = fits(read_shape(LLAMA_8B), 141 * GB, inventory(4), 0.9)
    assert [(row.gpus, row.context, row.whole) for row in rows] == [
        (1, 0, False),
        (2, 98_704, False),
        (4, 131_072, True),
    ]
    assert rows[0].reason == "not even the weights fit"
    mixed = inventory(3, gpus=(*gpus(2), gpus(3, "NVIDIA L4", None)[2]))
    assert [(row.gpus, row.kind) for row in fits(read_shape(LLAMA_8B), GB, mixed, 0.9)] == [
        (1, "H100"), (2, "H100"), (1, "L4"),
    ]  # fmt: skip
    assert "does not say how much memory" in fits(read_shape(LLAMA_8B), GB, mixed, 0.9)[2].reason


SHAPES = st.builds(
    lambda layers, kv, group, dimension, window, most: read_shape(
        {
            "num_hidden_layers": layers,
            "num_attention_heads": kv * group,
            "num_key_value_heads": kv,
            "head_dim": dimension,
            "sliding_window": window,
            "sliding_window_pattern": 3,
            "max_position_embeddings": most,
        }
    ),
    st.integers(1, 80),
    st.sampled_from([1, 2, 4, 8, 10]),
    st.sampled_from([1, 4, 7]),
    st.sampled_from([64, 80, 128]),
    st.none() | st.integers(1, 5_000),
    st.none() | st.integers(1, 1_000_000),
)


@given(SHAPES, st.integers(0, 10**12), st.integers(1, 16))
def test_the_longest_context_is_the_longest(shape: Any, free: int, split: int) -> None:  # noqa: ANN401
    longest = longest_context(shape, free, split)
    assert cache_bytes(shape, longest, split) <= free
    if longest < (shape.longest_context or 100_000_000):
        assert cache_bytes(shape, longest + 1, split) > free


@given(SHAPES, st.integers(1, 10**7), st.integers(1, 10**6), st.integers(1, 16))
def test_more_tokens_never_take_less_and_more_gpus_never_more(shape: Any, tokens: int, more: int, count: int) -> None:  # noqa: ANN401
    assert cache_bytes(shape, tokens, 1) <= cache_bytes(shape, tokens + more, 1)
    needs = [cache_bytes(shape, tokens, split) for split in splits(shape, count)]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] <= tokens * token_bytes(shape)


@given(SHAPES, st.integers(1, 10**12), st.integers(1, 8), st.integers(1_000, 200_000))
def test_more_memory_never_gives_less_context(shape: Any, weights: int, count: int, memory: int) -> None:  # noqa: ANN401
    def contexts(mib: int) -> list[int]:
        return [row.context or 0 for row in fits(shape, weights, inventory(count, gpus=gpus(count, memory=mib)), 0.9)]

    smaller, larger = contexts(memory), contexts(memory + 1_000)
    assert all(before <= after for before, after in zip(smaller, larger, strict=True))
    assert smaller == sorted(smaller)


@given(st.dictionaries(st.sampled_from([*GPT_OSS, "kv_lora_rank", "text_config", "use_sliding_window", "dtype"]),
                       st.none() | st.integers(-5, 10**6) | st.text(max_size=3) | st.lists(st.text(), max_size=3)
                       | st.booleans() | st.floats() | st.just({"num_hidden_layers": 3})))  # fmt: skip
def test_no_config_is_too_odd(config: dict[str, Any]) -> None:
    shape = read_shape(config)
    assert bool(shape.cache) != bool(shape.cache_unknown)
    assert fits(shape, 10**9, inventory(2), 0.9)
