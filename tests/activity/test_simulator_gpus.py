"""The pretend nvidia-smi: what it prints is what parsers meet on real machines."""

from collections.abc import AsyncIterator

import pytest

from simulator.api import Gpu, MachineConfig, SimulatedMachine, simulate
from tests.activity.simulator_harness import shell

_QUERY = (
    "nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.used,mig.mode.current,driver_version"
    " --format=csv,noheader,nounits"
)
_APPLICATIONS = "nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits"


@pytest.fixture(scope="module")
async def simulated(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SimulatedMachine]:
    gpus = (Gpu(), Gpu(name="NVIDIA H200", memory_mib=143_771, mig=True))
    async with simulate(tmp_path_factory.mktemp("gpus"), [MachineConfig(name="one", gpus=gpus)]) as [machine]:
        yield machine


@pytest.fixture
async def machine(simulated: SimulatedMachine) -> SimulatedMachine:
    await simulated.settings(nvidia_smi="ok")
    await simulated.reboot()
    return simulated


async def test_the_gpus_are_listed_with_names_memory_and_mig(machine: SimulatedMachine) -> None:
    first, second = (gpu.uuid for gpu in machine.gpus)
    code, out, _ = await shell(machine, _QUERY)
    assert code == 0
    assert [line.split(", ") for line in out.splitlines()] == [
        ["0", first, "NVIDIA H100 80GB HBM3", "81559", "0", "Disabled", "570.00"],
        ["1", second, "NVIDIA H200", "143771", "0", "Enabled", "570.00"],
    ]
    _, out, _ = await shell(machine, "nvidia-smi -L")
    assert out.splitlines() == [
        f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {first})",
        f"GPU 1: NVIDIA H200 (UUID: {second})",
        f"  MIG 1g.10gb     Device  0: (UUID: {second.replace('GPU-', 'MIG-')})",
    ]


async def test_csv_has_a_header_and_units_unless_told_otherwise(machine: SimulatedMachine) -> None:
    _, out, _ = await shell(machine, "nvidia-smi --query-gpu=index,memory.total --format=csv")
    assert out.splitlines() == ["index, memory.total [MiB]", "0, 81559 MiB", "1, 143771 MiB"]


async def test_memory_belongs_to_a_process_and_goes_with_it(machine: SimulatedMachine) -> None:
    pid = await machine.occupy_gpu(1, 7_000)
    _, out, _ = await shell(machine, _APPLICATIONS)
    assert out == f"{pid}, {machine.gpus[1].uuid}, 7000\n"
    assert (await machine.gpu_memory())[machine.gpus[1].uuid] == 7_000
    await shell(machine, f"kill -9 {pid}; while kill -0 {pid} 2> /dev/null; do :; done")
    assert (await shell(machine, _APPLICATIONS))[1] == ""
    assert (await machine.gpu_memory())[machine.gpus[1].uuid] == 0


async def test_leaked_memory_is_used_by_nobody(machine: SimulatedMachine) -> None:
    await machine.leak_gpu_memory(0, 900)
    assert (await shell(machine, _APPLICATIONS))[1] == ""
    assert (await shell(machine, _QUERY))[1].splitlines()[0].split(", ")[4] == "900"
    await machine.leak_gpu_memory(0, 0)
    assert (await machine.gpu_memory())[machine.gpus[0].uuid] == 0


@pytest.mark.parametrize(
    ("mode", "used", "application"),
    [
        ("not_available", "[N/A]", "[N/A]"),
        ("insufficient_permissions", "3000", "[Insufficient Permissions]"),
        ("no_processes", "3000", None),
    ],
)
async def test_it_hides_what_drivers_and_containers_hide(
    machine: SimulatedMachine, mode: str, used: str, application: str | None
) -> None:
    pid = await machine.occupy_gpu(0, 3_000)
    await machine.settings(nvidia_smi=mode)
    assert (await shell(machine, _QUERY))[1].splitlines()[0].split(", ")[4] == used
    expected = "" if application is None else f"{pid}, {machine.gpus[0].uuid}, {application}\n"
    assert (await shell(machine, _APPLICATIONS))[1] == expected


async def test_without_a_driver_it_says_so_and_fails(machine: SimulatedMachine) -> None:
    await machine.settings(nvidia_smi="no_driver")
    code, out, _ = await shell(machine, _QUERY)
    assert code == 9
    assert "couldn't communicate with the NVIDIA driver" in out


async def test_it_can_be_missing(machine: SimulatedMachine) -> None:
    await machine.settings(nvidia_smi="missing")
    assert not (machine.folder / "bin" / "nvidia-smi").exists()
    await machine.settings(nvidia_smi="ok")
    assert (await shell(machine, "nvidia-smi -L"))[0] == 0


@pytest.mark.parametrize(
    "arguments", ["--query-gpu=index,temperament --format=csv", "--query-gpu=index", "--format=csv", "--frobnicate"]
)
async def test_what_it_does_not_know_is_refused(machine: SimulatedMachine, arguments: str) -> None:
    assert (await shell(machine, f"nvidia-smi {arguments}"))[0] == 2


async def test_the_table_for_people_says_that_it_is_a_simulation(machine: SimulatedMachine) -> None:
    _, out, _ = await shell(machine, "nvidia-smi")
    assert "simulated" in out
    assert "NVIDIA H200" in out
