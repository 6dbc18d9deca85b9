"""How far a start is, told from lines that vLLM, huggingface_hub and tqdm really write."""

import pytest

from domain.gpu.progress import Progress, later_progress, parse_progress

WORKER = "(Worker_TP0 pid=34322) "
ENGINE = "(EngineCore pid=7476) "
CAPTURE = "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  61%|██████    | 41/67 [00:06<00:04,  6.30it/s]"


@pytest.mark.parametrize(
    ("line", "stage", "fraction", "words"),
    [
        (
            "Loading safetensors checkpoint shards:  40% Completed | 2/5 [00:01<00:01,  1.63it/s]",
            "load",
            0.4,
            "loading weights, 2 of 5",
        ),
        (
            "Loading fastsafetensors checkpoint shards: 100% Completed | 5/5 [00:02<00:00,  2.14it/s]",
            "load",
            1.0,
            "loading weights, 5 of 5",
        ),
        (
            ENGINE + "Loading safetensors checkpoint shards:  75% Completed | 3/4",
            "load",
            0.75,
            "loading weights, 3 of 4",
        ),
        (
            "Loading safetensors using Runai Model Streamer:  12% Completed | 34/291 [00:02<00:17, 14.4it/s]",
            "load",
            0.12,
            "loading weights, 34 of 291",
        ),
        (
            "model-00003-of-00003.safetensors:   3%|▎         | 150M/4.55G [00:01<00:53, 85.2MB/s]",
            "download",
            0.03,
            "downloading model-00003-of-00003.safetensors, 150M of 4.55G, 85.2MB/s",
        ),
        (
            "model.safetensors-00008-of-00039.safeten(…): 100%|██████████| 1.69G/1.69G [00:27<00:00, 61.1MB/s]",
            "download",
            1.0,
            "downloading model.safetensors-00008-of-00039.safeten(…), 1.69G of 1.69G, 61.1MB/s",
        ),
        (
            "model-00001-of-00003.safetensors:   0%|          | 0.00/4.96G [00:00<?, ?B/s]",
            "download",
            0.0,
            "downloading model-00001-of-00003.safetensors, 0.00 of 4.96G",
        ),
        (
            "Fetching 3 files:  33%|███▎      | 1/3 [15:40<31:20, 940.66s/it]",
            "download",
            0.33,
            "downloading file 1 of 3",
        ),
        (CAPTURE, "compile", 0.61, "capturing CUDA graphs, 41 of 67"),
        (
            "Capturing CUDA graphs (decode, FULL):   0%|          | 0/35 [00:00<?, ?it/s]",
            "compile",
            0.0,
            "capturing CUDA graphs, 0 of 35",
        ),
        (
            "Capturing CUDA graph shapes:  20%|██        | 7/35 [00:03<00:13,  2.10it/s]",
            "compile",
            0.2,
            "capturing CUDA graphs, 7 of 35",
        ),
        (
            "DeepGEMM warmup:  50%|█████     | 1024/2048 [00:10<00:10, 98.1it/s]",
            "compile",
            0.5,
            "warming up, 1024 of 2048",
        ),
        (
            WORKER + "INFO 05-06 20:59:57 [default_loader.py:384] Loading weights took 24.84 seconds",
            "load",
            None,
            "weights are loaded",
        ),
        (
            WORKER
            + "INFO 05-06 20:59:59 [gpu_model_runner.py:4879] Model loading took 12.66 GiB memory and 31.6 seconds",
            "load",
            None,
            "weights are loaded",
        ),
        (
            WORKER + "INFO 05-06 21:00:16 [backends.py:1128] Dynamo bytecode transform time: 3.54 s",
            "compile",
            None,
            "compiling",
        ),
        (
            WORKER + "INFO 06-23 14:53:25 [monitor.py:53] torch.compile took 14.85 s in total",
            "compile",
            None,
            "compiling",
        ),
        (
            ENGINE + "INFO 03-18 06:57:25 [kv_cache_utils.py:1291] GPU KV cache size: 208,320 tokens",
            "compile",
            None,
            "room for 208,320 tokens of KV cache",
        ),
        (
            ENGINE
            + "INFO 03-18 06:57:57 [core.py:259] init engine (profile, create kv cache, warmup model) took 127 seconds",
            "compile",
            None,
            "engine is set up",
        ),
        (
            "INFO 07-01 10:00:00 [gpu_model_runner.py:2602] Starting to load model /models/mistral-7b...",
            "load",
            None,
            "loading weights",
        ),
        (
            ENGINE + "INFO 07-01 10:00:00 [core.py:77] Initializing a V1 LLM engine (v0.31.0) with config: model='/m'",
            "start",
            None,
            "starting the engine",
        ),
        (
            "(APIServer pid=1) INFO 07-01 10:00:00 [api_server.py:1971] Starting vLLM server on http://127.0.0.1:8001",
            "serve",
            None,
            "opening its port",
        ),
        ("(APIServer pid=1) INFO:     Application startup complete.", "serve", None, "answering its first requests"),
    ],
)
def test_a_line_says_how_far_the_start_is(line: str, stage: str, fraction: float | None, words: str) -> None:
    told = parse_progress(line)
    assert told is not None
    assert (told.stage, told.fraction, told.words) == (stage, fraction, words)


@pytest.mark.parametrize(
    "line",
    [
        "",
        '(APIServer pid=1) INFO:     127.0.0.1:33290 - "GET /health HTTP/1.1" 200 OK',
        "(EngineCore pid=1) WARNING 03-18 06:57:25 [op.py:241] Priority not set for op rms_norm, using native one.",
        "Processed prompts:   2%|▎         | 1/40 [00:03<01:59,  3.06s/it]",
        "50%|",
        "a|b|c: 1/2",
    ],
)
def test_a_line_that_says_nothing_of_it_is_no_progress(line: str) -> None:
    assert parse_progress(line) is None


def test_of_bars_that_overwrote_each_other_the_last_counts() -> None:
    told = parse_progress(
        CAPTURE + "Capturing CUDA graphs (decode, FULL):  98%|█████████▊| 50/51 [00:29<00:00,  1.61it/s]"
    )
    assert told is not None
    assert (told.fraction, told.words) == (0.98, "capturing CUDA graphs, 50 of 51")


def test_what_was_known_stays_until_a_line_or_the_machine_says_more() -> None:
    loading = later_progress(None, "load", "Loading safetensors checkpoint shards:  40% Completed | 2/5")
    assert loading is not None
    assert loading.fraction == 0.4
    assert later_progress(loading, "load", "a warning of no importance") == loading
    assert later_progress(loading, "download", "a warning of no importance") == loading
    compiling = later_progress(loading, "compile", "a warning of no importance")
    assert compiling == Progress(stage="compile", words="compiling")
    # Weights are fetched when they are needed: a download after the load began is what goes on now.
    bar = "model.safetensors:  10%|█         | 1.00G/10.0G [00:10<01:30, 100MB/s]"
    downloading = later_progress(loading, "load", bar)
    assert downloading is not None
    assert (downloading.stage, downloading.fraction) == ("download", 0.1)


def test_a_stage_of_a_newer_podlet_changes_nothing() -> None:
    assert later_progress(None, "quantize", "") is None
    assert later_progress(None, None, "") is None
