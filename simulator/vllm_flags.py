"""The flags of ``vllm serve`` (0.32) that the pretend one accepts; every other is refused, as vLLM does.

Names are vLLM's own. What they mean to the real engine is not imitated, except where ``vllm.py`` reads one; flags
that would make it listen elsewhere or encrypted (``--uds``, ``--ssl-…``) are refused rather than ignored.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# each also exists with a leading no-
_SWITCHES = frozenset(
    """
    aggregate-engine-logging allow-credentials allow-deprecated-quantization async-scheduling calculate-kv-scales
    data-parallel-external-lb data-parallel-hybrid-lb disable-cascade-attn disable-chunked-mm-input
    disable-custom-all-reduce disable-fastapi-docs disable-hybrid-kv-cache-manager disable-log-stats
    disable-nccl-for-dp-synchronization disable-sliding-window disable-uvicorn-access-log enable-auto-tool-choice
    enable-chunked-prefill enable-dbo enable-eplb enable-expert-parallel enable-force-include-usage
    enable-log-deltas enable-log-outputs enable-log-requests enable-lora enable-lora-bias enable-mm-embeds
    enable-prefix-caching enable-prompt-embeds enable-prompt-tokens-details enable-per-request-metrics
    enable-request-id-headers enable-return-routed-experts enable-server-load-tracking enable-sleep-mode
    enable-tokenizer-info-endpoint enforce-eager exclude-tools-when-tool-choice-none fully-sharded-loras headless
    interleave-mm-strings kv-sharing-fast-prefill language-model-only log-error-stack mm-encoder-only
    ray-workers-use-nsight return-tokens-as-token-ids skip-mm-profiling skip-tokenizer-init tokens-only
    trust-remote-code trust-request-chat-template use-tqdm-on-load
    """.split()  # noqa: SIM905 - a table of words reads better than quotes around each
)
_WHOLE_NUMBERS = frozenset(
    """
    api-server-count block-size data-parallel-rank data-parallel-rpc-port data-parallel-size
    data-parallel-size-local data-parallel-start-rank decode-context-parallel-size expert-placement-rank
    kv-cache-memory-bytes long-prefill-token-threshold master-port max-cpu-loras max-log-len max-logprobs
    max-long-partial-prefills max-lora-rank max-loras max-model-len max-num-batched-tokens max-num-partial-prefills
    max-num-queued-reqs max-num-seqs max-parallel-loading-workers mm-processor-cache-gb
    mm-shm-cache-max-object-size-mb nnodes node-rank num-gpu-blocks-override num-redundant-experts
    pipeline-parallel-size port prefill-context-parallel-size seed shutdown-timeout stream-interval
    tensor-parallel-size
    """.split()  # noqa: SIM905 - see above
)
_NUMBERS = frozenset(["cpu-offload-gb", "gpu-memory-utilization", "kv-offloading-size", "video-pruning-rate"])
_TEXTS = frozenset(
    """
    all2all-backend allowed-local-media-path attention-backend chat-template chat-template-content-format
    code-revision collect-detailed-traces config config-format convert data-parallel-address data-parallel-backend
    dcp-kv-cache-interleave-size disable-access-log-for-endpoints distributed-executor-backend download-dir dtype
    fingerprint-mode fingerprint-value generation-config hf-config-path hf-token host kv-cache-dtype
    kv-offloading-backend load-format log-config-file logits-processor-pattern logprobs-mode
    mamba-block-size mamba-cache-dtype mamba-ssm-cache-dtype master-addr middleware mm-encoder-attn-backend
    mm-encoder-tp-mode mm-processor-cache-type model model-impl optimization-level otlp-traces-endpoint
    performance-mode prefix-caching-hash-algo pt-load-map-location quantization reasoning-parser
    reasoning-parser-plugin response-role revision root-path runner safetensors-load-strategy scheduler-cls
    scheduling-policy tokenizer tokenizer-mode tokenizer-revision tool-call-parser tool-parser-plugin tool-server
    uvicorn-log-level worker-cls worker-extension-cls
    """.split()  # noqa: SIM905 - see above
)
_LISTS = frozenset(
    """
    allowed-headers allowed-media-domains allowed-methods allowed-origins api-key cudagraph-capture-sizes
    device-ids ignore-patterns logits-processors lora-modules lora-target-modules served-model-name
    """.split()  # noqa: SIM905 - see above
)
# JSON objects, also by key: --speculative-config.method ngram
_OBJECTS = frozenset(
    """
    additional-config attention-config compilation-config default-chat-template-kwargs default-mm-loras
    ec-transfer-config eplb-config hf-overrides kv-events-config kv-transfer-config limit-mm-per-prompt media-io-kwargs
    mm-processor-kwargs model-loader-extra-config override-generation-config pooler-config profiler-config
    quantization-config reasoning-config speculative-config structured-outputs-config weight-transfer-config
    """.split()  # noqa: SIM905 - see above
)
_SHORT = {
    "-tp": "tensor-parallel-size",
    "-pp": "pipeline-parallel-size",
    "-dp": "data-parallel-size",
    "-dpl": "data-parallel-size-local",
    "-dpn": "data-parallel-rank",
    "-dpa": "data-parallel-address",
    "-dpp": "data-parallel-rpc-port",
    "-dpb": "data-parallel-backend",
    "-dcp": "decode-context-parallel-size",
    "-pcp": "prefill-context-parallel-size",
    "-ep": "enable-expert-parallel",
    "-asc": "api-server-count",
    "-q": "quantization",
    "-O": "optimization-level",
    "-cc": "compilation-config",
    "-sc": "speculative-config",
    "-ac": "attention-config",
}
# 32k is 32,000 and 32K is 32,768: vLLM's own reading of such numbers
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


class Refused(Exception):
    """An argument that ``vllm serve`` does not know or cannot use; the message is argparse's."""


