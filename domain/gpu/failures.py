"""Why a model server failed, told from its exit and the last lines of its log, and what a person can try.

Called only for a server that has ended: the same words in a living server's log are no failure.
"""

import re

from domain.gpu.arguments import redact
from domain.gpu.models import Failure, FailureType
from domain.gpu.observation import Exit

#: Lines and characters of a log that are kept with a failure; the whole log stays on the pod.
_TAIL_LINES = 20
_TAIL_LENGTH = 2_000

#: What vLLM, torch, transformers and the Hub write; the first that matches is the cause, so causes come before
#: what follows from them ("Engine core initialization failed" ends almost every one of these logs, and a model that
#: is not supported is told as an invalid configuration). Texts of vLLM 0.32 and 0.33 and what they print through.
_PATTERNS: tuple[tuple[FailureType, str], ...] = (
    (
        "bad_arguments",
        (
            r"error: (?:unrecognized arguments|argument |ambiguous option|the following arguments)"
            r"|User-specified max_model_len .* is greater than the derived"
            r"|is larger than the number of available GPUs"
            r"|must be divisible by (?:the )?tensor parallel size"
        ),
    ),
    ("model_gated", r"GatedRepoError|Cannot access gated repo|Access to model .* is restricted"),
    (
        "model_missing",
        (
            r"RepositoryNotFoundError|Repository Not Found|is not a valid model identifier"
            r"|Can't load the configuration of|Invalid repository ID or local directory|404 Client Error"
            r"|is not a local folder: no such model"
        ),
    ),
    # What the Hub says to a token that is wrong; where it also names the cause, that was found above.
    ("model_gated", r"40[13] Client Error|Invalid user token|Invalid credentials in Authorization header"),
    (
        "remote_code",
        (
            r"contains custom code which must be executed|[Uu]s(?:e|ing) (?:the )?`--trust-remote-code`"
            r"|requires you to execute the configuration file"
        ),
    ),
    (
        "unsupported_model",
        (
            r"[Mm]odel architectures .* (?:are not supported|failed to be inspected)"
            r"|Transformers does not recognize this architecture|Unknown quantization method"
            r"|is not supported for the current GPU|is only supported on GPUs with compute capability"
            r"|Tokenizer class \S+ does not exist"
        ),
    ),
    ("shared_memory", r"insufficient shared memory|No space left on device: '?/(?:dev/shm|psm_)|Bus error"),
    ("disk_full", r"No space left on device|os error 28|Disk quota exceeded"),
    ("port_taken", r"[Aa]ddress already in use|\[Errno (?:48|98)\]"),
    (
        "driver_mismatch",
        (
            r"NVIDIA driver on your system is too old|CUDA driver version is insufficient"
            r"|[Dd]river/library version mismatch|no kernel image is available|Found no NVIDIA driver|libcuda\.so"
            r"|libcudart\.so|forward compatibility was attempted|compiled with an unsupported toolchain"
            r"|is not compatible with the current PyTorch installation|Error 802: system not yet initialized"
        ),
    ),
    ("gpu_missing", r"No CUDA GPUs are available|CUDA error: invalid device ordinal|GPU is lost"),
    (
        "memory_draining",
        (
            r"Free memory on device .* on startup\s+is\s+less than desired GPU memory utilization"
            r"|Error in memory profiling\. Initial free memory"
        ),
    ),
    (
        "kv_cache",
        (
            r"No available memory for the cache blocks|is larger than the available KV cache memory"
            r"|larger than the maximum number of tokens that can be stored in KV cache"
        ),
    ),
    ("out_of_memory", r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"),
    (
        "nccl",
        r"NCCL error|nccl(?:System|UnhandledCuda|Internal)Error|ProcessGroupNCCL.*(?:[Tt]imeout|timed out)",
    ),
    (
        "hub_unreachable",
        (
            r"429 Client Error|Too Many Requests|50[234] Server Error|LocalEntryNotFoundError|OfflineModeIsEnabled"
            r"|[Cc]ouldn't connect to 'https://huggingface\.co|outgoing traffic has been disabled"
            r"|Temporary failure in name resolution|(?:MaxRetryError|ConnectionError|Timeout).*huggingface"
        ),
    ),
    ("engine_died", r"EngineDeadError|EngineCore encountered (?:a fatal error|an issue)|died unexpectedly"),
    ("bad_arguments", r"validation errors? for \w*Config\b"),
    ("engine_init", r"Engine core initialization failed|EngineCore failed to start|WorkerProc initialization failed"),
)
_ADVICE: dict[FailureType, str] = {
    "out_of_memory": "use more GPUs (--gpus), a smaller or quantised model, a shorter --context, or a lower --memory",
    "kv_cache": "shorten the context (--context), raise --memory, or use more GPUs (--gpus)",
    "memory_draining": "the GPU's memory was still in use when it started: try again in a minute, or lower --memory",
    "model_gated": "accept the model's licence on Hugging Face, and set HF_TOKEN where the worker runs",
    "model_missing": "check the spelling of the model, or the path on the pod; a private model needs HF_TOKEN",
    "remote_code": "the model brings code of its own: read it, and allow it with --vllm --trust-remote-code",
    "unsupported_model": "this vLLM does not know this model on this GPU: install a newer one with `podctl pods setup "
    "--vllm`, or choose another model or quantisation",
    "hub_unreachable": "Hugging Face does not answer or limits its rate: it is tried again; HF_TOKEN raises the limit, "
    "and a machine without internet needs the model on its disk",
    "disk_full": "free disk space where models are kept, or keep them elsewhere (`podctl pods setup --models-path`)",
    "shared_memory": "the container's /dev/shm is too small: start it with --shm-size 16g or --ipc host",
    "nccl": "its GPUs cannot talk to each other: use fewer, look at `nvidia-smi topo -m`, give a container --ipc host",
    "port_taken": "another program took the port meanwhile: start it again",
    "driver_mismatch": "the machine's NVIDIA driver and this vLLM's CUDA do not match: update the driver, or install a "
    "vLLM built for it; where GPUs are joined by NVSwitch, nvidia-fabricmanager has to run",
    "bad_arguments": "this vLLM does not take these arguments: compare them with `vllm serve --help` on the pod",
    "engine_init": "read the log from its beginning: the cause stands above its last lines",
    "engine_died": "read the log above the first traceback; if it happens again under load, lower --memory",
    "killed": "something killed it: see `dmesg` on the machine for the kernel's out-of-memory killer",
    "program_not_found": "set the machine up with `podctl pods setup POD`, which installs vLLM",
    "gpu_missing": "a GPU that it was planned on is gone: look at `nvidia-smi` on the machine",
    "gpu_share_taken": "another launch on the machine holds these GPUs: look at `podctl pods show`",
    "not_launched": "start it again",
    "no_room": "start it without --no-wait to queue for a GPU, or stop another model server first",
    "planning": "choose another pod, or other options",
    "machine_rebooted": "start it again",
    "record_missing": "stop it: that verifies what is left on the machine and frees its GPUs",
    "load_stalled": "read the log; a slow disk or network shows as progress, and is waited for",
    "not_adopted": "look at the machine: podctl ssh, ps, or start the model with podctl instead",
    "unresponsive": "read the log; if it happens again under load, lower --memory",
    "unknown": "read the log",
}
_RETRYABLE: frozenset[FailureType] = frozenset(
    {"memory_draining", "port_taken", "hub_unreachable", "machine_rebooted", "not_launched"}
)


def failure(kind: FailureType, message: str, log_tail: str = "") -> Failure:
    """Return a failure of a known type, with its advice and the last lines of the log."""
    return Failure(
        type=kind,
        message=redact(message)[:1_000],
        advice=_ADVICE[kind],
        retryable=kind in _RETRYABLE,
        log_tail=last_lines(log_tail),
    )


def classify(exit_: Exit | None, log_tail: str, *, was_ready: bool) -> Failure:
    """Return why a server ended that nobody asked to stop. Exit 0 is a failure too: vLLM's, after its engine died."""
    log_tail = redact(log_tail)
    kind, line = _cause(exit_, log_tail, was_ready)
    how = describe_exit(exit_)
    if exit_ is not None and exit_.code is not None:
        how += ", though nobody asked it to stop"
    return failure(kind, f"{how}: {line}" if line else how, log_tail)


def describe_exit(exit_: Exit | None) -> str:
    """Return how a process ended, in words."""
    if exit_ is None:
        return "its root process is gone"
    if exit_.error:
        return f"could not be started: {exit_.error}"
    if exit_.signal is not None:
        return f"killed by signal {exit_.signal}"
    if exit_.code is not None:
        return f"exited with code {exit_.code}"
    return "ended, and nobody saw how"


def last_lines(text: str) -> str:
    """Return the last lines of a log as they are kept with a failure: bounded, tokens replaced."""
    return redact("\n".join(text.rstrip().splitlines()[-_TAIL_LINES:]))[-_TAIL_LENGTH:]


def _cause(exit_: Exit | None, log_tail: str, was_ready: bool) -> tuple[FailureType, str]:
    for kind, pattern in _PATTERNS:
        found = re.search(pattern, log_tail)
        if found:
            return kind, _line_around(log_tail, found.start())
    if exit_ is not None and exit_.signal is not None:
        return "killed", ""
    if exit_ is not None and exit_.code == 2:
        return "bad_arguments", ""
    # What a server that was serving leaves behind when its engine is killed: no word of why, exit 0.
    return ("engine_died" if was_ready else "unknown"), ""


def _line_around(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return text[start : end if end >= 0 else len(text)].strip()[:300]
