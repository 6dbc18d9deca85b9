"""Entries from recipes: the format is that of vllm-project/recipes, the models here are made up."""

from typing import Any

import pytest
import yaml

from domain.gpu.catalog import ModelConfiguration
from domain.gpu.planning import plan_start
from domain.gpu.recipes import RecipeEntry, Skipped, recipe_entries
from tests.unit.gpu.pod import inventory, request

RECIPE = """
meta: {title: Heron 70B, tasks: [text], hardware: {h100: verified, mi300x: unsupported}}
model:
  model_id: acme/Heron-70B
  min_vllm_version: "0.20.0"
  base_args: [--trust-remote-code]
  base_env: {ACME_FAST: 1}
features:
  tool_calling: {description: …, args: [--enable-auto-tool-choice, --tool-call-parser, heron]}
  reasoning: {default_mode: deep, modes: {flat: {args: [--x]}, deep: {args: [--reasoning-parser, heron]}}}
  spec_decoding: {args: [--speculative-config, "{}"]}
opt_in_features: [spec_decoding]
variants:
  default: {precision: bf16, vram_minimum_gb: 170, description: …}
  fp8:
    model_id: acme/Heron-70B-FP8
    precision: fp8
    vram_minimum_gb: 85
    min_vllm_version: 0.21
    extra_args: [--kv-cache-dtype, auto]
compatible_strategies: [single_node_tp, multi_node_tp]
hardware_overrides:
  hopper: {extra_args: [--kv-cache-dtype, fp8], extra_env: {ACME_HOPPER: "1"}}
  amd: {extra_env: {ACME_AMD: "1"}}
guide: |
  ## Overview
"""
PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "heron", "--reasoning-parser", "heron")


def recipe(**changes: Any) -> Any:  # noqa: ANN401 - YAML
    """The recipe above with values replaced; ``variant`` changes its default variant, None takes a value away."""
    content = yaml.safe_load(RECIPE)
    variant = changes.pop("variant", {})
    content["variants"]["default"] |= variant
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return content


def read(content: object) -> tuple[dict[str, RecipeEntry], list[Skipped]]:
    entries, skipped = recipe_entries(content, "models/acme/Heron-70B.yaml")
    return {entry.model: entry for entry in entries}, skipped


def only(content: object) -> tuple[ModelConfiguration, ...]:
    return read(content)[0]["acme/Heron-70B"].entry.configurations


def why(content: object) -> str:
    _, skipped = read(content)
    return skipped[0].why


def test_every_variant_becomes_an_entry_of_its_model() -> None:
    entries, skipped = read(recipe())
    assert skipped == []
    assert list(entries) == ["acme/Heron-70B", "acme/Heron-70B-FP8"]
    assert [entries[model].is_own for model in entries] == [True, False]
    assert entries["acme/Heron-70B"].entry.min_vllm_version == "0.20.0"
    assert entries["acme/Heron-70B-FP8"].entry.min_vllm_version == "0.21"


def test_the_memory_is_split_over_the_gpus_and_the_fewest_are_taken() -> None:
    entry = read(recipe())[0]["acme/Heron-70B"].entry
    hopper = [c for c in entry.configurations if c.types == ("H100", "H200")]
    assert [(c.gpus, c.minimum_memory_gb) for c in hopper] == [(1, 170), (2, 85), (4, 42.5), (8, 21.2)]
    wanted = request("h", "acme/Heron-70B", entry=entry)
    assert len(plan_start(wanted, inventory(8), []).gpus) == 2
    plan = plan_start(wanted, inventory(8, "NVIDIA A100-SXM4-80GB"), [])
    assert (len(plan.gpus), "ACME_HOPPER" in plan.environment) == (2, False)


