"""The state of a GPU pod: one machine, its model servers, and what is known about it."""

from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import Field

from domain.entity import EntityState, Value
from domain.errors import Rejected
from domain.gpu.observation import Exit, GpuShare, Inventory, StopResult
from domain.gpu.request import StartRequest
from domain.gpu.setup import Setup, VllmInstall
from domain.gpu.ssh_target import SshTarget
from domain.ids import Name

#: `restarting`: ended, verified, and launched again at ``retry_at``.
#: `lost`: contact with the launch itself was lost (its record is gone, or a person gave up the machine).
#: `memory_unexplained`: stopped, but GPU memory did not come back; the lease stays held.
ServerState = Literal[
    "pending",
    "launching",
    "loading",
    "ready",
    "unhealthy",
    "restarting",
    "stopping",
    "stopped",
    "failed",
    "lost",
    "memory_unexplained",
]
ShownState = ServerState | Literal["unreachable"]
FailureType = Literal[
    "out_of_memory",
    "kv_cache",
    "memory_draining",
    "model_gated",
    "model_missing",
    "remote_code",
    "unsupported_model",
    "hub_unreachable",
    "disk_full",
    "shared_memory",
    "nccl",
    "port_taken",
    "driver_mismatch",
    "bad_arguments",
    "engine_init",
    "engine_died",
    "killed",
    "program_not_found",
    "gpu_missing",
    "gpu_share_taken",
    "not_launched",
    "no_room",
    "planning",
    "machine_rebooted",
    "record_missing",
    "load_stalled",
    "not_adopted",
    "unresponsive",
    "unknown",
]


class Failure(Value):
    """Why a model server failed, what to try, and the last lines of its log."""

    type: FailureType
    message: str
    advice: str
    #: Whether the same start may succeed later without any change.
    retryable: bool = False
    log_tail: str = ""


class StartPlan(Value):
    """What was decided for one launch. ``argv`` carries ``{loopback}`` for the machine's loopback address."""

    #: UUIDs, in the order of the machine's indexes.
    gpus: tuple[str, ...]
    #: Part of each GPU's memory, 0 < share <= 1.
    share: float
    port: int
    #: First and count of the ports that vLLM uses inside.
    internal_ports: tuple[int, int]
    argv: tuple[str, ...]
    environment: dict[str, str]
    served_name: str

    @property
    def ports(self) -> tuple[int, ...]:
        """Every port that the launch may listen on."""
        first, count = self.internal_ports
        return (self.port, *range(first, first + count))


class StopOrder(Value):
    """A stop that was asked for and is carried out until it is verified. ``grace`` is in seconds."""

    requested_at: datetime
    by: str
    grace: float
    attempts: int = 0
    #: Not to be tried again before; None: at once.
    retry_at: datetime | None = None

    def tried_again(self, now: datetime) -> Self:
        """Return the order after a try that failed: the next one follows after 5 s, doubled up to 5 minutes."""
        delay = timedelta(seconds=min(5.0 * 2**self.attempts, 300.0))
        return self.model_copy(update={"attempts": self.attempts + 1, "retry_at": now + delay})

    def seconds_left(self, now: datetime) -> float:
        """Return the seconds until it may be tried again."""
        return 0.0 if self.retry_at is None else max(0.0, (self.retry_at - now).total_seconds())


class Ended(Value):
    """Why nothing of a launch can be left on the machine; only then is its lease released."""

    how: Literal["verified", "rebooted", "lost", "not_launched", "memory_accepted"]
    at: datetime


class Belief(Value):
    """What was last seen of a launch, reduced to what matters. Readiness and stage only ever grow."""

    state: Literal["absent", "starting", "running", "exited"]
    pid: int | None = None
    start_time: int | None = None
    root_exited: bool = False
    members_left: bool = False
    ready: bool = False
    healthy: bool | None = None
    stage: str | None = None
    stop_verified: bool = False


class Adoption(Value):
    """A server that somebody else started: the process that they kept of it, and where its log may be."""

    pid: int
    log: str | None = None


class Told(Value):
    """What a holder of a server was last told about it."""

    status: ShownState
    launch_id: str | None = None


