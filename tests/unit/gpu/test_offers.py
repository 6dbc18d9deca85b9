from domain.gpu.catalog import Catalog, ModelConfiguration, ModelEntry, builtin_catalog
from domain.gpu.observation import Inventory, Vllm
from domain.gpu.offers import Offer, offers
from tests.unit.gpu.pod import gpus, inventory


def offered(machine: Inventory | None, catalog: Catalog | None = None) -> dict[str, Offer]:
    return {row.model: row for row in offers(catalog or builtin_catalog(), {}, machine)}


def test_what_fits_comes_first_and_says_on_how_many_gpus() -> None:
    rows = offers(builtin_catalog(), {}, inventory(4))
    fits = [row.fits is True for row in rows]
    assert fits == sorted(fits, reverse=True)
    oss = offered(inventory(4))["openai/gpt-oss-120b"]
    assert (oss.gpus, oss.default) == ((1, 2, 4), 4)
    assert " ".join(oss.arguments).startswith("--tensor-parallel-size 4 --async-scheduling")


def test_what_does_not_fit_says_what_it_needs_and_what_there_is() -> None:
    row = offered(inventory(2))["zai-org/GLM-5.2-FP8"]
    assert (row.fits, row.gpus, row.default) == (False, (), None)
    assert row.reason == "needs 8 x H200; this pod has 2 x H100"


def test_without_a_machine_there_are_needs_only() -> None:
    row = offered(None)["zai-org/GLM-4.5"]
    assert (row.fits, row.gpus, row.reason) == (None, (8, 16), "")
    assert row.needs == ("16 x H100", "8 x H200")


def test_a_machine_that_can_start_nothing_says_why_for_each() -> None:
    mig = inventory(1, gpus=(gpus(1)[0].model_copy(update={"mig": True}),))
    assert all("MIG" in row.reason for row in offers(builtin_catalog(), {}, mig))
    assert all(
        "no nvidia-smi" in row.reason for row in offers(builtin_catalog(), {}, inventory(0, gpu_state="no_nvidia_smi"))
    )


def test_a_vllm_that_is_too_old_is_said() -> None:
    entry = ModelEntry(configurations=(ModelConfiguration(gpus=1),), min_vllm_version="0.20.0")
    catalog = Catalog(models={"m": entry})
    old = offered(inventory(1, vllm=Vllm(version="0.11.2")), catalog)["m"]
    assert old.reason.startswith("needs vLLM 0.20.0 or newer; this pod has 0.11.2")
    assert offered(inventory(1, vllm=Vllm(version="0.20.0")), catalog)["m"].fits
    assert offered(inventory(1), catalog)["m"].fits


def test_every_row_says_where_its_entry_comes_from() -> None:
    rows = offers(builtin_catalog(), {"openai/gpt-oss-20b": "own"}, None)
    assert {row.model for row in rows if row.source == "own"} == {"openai/gpt-oss-20b"}
