from collections.abc import Sequence

import pytest

from domain.errors import BadInput
from domain.gpu.arguments import option_value
from domain.gpu.catalog import builtin_catalog, read_catalog
from domain.gpu.planning import plan_start
from tests.unit.gpu.pod import inventory, request

#: model, GPU name, GPUs on the machine, GPUs it gets, words that its command must contain.
SERVED = [
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "NVIDIA H100 80GB HBM3", 1, 1, "--tool-call-parser hermes"),
    ("Qwen/Qwen2.5-Coder-32B-Instruct", "NVIDIA H200", 2, 2, "--tensor-parallel-size 2"),
    ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "NVIDIA H200", 4, 2, "--tool-call-parser qwen3_coder"),
    ("Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "NVIDIA H100 PCIe", 2, 1, "--tool-call-parser qwen3_coder"),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "NVIDIA H20", 8, 8, "--max-model-len 32000"),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "NVIDIA H200", 8, 8, "--data-parallel-size 8 --enable-expert-parallel"),
    ("openai/gpt-oss-20b", "NVIDIA H100 80GB HBM3", 1, 1, "--async-scheduling"),
    ("openai/gpt-oss-20b", "NVIDIA B200", 1, 1, "--async-scheduling"),
    ("openai/gpt-oss-120b", "NVIDIA H100 80GB HBM3", 1, 1, "--gpu-memory-utilization 0.95"),
    ("openai/gpt-oss-120b", "NVIDIA H100 80GB HBM3", 3, 2, "--gpu-memory-utilization 0.94"),
    ("openai/gpt-oss-120b", "NVIDIA H100 80GB HBM3", 4, 4, "--tensor-parallel-size 4 --async-scheduling"),
    ("openai/gpt-oss-120b", "NVIDIA H200", 8, 8, "--tensor-parallel-size 8"),
    ("openai/gpt-oss-120b", "NVIDIA A100-SXM4-80GB", 1, 1, "--tool-call-parser openai"),
    ("openai/gpt-oss-120b", "NVIDIA L40S", 4, 4, "--tensor-parallel-size 4"),
    ("zai-org/GLM-4.5", "NVIDIA H200", 8, 8, "--reasoning-parser glm45"),
    ("zai-org/GLM-4.5", "NVIDIA H100 80GB HBM3", 16, 16, "--tensor-parallel-size 16"),
    ("zai-org/GLM-4.5-FP8", "NVIDIA H200", 8, 4, "--tensor-parallel-size 4"),
    ("zai-org/GLM-4.5-FP8", "NVIDIA H100 80GB HBM3", 8, 8, "--tensor-parallel-size 8"),
    ("zai-org/GLM-4.5-Air", "NVIDIA H200", 1, 1, "--gpu-memory-utilization 0.95"),
    ("zai-org/GLM-4.5-Air", "NVIDIA H100 80GB HBM3", 2, 2, "--tensor-parallel-size 2"),
    ("zai-org/GLM-4.5-Air-FP8", "NVIDIA H200", 2, 1, "--reasoning-parser glm45"),
    ("zai-org/GLM-4.5-Air-FP8", "NVIDIA H100 80GB HBM3", 2, 2, "--tensor-parallel-size 2"),
    ("moonshotai/Kimi-K2-Instruct", "NVIDIA H20", 16, 16, "--trust-remote-code"),
    ("Qwen/Qwen3.8-27B-FP8", "NVIDIA L40S", 2, 1, "--kv-cache-dtype fp8"),
    ("Qwen/Qwen3.6-35B-A3B-FP8", "NVIDIA H100 NVL", 1, 1, "--max-model-len 262144"),
    ("google/gemma-4-31B-it", "NVIDIA A100-SXM4-80GB", 2, 2, "--reasoning-parser gemma4"),
    ("mistralai/Mistral-Medium-3.5-128B", "NVIDIA H200", 8, 8, "--load-format mistral"),
    ("stepfun-ai/Step-3.7-Flash-FP8", "NVIDIA H200", 8, 8, "--enable-expert-parallel"),
    ("zai-org/GLM-5.2-FP8", "NVIDIA H200", 8, 8, "--tool-call-parser glm47 --reasoning-parser glm45"),
    ("moonshotai/Kimi-K2.7-Code", "NVIDIA H200", 8, 8, "--reasoning-parser kimi_k2"),
    ("deepseek-ai/DeepSeek-V4-Flash-0731", "NVIDIA B200", 8, 8, "--block-size 256"),
    ("MiniMaxAI/MiniMax-M3-MXFP8", "NVIDIA B200", 8, 8, "--block-size 128"),
]