def test_arguments_are_those_of_the_gpus_generation_and_each_counts_once() -> None:
    hopper, other = (c for c in read(recipe())[0]["acme/Heron-70B-FP8"].entry.configurations if c.gpus == 2)
    split = ("--tensor-parallel-size", "2")
    assert hopper.arguments == (*split, "--trust-remote-code", "--kv-cache-dtype", "fp8", *PARSERS)
    assert hopper.environment == {"ACME_FAST": "1", "ACME_HOPPER": "1"}
    assert other.arguments == (*split, "--trust-remote-code", "--kv-cache-dtype", "auto", *PARSERS)
    assert (other.types, other.environment) == ((), {"ACME_FAST": "1"})
    one = next(c for c in only(recipe()) if c.gpus == 1)
    assert "--tensor-parallel-size" not in one.arguments


def test_a_recipe_may_name_the_count() -> None:
    assert {c.gpus for c in only(recipe(variant={"tp": 4}))} == {4}
    assert {c.gpus for c in only(recipe(strategy_overrides={"single_node_tp": {"tp": 2}}))} == {2}
    by_gpu = only(recipe(variant={"tp": {"b200": 1, "hopper": 2, "default": 8}}))
    assert {(c.gpus, c.types) for c in by_gpu} >= {(1, ("B200",)), (2, ("H100", "H200")), (8, ())}


def test_experts_are_split_where_the_recipe_says_so() -> None:
    tep = only(recipe(default_strategy="single_node_tep", compatible_strategies=["single_node_tp", "single_node_tep"]))
    assert tep[1].arguments[:3] == ("--tensor-parallel-size", "2", "--enable-expert-parallel")
    dep = only(recipe(compatible_strategies=["single_node_dep"]))
    assert dep[1].arguments[:3] == ("--data-parallel-size", "2", "--enable-expert-parallel")


def test_a_quantisation_of_one_generation_is_for_its_gpus_only() -> None:
    kinds = {kind for c in only(recipe(variant={"precision": "nvfp4"})) for kind in c.types}
    assert {"B200", "RTX PRO 6000"} <= kinds
    assert not kinds & {"H100", "H200", "RTX 4090"}
    anywhere = {"precision": "nvfp4", "precision_hardware": {"brand": "NVIDIA"}}
    assert () in {c.types for c in only(recipe(variant=anywhere))}
    listed = only(recipe(variant={"supported_hardware": ["mi300x", "rtx_5090_2x"], "vram_minimum_gb": 20}))
    assert {c.types for c in listed} == {("RTX 5090",)}
    refused = only(recipe(meta={"tasks": ["text"], "hardware": {"h100": "unsupported"}}))
    assert all(c.types and "H100" not in c.types for c in refused)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (recipe(meta={"tasks": ["omni"]}), "it is for omni"),
        (recipe(compatible_strategies=["multi_node_tp"]), "it is not served on one machine"),
        (recipe(variant={"vram_minimum_gb": 5000}), "5000 GB are more than the GPUs of one machine have"),
        (recipe(variant={"vram_minimum_gb": None}), "vram_minimum_gb: "),
        (recipe(variant={"supported_hardware": ["mi355x"]}), "it is for mi355x, none of which is an NVIDIA GPU"),
        (recipe(variant={"precision_hardware": {"brand": "AMD"}}), "none of which is an NVIDIA GPU"),
        (recipe(variant={"extra_args": ["--port", "1"]}), "--port is podctl's to set"),
        (recipe(variant={"min_vllm_version": "nightly"}), "min_vllm_version: "),
        (recipe(model={"model_id": None}), "model.model_id: "),
        (["no", "recipe"], "Input should be a valid dictionary"),
        (None, "Input should be a valid dictionary"),
    ],
)
def test_what_does_not_become_an_entry_says_why(content: object, says: str) -> None:
    assert says in why(content)


def test_a_broken_variant_does_not_hide_the_others() -> None:
    entries, skipped = read(recipe(variant={"vram_minimum_gb": "much"}))
    assert list(entries) == ["acme/Heron-70B-FP8"]
    assert skipped[0].what == "models/acme/Heron-70B.yaml, variant default"
