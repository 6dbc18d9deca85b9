import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gpu.failures import classify, describe_exit, failure, last_lines
from domain.gpu.observation import Exit

ENGINE = "\n(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB." + ENGINE, "out_of_memory"),
        ("ValueError: No available memory for the cache blocks. " + ENGINE, "kv_cache"),
        (
            "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.0 GiB)." + ENGINE,
            "kv_cache",
        ),
        (
            "ValueError: Free memory on device cuda:0 (34.34/79.1 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.2 GiB)." + ENGINE,
            "memory_draining",
        ),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo for url", "model_gated"),
        ("OSError: nope/nope is not a local folder and is not a valid model identifier listed on", "model_missing"),
        ("huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error", "model_missing"),
        ("OSError: [Errno 98] Address already in use", "port_taken"),
        ("RuntimeError: The NVIDIA driver on your system is too old ." + ENGINE, "driver_mismatch"),
        ("vllm: error: unrecognized arguments: --swap-space 4", "bad_arguments"),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", "engine_died"),
        (
            "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (1.31 GiB). Based on the available memory, the "
            "estimated maximum model length is 12288." + ENGINE,
            "kv_cache",
        ),
        (
            "401 Client Error. (Request ID: Root=1-2)\n\nRepository Not Found for url: https://huggingface.co/api/models",
            "model_missing",
        ),
        ("HfHubHTTPError: 401 Client Error: Unauthorized for url: https://huggingface.co", "model_gated"),
        (
            ("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, Model "
            "architectures ['NewForCausalLM'] are not supported for now. Supported architectures: dict_keys(['A'])"),
            "unsupported_model",
        ),
        (
            ("ValueError: The checkpoint you are trying to load has model type `new` but Transformers does not "
            "recognize this architecture."),
            "unsupported_model",
        ),
        (
            ("1 validation error for ModelConfig\n  Value error, The repository a/b contains custom code which must be "
            "executed to correctly load the model."),
            "remote_code",
        ),
        (
            "consider setting `trust_remote_code=True` in LLM or using the `--trust-remote-code` flag in the CLI.",
            "remote_code",
        ),
        (
            ("Initializing a V1 LLM engine (v0.32.0) with config: model='x', trust_remote_code=True, dtype=x\n"
            "torch.OutOfMemoryError: CUDA out of memory."),
            "out_of_memory",
        ),
        ("1 validation error for ModelConfig\n  Value error, dtype 'float3' is nothing", "bad_arguments"),
        (
            ("Value error, User-specified max_model_len (99999) is greater than the derived max_model_len "
            "(max_position_embeddings=1024)"),
            "bad_arguments",
        ),
        ("RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)" + ENGINE, "nccl"),
        ("OSError: [Errno 28] No space left on device" + ENGINE, "disk_full"),
        ("RuntimeError: Data processing error: I/O error: No space left on device (os error 28)", "disk_full"),
        ("OSError: [Errno 28] No space left on device: '/psm_1234'" + ENGINE, "shared_memory"),
        ("HTTPError: 429 Client Error: Too Many Requests for url: https://huggingface.co/x", "hub_unreachable"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: An error happened while trying to locate", "hub_unreachable"),
        (
            ("OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them "
            "in the cached files."),
            "hub_unreachable",
        ),
        ("urllib3.exceptions.NameResolutionError: Temporary failure in name resolution", "hub_unreachable"),
        ("RuntimeError: No CUDA GPUs are available" + ENGINE, "gpu_missing"),
        ("CUDA error: the provided PTX was compiled with an unsupported toolchain.", "driver_mismatch"),
        ("something" + ENGINE, "engine_init"),
        ("nothing that is known", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_the_cause_is_found_above_what_follows_from_it(log: str, kind: str) -> None:
    found = classify(Exit(code=1), log, was_ready=False)
    assert found.type == kind
    assert found.advice
    assert found.message.startswith("exited with code 1")
    assert found.log_tail == log.strip()


def test_the_message_quotes_the_line_that_says_it() -> None:
    found = classify(Exit(code=1), "a\nb: CUDA out of memory. Tried 2 GiB\nc", was_ready=False)
    assert found.message.endswith("b: CUDA out of memory. Tried 2 GiB")


def test_an_exit_tells_where_the_log_does_not() -> None:
    assert classify(Exit(signal=9), "", was_ready=True).type == "killed"
    assert classify(Exit(code=2), "", was_ready=False).type == "bad_arguments"
    assert classify(Exit(code=0), "", was_ready=True).type == "engine_died"
    assert classify(Exit(unknown=True), "", was_ready=False).message == "ended, and nobody saw how"
    assert classify(None, "", was_ready=False).type == "unknown"
    assert "no such file" in classify(Exit(error="no such file"), "", was_ready=False).message


def test_exit_0_is_said_to_be_none_that_was_asked_for() -> None:
    assert "nobody asked" in classify(Exit(code=0), "", was_ready=True).message


def test_what_waiting_can_cure_is_marked() -> None:
    draining = "Free memory on device cuda:0 on startup is less than desired GPU memory utilization"
    assert classify(Exit(code=1), draining, was_ready=False).retryable
    assert not classify(Exit(code=1), "CUDA out of memory", was_ready=False).retryable


def test_the_tail_is_bounded_and_free_of_tokens() -> None:
    tail = last_lines("x" * 5_000 + "\n" + "\n".join(f"line {n}" for n in range(100)) + "\nhf_" + "a" * 34 + "\n\n")
    assert tail.splitlines()[0] == "line 81"
    assert tail.endswith("***")
    assert len(last_lines("y" * 100_000)) == 2_000
    assert "hf_" not in failure("unknown", "hf_" + "a" * 34).message


@given(
    before=st.text(max_size=400),
    token=st.from_regex(r"hf_[A-Za-z0-9]{34}", fullmatch=True),
    after=st.text(max_size=2_500),
    words=st.sampled_from(["", "%3D", "CUDA out of memory ", "GatedRepoError: ", "a\nb", "NCCL error "]),
    exit_=st.none() | st.builds(Exit, code=st.none() | st.integers(0, 255), signal=st.none() | st.integers(1, 64)),
    was_ready=st.booleans(),
)
def test_whatever_a_log_says_there_is_a_reason_and_never_a_token(
    before: str, token: str, after: str, words: str, exit_: Exit | None, *, was_ready: bool
) -> None:
    found = classify(exit_, before + words + token + after, was_ready=was_ready)
    assert found.advice
    assert found.message
    assert token[:12] not in found.message + found.log_tail


def test_a_line_that_only_tells_the_memory_is_no_failure() -> None:
    line = "Free memory on device (43.93/44.42 GiB) on startup. Desired GPU memory utilization is (0.9, 39.98 GiB)."
    assert classify(Exit(code=1), line, was_ready=False).type == "unknown"


def test_an_exit_that_was_asked_for_is_told_without_reproach() -> None:
    assert describe_exit(Exit(code=0)) == "exited with code 0"
