"""What the demonstration claims, checked on the machine itself and in the histories."""

from collections import Counter
from dataclasses import dataclass

from domain.ids import gpu_pod_workflow_id, task_workflow_id
from podctl.client import PodctlClient
from simulator.api import SimulatedMachine


@dataclass(frozen=True)
class Claim:
    """One line of the proof."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Proof:
    """All lines of the proof."""

    lines: tuple[Claim, ...]

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return all(line.holds for line in self.lines)


async def gather_proof(
    client: PodctlClient, machine: SimulatedMachine, pod: str, task: str, *, workers: tuple[int, ...]
) -> Proof:
    """Look at the machine's files and processes, and at the event logs, and say what is true."""
    launches = machine.folder / "home" / ".podctl" / "launches"
    server_launches = sorted(launches.glob(f"{pod}/*/*/record.json"))
    started = Counter((machine.folder / "home" / ".podctl" / "work" / task / "started.log").read_text().split())
    leaflet = machine.folder / "home" / ".podctl" / "work" / task / "leaflet.txt"
    # The worker's own watch looks on over SSH for as long as the worker lives; it belongs to no launch.
    processes = [process for process in await machine.processes() if "podlet_" not in process.arguments[-1]]
    memory = sum((await machine.gpu_memory()).values())
    task_events = Counter(event.type for event in (await client.log(task_workflow_id(task))).events)
    pod_events = Counter(event.type for event in (await client.log(gpu_pod_workflow_id(pod))).events)
    approvals = {name: task_events[f"{name}_approved"] for name in ("spec", "plan", "review")}
    return Proof(
        (
            Claim(f"two workers: {workers[0]} was killed, {workers[1]} took over", len(set(workers)) == 2),
            Claim(
                f"one launch of the model server on the pod's disk ({len(server_launches)}), one in its history "
                f"({pod_events['server_launching']})",
                len(server_launches) == 1 and pod_events["server_launching"] == 1,
            ),
            Claim(
                "times that each command ran: " + ", ".join(f"{name} {count}" for name, count in started.items()),
                len(started) == 4 and set(started.values()) == {1} and task_events["workstream_started"] == 4,
            ),
            Claim(
                "times that each approval counted: "
                + ", ".join(f"{name} {count}" for name, count in approvals.items()),
                set(approvals.values()) == {1},
            ),
            Claim(
                f"the leaflet is there: {len(leaflet.read_text().splitlines()) if leaflet.exists() else 0} lines",
                leaflet.exists(),
            ),
            Claim(f"no process is left on the pod ({len(processes)})", not processes),
            Claim(f"its GPU memory is free ({memory} MiB in use)", memory == 0),
            Claim(
                "the server's stop was verified, then its lease released",
                pod_events["server_stopped"] == 1 and pod_events["lease_released"] == 1,
            ),
        )
    )
