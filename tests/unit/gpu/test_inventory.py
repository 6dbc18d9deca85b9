import pytest

from domain.gpu.inventory import compact, describe_gpus, differences, foreign_processes, gpu_type, memory_gb
from domain.gpu.observation import ComputeApp, Gpu, Inventory
from tests.unit.gpu.pod import gpus, inventory


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 NVL", "H100"),
        ("NVIDIA H100 PCIe", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H200 NVL", "H200"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA H20-3e", "H20"),
        ("NVIDIA H800", "H800"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA GB10", "GB10"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA GH200 144G HBM3e", "GH200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "A100"),
        ("NVIDIA A800-SXM4-80GB", "A800"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A2", "A2"),
        ("NVIDIA A30", "A30"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L20", "L20"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "T4"),
        ("Tesla P40", "P40"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100S-PCIE-32GB", "Tesla V100S-PCIE-32GB"),
        ("NVIDIA GeForce GTX 1080 Ti", "GTX 1080 Ti"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "RTX 4090 D"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 3060 Ti", "RTX 3060 Ti"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("NVIDIA GeForce RTX 5090 Laptop GPU", "RTX 5090 Laptop"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX 4000 SFF Ada Generation", "RTX 4000 SFF Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("Quadro RTX 6000", "RTX 6000"),
        ("NVIDIA TITAN RTX", "TITAN RTX"),
        ("NVIDIA Graphics Device", "Graphics Device"),
        ("AMD Instinct MI300X", "AMD Instinct MI300X"),
        ("NVIDIA Something New", "Something New"),
    ],
)
def test_names_of_nvidia_smi_give_the_catalogs_types(name: str, kind: str) -> None:
    assert gpu_type(name) == kind


def test_a_type_is_its_own_type() -> None:
    for name in ("NVIDIA H100 PCIe", "NVIDIA RTX 6000 Ada Generation", "NVIDIA GeForce RTX 5090 Laptop GPU", "Odd One"):
        assert gpu_type(gpu_type(name)) == gpu_type(name)


def test_memory_is_told_as_cards_are_sold() -> None:
    gpu = Gpu(index=0, uuid="u", name="x", memory_total_mib=81_559)
    size = memory_gb(gpu)
    assert size is not None
    assert 80 < size < 86
    assert memory_gb(gpu.model_copy(update={"memory_total_mib": None})) is None


def test_a_podlet_that_says_more_is_understood_and_its_blanks_are_taken() -> None:
    text = """{"boot": "b", "new_field": {"a": 1}, "gpu_state": "ok", "driver": null,
        "gpus": [{"index": 0, "uuid": "u", "name": "NVIDIA H200", "memory_total_mib": null, "memory_used_mib": null,
                  "mig": false, "fan": 3}],
        "compute_apps": [{"pid": 4, "gpu_uuid": "u", "used_mib": null, "launch": null}],
        "vllm": {"program": null, "version": null}}"""
    look = Inventory.model_validate_json(text)
    assert foreign_processes(look) == {"u": (4,)}
    assert describe_gpus(look) == "1 x H200"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("no_nvidia_smi", "no nvidia-smi on the machine"),
        ("no_driver", "nvidia-smi finds no driver (NVIDIA-SMI has failed)"),
        ("error", "nvidia-smi failed"),
        ("ok", "no GPU"),
    ],
)
def test_a_machine_without_gpus_says_why(state: str, says: str) -> None:
    message = "NVIDIA-SMI has failed\nmore" if state == "no_driver" else ""
    assert describe_gpus(inventory(0, gpu_state=state, gpu_message=message)) == says


def test_a_machine_that_does_not_show_all_of_itself_says_so() -> None:
    look = inventory(1, gpu_message="nvidia-smi: Unable to determine the device handle: GPU is lost")
    assert describe_gpus(look) == "1 x H100 (nvidia-smi: Unable to determine the device handle: GPU is lost)"
    hidden = gpus(2, "NVIDIA A100-SXM4-80GB")
    look = inventory(2, gpus=(hidden[0].model_copy(update={"mig": True}), hidden[1]))
    assert describe_gpus(look) == "1 x A100 with MIG, 1 x A100"


def test_only_what_a_person_would_call_a_change_is_one() -> None:
    look = inventory(2)
    busier = look.model_copy(
        update={
            "gpus": tuple(gpu.model_copy(update={"memory_used_mib": 70_000}) for gpu in look.gpus),
            "disk_free_bytes": 5,
            "compute_apps": (ComputeApp(pid=5, gpu_uuid="GPU-0", launch="box/qwen/1"),),
        }
    )
    assert differences(look, busier) == []
    assert differences(None, look) == ["GPUs: 2 x H100"]
    assert differences(look, inventory(1)) == ["GPUs: 2 x H100 -> 1 x H100"]
    assert differences(look, inventory(2, foreign=[1])) == ["GPUs used by processes of somebody else: GPU 1"]
    assert differences(inventory(2, foreign=[1]), look) == ["GPUs used by processes of somebody else: none"]
    assert differences(look, inventory(2, driver="570.1")) == ["driver: None -> 570.1"]
    assert differences(look, inventory(2, gpu_state="error")) == ["nvidia-smi: ok -> error"]


def test_the_kept_inventory_is_bounded() -> None:
    apps = tuple(ComputeApp(pid=pid, gpu_uuid="GPU-0") for pid in range(1_000))
    kept = compact(inventory(1, compute_apps=apps, gpu_message="x" * 10_000))
    assert len(kept.model_dump_json()) < 10_000
    assert "GPU-0" in foreign_processes(kept)
