"""`podctl pods doctor`: a healthy machine, and machines on which one thing each is wrong."""

from collections.abc import Callable

from simulator.api import SimulatedMachine
from tests.workflow.cli.support import CommandLine


async def checks(podctl: CommandLine, pod: str, status: int) -> dict[str, tuple[str, str, str]]:
    done = await podctl("pods", "doctor", pod, "-o", "json", status=status)
    return {check["name"]: (check["result"], check["found"], check["advice"]) for check in done.json}


async def test_a_machine_that_is_fit_passes_every_check(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine
) -> None:
    found = await checks(podctl, gpu_pod, 0)
    assert {name: result for name, (result, _, _) in found.items() if result == "failed"} == {}
    assert machine.fingerprint in found["host key"][1]
    assert "2 x" in found["GPUs"][1]
    for name in ("login", "podlet", "vLLM", "worker", "reached by a worker", "orphans", "PID 1", "Hugging Face token"):
        assert found[name][0] == "ok", found[name]
    table = await podctl("pods", "doctor", gpu_pod)
    assert "CHECK" in table.output


async def test_what_is_wrong_is_found_with_what_to_do(
    podctl: CommandLine, gpu_pod: str, machine: SimulatedMachine, unique: Callable[[str], str]
) -> None:
    pid = await machine.occupy_gpu(0, 1000)
    found = await checks(podctl, gpu_pod, 0)
    assert str(pid) in found["others' processes"][1]
    queue = unique("keys")
    await podctl("pods", "set", gpu_pod, "--task-queue", queue)
    found = await checks(podctl, gpu_pod, 1)
    assert found["worker"] == (
        "failed",
        f"no worker polls task queue {queue}",
        f"where the machine's key is: podctl worker --task-queue {queue}",
    )
    shown = await podctl("pods", "show", gpu_pod)
    assert f"no worker polls task queue {queue}" in shown.errors
    status = await podctl("status")
    assert f"no worker polls task queue {queue}" in status.output
    await podctl("pods", "set", gpu_pod, "--task-queue", "podctl")
    new = await machine.change_host_key()
    found = await checks(podctl, gpu_pod, 1)
    assert f"--accept-host-key {new}" in found["host key"][2]
    await machine.unreachable(outage="refuse")
    found = await checks(podctl, gpu_pod, 1)
    assert "refuses connections" in found["SSH"][2]