@pytest.mark.parametrize(("model", "gpu", "there", "gets", "words"), SERVED)
def test_known_models_are_served_as_their_makers_say(model: str, gpu: str, there: int, gets: int, words: str) -> None:
    entry = builtin_catalog().models[model]
    memory = 48_000 if "L40S" in gpu else 81_559
    look = inventory(there, gpu)
    look = look.model_copy(update={"gpus": tuple(g.model_copy(update={"memory_total_mib": memory}) for g in look.gpus)})
    plan = plan_start(request("n", model, entry=entry), look, [])
    assert len(plan.gpus) == gets
    assert words in " ".join(plan.argv)


TENSOR = "--tensor-parallel-size"
QWEN3 = "--enable-auto-tool-choice --tool-call-parser qwen3_coder"
GLM45 = "--tool-call-parser glm45 --reasoning-parser glm45 --enable-auto-tool-choice"
OSS = "--enable-auto-tool-choice --tool-call-parser openai"
DEEP_GEMM = {"VLLM_USE_DEEP_GEMM": "1"}
XFORMERS = {"VLLM_ATTENTION_BACKEND": "XFORMERS"}
TRTLLM = {
    "VLLM_USE_TRTLLM_ATTENTION": "1",
    "VLLM_USE_TRTLLM_DECODE_ATTENTION": "1",
    "VLLM_USE_TRTLLM_CONTEXT_ATTENTION": "1",
    "VLLM_USE_FLASHINFER_MXFP4_MOE": "1",
}
HOPPER = "H100/H200"


def tools(parser: str, reasoning: str = "") -> str:
    thinks = f" --reasoning-parser {reasoning}" if reasoning else ""
    return f"--enable-auto-tool-choice --tool-call-parser {parser}{thinks}"


DEEPSEEK = tools("deepseek_v4", "deepseek_v4")

#: model -> GPUs, types or GB each, arguments in any order, environment: as their makers and vLLM's recipes say.
FACTS: dict[str, list[tuple[int, str | int, str, dict[str, str]]]] = {
    "Qwen/Qwen2.5-Coder-32B-Instruct": [(1, HOPPER, tools("hermes"), {}), (2, HOPPER, tools("hermes"), {})],
    "Qwen/Qwen3-Coder-30B-A3B-Instruct": [(1, HOPPER, QWEN3, {}), (2, HOPPER, QWEN3, {})],
    "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8": [(1, HOPPER, QWEN3, DEEP_GEMM)],
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": [(8, "H200/H20", f"--max-model-len 32000 {QWEN3}", {})],
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8": [
        (
            8,
            "H200/H20",
            f"--data-parallel-size 8 --enable-expert-parallel --max-model-len 131072 {QWEN3}",
            DEEP_GEMM,
        )
    ],
    "openai/gpt-oss-20b": [(1, HOPPER, "--async-scheduling", {}), (1, "B200", "--async-scheduling", TRTLLM)],
    "openai/gpt-oss-120b": [
        (
            1,
            HOPPER,
            f"--async-scheduling --gpu-memory-utilization 0.95 --max-num-batched-tokens 1024 {OSS}",
            {},
        ),
        (2, HOPPER, f"--async-scheduling --gpu-memory-utilization 0.94 {OSS}", {}),
        (4, HOPPER, f"--async-scheduling {OSS}", {}),
        (8, HOPPER, f"--async-scheduling {OSS}", {}),
        (1, 80, OSS, {}),
        (4, 0, OSS, {}),
    ],
    "zai-org/GLM-4.5": [(16, "H100", GLM45, {}), (8, "H200", GLM45, {})],
    "zai-org/GLM-4.5-FP8": [(8, "H100", GLM45, {}), (4, "H200", GLM45, {})],
    "zai-org/GLM-4.5-Air": [(2, HOPPER, GLM45, {}), (1, "H200", f"--gpu-memory-utilization 0.95 {GLM45}", {})],
    "zai-org/GLM-4.5-Air-FP8": [(2, "H100", GLM45, XFORMERS), (1, "H200", GLM45, XFORMERS)],
    "moonshotai/Kimi-K2-Instruct": [(16, "H200/H20", f"--trust-remote-code {tools('kimi_k2')}", {})],
    "Qwen/Qwen3.8-27B-FP8": [(1, 38, f"{tools('qwen3_coder', 'qwen3')} --kv-cache-dtype fp8", {})],
    "Qwen/Qwen3.6-35B-A3B-FP8": [(1, "H100", f"{tools('qwen3_coder', 'qwen3')} --max-model-len 262144", {})],
    "google/gemma-4-31B-it": [(2, 80, tools("gemma4", "gemma4"), {})],
    "mistralai/Mistral-Medium-3.5-128B": [
        (
            8,
            "H200",
            f"{tools('mistral', 'mistral')} --tokenizer-mode mistral --config-format mistral --load-format mistral",
            {},
        )
    ],
    "stepfun-ai/Step-3.7-Flash-FP8": [(8, "H200", f"--enable-expert-parallel {tools('step3p5', 'step3p5')}", {})],
    "zai-org/GLM-5.2-FP8": [(8, "H200", f"{tools('glm47', 'glm45')} --kv-cache-dtype fp8", {})],
    "moonshotai/Kimi-K2.7-Code": [(8, "H200", tools("kimi_k2", "kimi_k2"), {})],
    "deepseek-ai/DeepSeek-V4-Flash-0731": [
        (
            8,
            "H200/B200",
            f"--enable-expert-parallel {DEEPSEEK} --tokenizer-mode deepseek_v4 --kv-cache-dtype fp8 --block-size 256",
            {},
        )
    ],
    "MiniMaxAI/MiniMax-M3-MXFP8": [(8, "B200", f"{tools('minimax_m3', 'minimax_m3')} --block-size 128", {})],
}