def parse(arguments: list[str]) -> dict[str, Any]:
    """Return the value of each flag by its long name, the model under ``model``; raises Refused."""
    values: dict[str, Any] = {}
    unknown: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            if "model" in values:
                unknown.append(argument)
            values.setdefault("model", argument)
            continue
        name, value = _name(argument)
        if name.removeprefix("no-") in _SWITCHES and value is None:
            values[name.removeprefix("no-")] = not name.startswith("no-")
        elif name in _LISTS:
            given = [] if value is None else [value]
            while value is None and rest and not rest[0].startswith("-"):
                given.append(rest.pop(0))
            values[name] = _needed(name, given)
        elif name.partition(".")[0] in _OBJECTS or name in _WHOLE_NUMBERS | _NUMBERS | _TEXTS:
            if value is None:
                value = rest.pop(0) if rest and not _is_flag(rest[0]) else ""
            values[name] = _value(name, _needed(name, value))
        else:
            unknown.append(argument)
    if unknown:
        raise Refused(f"unrecognized arguments: {' '.join(unknown)}")
    if "model" not in values:
        raise Refused("the pretend vllm needs the model: vllm serve MODEL")
    return values


def _name(argument: str) -> tuple[str, str | None]:
    flag, equals, value = argument.partition("=")
    if flag in _SHORT:
        return _SHORT[flag], value if equals else None
    if argument.startswith("-O") and argument[2:].isdigit():
        return _SHORT["-O"], argument[2:]
    if not flag.startswith("--"):
        return flag, None
    name, dot, key = flag[2:].partition(".")
    return name.replace("_", "-") + dot + key, value if equals else None


def _is_flag(text: str) -> bool:
    return text.startswith("-") and not text[1:2].isdigit()


def _needed(name: str, value: Any) -> Any:  # noqa: ANN401 - a text or a list
    if not value:
        raise Refused(f"argument --{name}: expected {'at least one argument' if name in _LISTS else 'one argument'}")
    return value


def _value(name: str, text: str) -> str | int | float:
    try:
        if name in _WHOLE_NUMBERS:
            unit = _UNITS.get(text[-1:], 1)
            return int(float(text[:-1]) * unit) if unit > 1 else int(text)
        return float(text) if name in _NUMBERS else text
    except ValueError:
        raise Refused(
            f"argument --{name}: invalid {'int' if name in _WHOLE_NUMBERS else 'float'} value: {text!r}"
        ) from None