class ModelServer(Value):
    """One model server: what is wanted, what was decided, what is seen. A later start of the name replaces it."""

    name: Name
    request: StartRequest
    state: ServerState = "pending"
    since: datetime
    #: Counts launches of this name; 0 while none was decided.
    counter: int = 0
    launch_id: str | None = None
    plan: StartPlan | None = None
    #: It was not launched but taken over as it is: podctl ends it when asked to, and never by itself.
    adopted: Adoption | None = None
    #: Tasks that need it.
    holders: tuple[str, ...] = ()
    #: A person started it: it stays when no task needs it.
    kept: bool = False
    #: It should run; False once a stop was asked for.
    wanted: bool = True
    #: It may wait in the queue; False: it fails if there is no room.
    wait: bool = True
    #: Launches of this request that were refused before anything ran.
    refused_launches: int = 0
    belief: Belief | None = None
    pid: int | None = None
    stage: str | None = None
    exit: Exit | None = None
    failure: Failure | None = None
    created_at: datetime
    ready_at: datetime | None = None
    #: Why it is unhealthy; empty while it is not.
    unhealthy_reason: str = ""
    #: When it is launched again after its launch ended, not before that is verified; None: it is not.
    retry_at: datetime | None = None
    #: When it was decided that it is launched again: those of the hour before the last such decision.
    restarts: tuple[datetime, ...] = ()
    stop: StopOrder | None = None
    stop_result: StopResult | None = None
    ended: Ended | None = None
    told: dict[str, Told] = Field(default_factory=dict)

    @property
    def model(self) -> str:
        """The model that it serves."""
        return self.request.model

    @property
    def holds_lease(self) -> bool:
        """Whether a launch was decided of which something may be on the machine."""
        return self.launch_id is not None and self.ended is None

    @property
    def finished(self) -> bool:
        """Whether it neither runs nor waits to, and holds nothing."""
        return self.state not in {"pending", "restarting"} and not self.holds_lease

    @property
    def may_have_process(self) -> bool:
        """Whether a process of it may live."""
        return self.holds_lease and self.state != "memory_unexplained"


class Orphan(Value):
    """A launch on the machine that this state does not own and that lives; planning goes around it."""

    launch_id: str
    belief: Belief
    gpus: tuple[GpuShare, ...] = ()
    ports: tuple[int, ...] = ()
    #: ``GpuPodState.owner`` of the pod that launched it, None where the machine does not say.
    owner: str | None = None
    started_at: datetime | None = None
    #: It is being ended, until that is verified.
    reap: StopOrder | None = None


class PodAddress(Value):
    """Everything an activity needs to reach the machine. The host key is public, in OpenSSH's format."""

    pod: str
    ssh: SshTarget
    host_key: str
    root: str


class GpuPodState(EntityState):
    """One GPU pod: the machine's address and inventory, its model servers, their leases and queue."""

    name: Name
    ssh: SshTarget
    host_key: str
    #: Polled by the workers that can reach this machine; None: the common one.
    task_queue: str | None = None
    #: Folder of ours on the machine; ``~`` is its home.
    root: str = "~/.podctl"
    #: Marks this registration's launches on the machine: the command id of the registration.
    owner: str = ""
    #: Grows with each change of the address: a connection to an older one is given up.
    address_revision: int = 0
    #: None: never tried yet.
    reachable: bool | None = None
    #: Since when it is as ``reachable`` says.
    since: datetime
    unreachable_reason: str = ""
    boot: str | None = None
    inventory: Inventory | None = None
    inventory_at: datetime | None = None
    #: The inventory has to be looked at again before anything is planned on it.
    inventory_stale: bool = False
    #: Seconds until it is looked at again while something waits for it, or after a look that failed.
    recheck_seconds: float = 15.0
    #: Why the last look at the inventory failed, and when it is tried again; empty and None when it did not.
    inspection_problem: str = ""
    inspect_not_before: datetime | None = None
    servers: dict[str, ModelServer] = Field(default_factory=dict)
    #: The highest counter of servers that were forgotten, or that a machine reported from an earlier life.
    counter_floor: int = 0
    #: The newest setup of the machine; None: none was asked for.
    setup: Setup | None = None
    #: What setups have installed, the newest last: that one is what model servers are started with.
    vllm: tuple[VllmInstall, ...] = ()
    #: Where models are kept, as the last completed setup found it; None: in Hugging Face's own cache.
    models_path: str | None = None
    orphans: tuple[Orphan, ...] = ()
    #: Ports that something else was found to listen on, and when.
    busy_ports: dict[int, datetime] = Field(default_factory=dict)
    created_by: str
    created_at: datetime
    removed: bool = False

    def server(self, name: str) -> ModelServer:
        """Return the server ``name``; raises Rejected ``server_not_found`` that lists those there are."""
        found = self.servers.get(name)
        if found is None:
            known = ", ".join(sorted(self.servers)) or "none"
            raise Rejected("server_not_found", f"no model server {name!r} on pod {self.name!r}; there are: {known}")
        return found

    def next_counter(self, name: str) -> int:
        """Return the number of the next launch of server ``name``: one that the machine has not seen, as far as known.

        There need be no such server yet.
        """
        server = self.servers.get(name)
        return max(server.counter if server else 0, self.counter_floor) + 1

    def server_of_launch(self, launch_id: str) -> ModelServer | None:
        """Return the server whose current launch this is, or None."""
        return next((s for s in self.servers.values() if s.launch_id == launch_id), None)


def shown_state(state: GpuPodState, server: ModelServer) -> ShownState:
    """Return the state a person is shown: ``unreachable`` where the machine is and a process may live there."""
    return "unreachable" if state.reachable is False and server.may_have_process else server.state


def address(state: GpuPodState) -> PodAddress:
    """Return what activities need to reach the machine."""
    return PodAddress(pod=state.name, ssh=state.ssh, host_key=state.host_key, root=state.root)