def options(arguments: Sequence[str]) -> set[tuple[str, ...]]:
    """Each option with what follows it: their order says nothing."""
    found: list[tuple[str, ...]] = []
    for argument in arguments:
        if argument.startswith("--"):
            found.append((argument,))
        else:
            found[-1] += (argument,)
    assert len(set(found)) == len(found)
    return set(found)


def test_the_catalog_holds_exactly_the_known_facts() -> None:
    assert builtin_catalog().models.keys() == FACTS.keys()
    for model, facts in FACTS.items():
        said = [
            (
                configuration.gpus,
                "/".join(configuration.types) or int(configuration.minimum_memory_gb or 0),
                options(configuration.arguments),
                configuration.environment,
            )
            for configuration in builtin_catalog().models[model].configurations
        ]
        known = []
        for count, kind, arguments, environment in facts:
            split = "" if count == 1 or "--data-parallel-size" in arguments else f"{TENSOR} {count} "
            known.append((count, kind, options((split + arguments).split()), environment))
        assert said == known, model


def test_every_entry_is_tried_above() -> None:
    assert {row[0] for row in SERVED} == set(builtin_catalog().models)


def test_parallel_sizes_agree_with_the_number_of_gpus() -> None:
    for model, entry in builtin_catalog().models.items():
        for configuration in entry.configurations:
            sizes = [
                int(option_value(configuration.arguments, name) or 1)
                for name in ("--tensor-parallel-size", "--data-parallel-size")
            ]
            assert sizes[0] * sizes[1] == configuration.gpus, model


def test_environment_of_an_entry_reaches_the_launch() -> None:
    model = "Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8"
    plan = plan_start(request("n", model, entry=builtin_catalog().models[model]), inventory(1), [])
    assert plan.environment["VLLM_USE_DEEP_GEMM"] == "1"
    assert plan.environment["VLLM_NO_USAGE_STATS"] == "1"


def test_a_users_catalog_wins_model_by_model() -> None:
    own = read_catalog(
        "models: {openai/gpt-oss-20b: {configurations: [{gpus: 1}]}, my/own: {configurations: [{gpus: 1}]}}", "own.yaml"
    )
    both = builtin_catalog().extended_by(own)
    assert both.models["openai/gpt-oss-20b"].configurations[0].arguments == ()
    assert len(both.models) == len(builtin_catalog().models) + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [", ": not valid YAML"),
        ("[]", "own.yaml: expected one mapping 'models'"),
        ("models: 3", "expected one mapping 'models'"),
        ("models: {}\nmodel: {}", "and nothing else"),
        ("models: {m: {}}", "own.yaml:1: model 'm', configurations: Field required"),
        ("models:\n  m: {configurations: []}", "own.yaml:2: model 'm', configurations"),
        ("models:\n  m:\n    configurations:\n    - gpus: none", "own.yaml:4: model 'm', configurations.0.gpus"),
        (
            "models:\n  m: {configurations: [{gpus: 1}]}\n  m: {configurations: [{gpus: 2}]}",
            "own.yaml:3: model 'm', entry",
        ),
        ("models:\n  3: {configurations: [{gpus: 1}]}", "own.yaml:2: model '3', entry: a model id is text"),
        ("models: {m: {configurations: [{gpus: 1, arguments: [--hf_token=x]}]}}", "--hf-token must not be given"),
        ("models: {m: {configurations: [{gpus: 1, arguments: [--port, '1']}]}}", "--port is podctl's to set"),
        ("models: {m: {min_vllm_version: nightly, configurations: [{gpus: 1}]}}", "min_vllm_version: String should"),
        ("models: {m: {configurations: [{gpus: 1, type: H100}]}}", "configurations.0.type: Extra inputs"),
    ],
)
def test_a_broken_catalog_names_its_entry(text: str, says: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_catalog(text, "own.yaml")
    assert says in str(refused.value)


def test_an_empty_catalog_is_one() -> None:
    assert read_catalog("", "own.yaml").models == {}
