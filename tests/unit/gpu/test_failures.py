import pytest

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


def test_an_exit_that_was_asked_for_is_told_without_reproach() -> None:
    assert describe_exit(Exit(code=0)) == "exited with code 0"
