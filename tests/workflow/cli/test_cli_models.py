"""`podctl models`: the catalog against a pod, with a server and without."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from podctl.files import write_atomically
from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine

OWN = "models:\n  my/own:\n    configurations:\n      - gpus: 1\n        arguments: [--max-model-len, '4096']\n"


async def test_the_catalog_against_the_active_pod(podctl: CommandLine, gpu_pod: str) -> None:
    write_atomically(podctl.paths.catalog, OWN)
    found = await podctl.json("models")
    assert (found["pod"], found["gpus"], found["note"]) == (gpu_pod, "2 x H100", "")
    rows = {row["model"]: row for row in found["models"]}
    oss = rows["openai/gpt-oss-120b"]
    assert (oss["fits"], oss["gpus"], oss["default"], oss["source"]) == (True, [1, 2], 2, "podctl")
    assert rows["zai-org/GLM-5.2-FP8"]["reason"] == "needs 8 x H200; this pod has 2 x H100"
    assert (rows["my/own"]["source"], rows["my/own"]["fits"]) == ("own", True)
    table = (await podctl("models", "--pod", gpu_pod)).output
    assert "needs 8 x H200; this pod has 2 x H100" in table
    assert "1, 2*" in table


async def test_without_a_pod_the_needs_are_listed(podctl_without_worker: CommandLine) -> None:
    found = await podctl_without_worker.json("models")
    assert (found["pod"], found["note"]) == (None, "no pod is active")
    rows = {row["model"]: row for row in found["models"]}
    assert rows["zai-org/GLM-4.5"]["needs"] == ["16 x H100", "8 x H200"]
    assert "16 x H100; 8 x H200" in (await podctl_without_worker("models")).output


async def test_without_a_server_the_gpus_are_those_last_seen(podctl_without_worker: CommandLine) -> None:
    pod = {"ssh": "ssh root@203.0.113.7", "gpus": [{"id": 0, "name": "NVIDIA H200", "memory": "143771 MiB"}]}
    write_atomically(podctl_without_worker.paths.pods_file, json.dumps({"pods": {"box": pod}, "active": "box"}))
    offline = CommandLine("127.0.0.1:1", podctl_without_worker.paths)
    found = await offline.json("models")
    assert found["gpus"] == "1 x H200"
    assert found["note"].startswith("GPUs of pod box as last seen: ")
    assert {row["model"]: row["fits"] for row in found["models"]}["zai-org/GLM-4.5-Air"] is True
    assert "no pod is called 'other'" in (await offline("models", "--pod", "other", status=1)).errors


async def test_a_broken_entry_of_ones_own_is_named_with_its_line(podctl_without_worker: CommandLine) -> None:
    write_atomically(podctl_without_worker.paths.catalog, OWN.replace("gpus: 1", "gpus: many"))
    refused = await podctl_without_worker("models", status=2)
    assert f"{podctl_without_worker.paths.catalog}:4: model 'my/own', configurations.0.gpus" in refused.errors


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("missing", "no nvidia-smi on the machine"),
        ("no_driver", "nvidia-smi finds no driver (NVIDIA-SMI has failed because"),
        ("not_available", ""),
    ],
)
async def test_what_nvidia_smi_leaves_unsaid_is_told_in_words(
    podctl: CommandLine, machine: SimulatedMachine, unique: Callable[[str], str], mode: str, says: str
) -> None:
    await machine.settings(nvidia_smi=mode)
    name = unique("pod")
    await podctl("pods", "add", name, machine.ssh_command, "--accept-host-key", machine.fingerprint)
    for command in (("pods",), ("pods", "show", name)):
        assert says in (await podctl(*command)).output
    rows = (await podctl.json("models"))["models"]
    if mode == "not_available":
        # What needs a type of GPU fits; what needs memory cannot be told.
        assert {row["model"]: row["fits"] for row in rows}["openai/gpt-oss-20b"] is True
        assert {row["model"]: row["fits"] for row in rows}["google/gemma-4-31B-it"] is False
    else:
        assert all(says in row["reason"] for row in rows)
    await podctl("pods", "remove", name, "--lost")


def checkout(folder: Path, **recipes: str) -> Path:
    """A folder as a checkout of the recipes is, with one variant for each model."""
    for name, settings in recipes.items():
        write_atomically(
            folder / "models" / "acme" / f"{name}.yaml",
            f"model: {{model_id: acme/{name}}}\nvariants: {{default: {{{settings}}}}}\n"
            "compatible_strategies: [single_node_tp]\n",
        )
    return folder


async def test_recipes_are_imported_and_ones_own_entries_win(
    podctl_without_worker: CommandLine, tmp_path: Path
) -> None:
    podctl = podctl_without_worker
    own = OWN.replace("my/own", "acme/mine")
    write_atomically(podctl.paths.catalog, own)
    folder = checkout(tmp_path / "a", heron="vram_minimum_gb: 60", mine="vram_minimum_gb: 1", odd="precision: bf16")
    first = await podctl.json("models", "import", str(folder))
    assert (first["added"], first["own_wins"]) == (["acme/heron", "acme/mine"], ["acme/mine"])
    assert [skipped["what"] for skipped in first["skipped"]] == ["models/acme/odd.yaml, variant default"]
    rows = {row["model"]: row for row in (await podctl.json("models"))["models"]}
    assert (rows["acme/heron"]["source"], rows["acme/mine"]["source"]) == ("recipes", "own")
    assert rows["acme/heron"]["needs"][0] == "1 x GPU with at least 60 GB"
    assert podctl.paths.catalog.read_text() == own

    later = checkout(tmp_path / "b", heron="vram_minimum_gb: 70", crane="vram_minimum_gb: 8")
    said = await podctl("models", "import", str(later))
    assert "1 models added, 1 changed, 0 as before, 1 removed" in said.output
    assert "removed: acme/mine is in no recipe any more" in said.errors
    again = await podctl.json("models", "import", str(later))
    assert (again["added"], again["changed"], again["unchanged"]) == ([], [], 2)


async def test_an_import_that_cannot_be_changes_nothing(podctl_without_worker: CommandLine, tmp_path: Path) -> None:
    podctl = podctl_without_worker
    folder = checkout(tmp_path / "a", heron="vram_minimum_gb: 60")
    await podctl("models", "import", str(folder))
    before = podctl.paths.recipes.read_text()
    refused = await podctl("models", "import", str(tmp_path), status=2)
    assert "has no recipes: expected models/ORGANISATION/MODEL.yaml" in refused.errors
    write_atomically(podctl.paths.catalog, "models: [")
    broken = checkout(tmp_path / "b", crane="vram_minimum_gb: 60")
    assert str(podctl.paths.catalog) in (await podctl("models", "import", str(broken), status=2)).errors
    assert podctl.paths.recipes.read_text() == before


async def test_what_a_model_takes_at_least(podctl_without_worker: CommandLine, tmp_path: Path) -> None:
    podctl = CommandLine("127.0.0.1:1", podctl_without_worker.paths)
    folder = tmp_path / "heron"
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    write_atomically(folder / "config.json", json.dumps({**shape, "max_position_embeddings": 8_192}))
    with (folder / "model.safetensors").open("wb") as weights:
        weights.truncate(30 * 10**9)  # a hole: nothing is written
    alone = await podctl.json("models", "fit", str(folder))
    assert (alone["weights_bytes"], alone["token_bytes"], alone["fits"]) == (30 * 10**9, 131_072, [])
    assert alone["note"].startswith("no pod is active")

    gpus = [{"id": index, "name": "NVIDIA A10G", "memory": "23028 MiB"} for index in range(4)]
    pods = {"pods": {"box": {"ssh": "ssh root@203.0.113.7", "gpus": gpus}}, "active": "box"}
    write_atomically(podctl.paths.pods_file, json.dumps(pods))
    found = await podctl.json("models", "fit", str(folder), "--context", "8k")
    assert [(row["gpus"], row["context"], row["whole"]) for row in found["fits"]] == [
        (1, 0, False),
        (2, 8_192, True),
        (4, 8_192, True),
    ]
    said = await podctl("models", "fit", str(folder), "--context", "16k")
    assert "weights 30.0 GB; KV cache 128.0 KiB for each token, 8,192 tokens at most" in said.output
    assert "not even the weights fit" in said.output
    assert "does not fit" in said.output.splitlines()[-1]
    assert "a lower bound" in said.errors
    assert "GPUs of pod box as last seen" in said.errors
    assert (
        "--context: 'x' is not a context length"
        in (await podctl("models", "fit", str(folder), "--context", "x", status=2)).errors
    )
