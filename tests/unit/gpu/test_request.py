from typing import Any

import pytest
from pydantic import ValidationError

from domain.errors import BadInput, Rejected
from domain.gpu.arguments import option_value, redact, with_option
from domain.gpu.catalog import builtin_catalog
from domain.gpu.request import StartRequest, check_request, start_request
from tests.unit.gpu.pod import request

TOKEN = "hf_" + "aB3" * 12


@pytest.mark.parametrize(
    ("text", "share"), [("90%", 0.9), (" 45.5 % ", 0.455), ("0.8", 0.8), (".5", 0.5), (0.7, 0.7), (1, 1), ("100%", 1)]
)
def test_memory(text: object, share: float) -> None:
    assert StartRequest.model_validate({"model": "m", "name": "n", "memory": text}).memory == pytest.approx(share)


@pytest.mark.parametrize("text", ["90", "0%", "110%", "0", "much", 0, 1.5, -1, ""])
def test_memory_that_makes_no_sense(text: object) -> None:
    with pytest.raises(ValidationError):
        StartRequest.model_validate({"model": "m", "name": "n", "memory": text})


@pytest.mark.parametrize(("text", "tokens"), [("4k", 4096), ("32K", 32768), ("128k", 131072), ("32000", 32000), (7, 7)])
def test_context(text: object, tokens: int) -> None:
    assert StartRequest.model_validate({"model": "m", "name": "n", "context": text}).context == tokens


@pytest.mark.parametrize("text", ["32m", "k", "-1", "0", "3.5k", 0])
def test_context_that_makes_no_sense(text: object) -> None:
    with pytest.raises(ValidationError):
        StartRequest.model_validate({"model": "m", "name": "n", "context": text})


@pytest.mark.parametrize("model", ["-m", "--port", "", "a\nb", "x" * 300, " m", "a\x00"])
def test_models_that_could_be_taken_for_something_else(model: str) -> None:
    with pytest.raises(ValidationError):
        StartRequest(model=model, name="n")


@pytest.mark.parametrize("model", ["Qwen/Qwen3", "/models/my model's", "$(id)", "./ünïcode"])
def test_models_that_are_taken_literally(model: str) -> None:
    assert StartRequest(model=model, name="n").model == model


@pytest.mark.parametrize("field", [{"gpus": 2}, {"memory": 0.5}, {"context": 4096}])
def test_vllm_arguments_exclude_the_three_options(field: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as refused:
        check_request(request(arguments=("--enforce-eager",), **field))
    assert refused.value.code == "options_conflict"
    assert f"--{next(iter(field))}" in refused.value.message


@pytest.mark.parametrize(
    "arguments",
    [
        ("--api-key", "secret"),
        ("--api-key=secret",),
        ("--api_key", "secret"),
        ("--api-ke", "secret"),
        ("--hf-token", "secret"),
        ("--hf-overrides", f'{{"token": "{TOKEN}"}}'),
        (TOKEN,),
    ],
)
def test_secrets_in_arguments_are_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    with pytest.raises(Rejected) as refused:
        check_request(request(arguments=arguments))
    assert refused.value.code == "secret_in_arguments"
    assert "secret" not in refused.value.message.replace("secret_in", "")
    assert TOKEN not in refused.value.message


@pytest.mark.parametrize(
    "option", ["--port", "--host=0.0.0.0", "--uds", "--shutdown-timeout", "--shutdown_time", "--por"]
)
def test_what_podctl_decides_is_refused(option: str) -> None:
    with pytest.raises(Rejected) as refused:
        check_request(request(arguments=(option, "1")))
    assert refused.value.code == "reserved_argument"


def test_other_arguments_pass() -> None:
    check_request(
        request(arguments=("--max-model-len", "4096", "--served-model-name", "x", "-O3", "--api-server-count=2"))
    )


def test_arguments_have_a_size() -> None:
    with pytest.raises(Rejected) as refused:
        check_request(request(arguments=("x" * 4_000,) * 5))
    assert refused.value.code == "arguments_too_long"


def test_options_are_found_and_replaced_in_each_form() -> None:
    arguments = ("--a", "1", "--max_model_len=5", "--flag", "--a=2")
    assert option_value(arguments, "--a") == "2"
    assert option_value(arguments, "--max-model-len") == "5"
    assert option_value(arguments, "--none") is None
    assert option_value(("--last",), "--last") is None
    assert with_option(arguments, "--a", "3") == ("--max_model_len=5", "--flag", "--a", "3")
    assert with_option(arguments, "--max-model-len", "7") == ("--a", "1", "--flag", "--a=2", "--max-model-len", "7")


def test_tokens_are_taken_out_of_logs() -> None:
    assert redact(f"using {TOKEN} for it") == "using *** for it"


def test_a_request_carries_what_the_catalog_says() -> None:
    model = "openai/gpt-oss-20b"
    made = start_request(builtin_catalog(), model, "oss", memory="80%", context="32k")
    assert made.entry == builtin_catalog().models[model]
    assert (made.memory, made.context) == (0.8, 32768)
    assert start_request(builtin_catalog(), "my/own", "own").entry is None
    with pytest.raises(BadInput, match="memory"):
        start_request(builtin_catalog(), model, "oss", memory="lots")
    with pytest.raises(Rejected):
        start_request(builtin_catalog(), model, "oss", memory="80%", arguments=("--x",))
