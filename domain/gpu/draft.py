"""A state while one command is applied to it: the changes so far, and the events that tell of them."""

from datetime import datetime

from pydantic import JsonValue

from domain.entity import Event
from domain.gpu import restarts
from domain.gpu.failures import describe_exit
from domain.gpu.leases import leases
from domain.gpu.models import Ended, Failure, FailureType, GpuPodState, ModelServer, ServerState, StopOrder


class Draft:
    """Collects changes to an immutable state. Thrown away when the command turns out to be refused."""

    def __init__(self, state: GpuPodState, *, command_id: str, by: str, now: datetime) -> None:
        self.state = state
        self.command_id = command_id
        self.by = by
        self.now = now
        self._before = state.sequence
        self.events: tuple[Event, ...] = ()

    def emit(self, type_: str, *, by: str | None = None, **payload: JsonValue) -> None:
        """Add an event; None values are left out of its payload."""
        event = Event(
            sequence=self._before + len(self.events) + 1,
            type=type_,
            at=self.now,
            by=by or self.by,
            command_id=self.command_id,
            payload={key: value for key, value in payload.items() if value is not None},
        )
        self.events = (*self.events, event)
        self.update(sequence=event.sequence)

    def update(self, **changes: object) -> None:
        """Change fields of the pod."""
        self.state = self.state.model_copy(update=changes)

    def put(self, server: ModelServer) -> ModelServer:
        """Store a server under its name."""
        self.update(servers={**self.state.servers, server.name: server})
        return server

    def change(self, server: ModelServer, **changes: object) -> ModelServer:
        """Store a server with fields changed, without a change of its state."""
        return self.put(server.model_copy(update=changes))

    def move(self, server: ModelServer, to: ServerState, **changes: object) -> ModelServer:
        """Store a server in another state."""
        update = {"state": to, "since": self.now, "unhealthy_reason": "", **changes}
        return self.put(server.model_copy(update=update))

    def order_stop(self, server: ModelServer, grace: float, *, why: str) -> ModelServer:
        """Ask for the verified stop of whatever is left of a server's launch. Its lease stays until that is done."""
        stop = StopOrder(requested_at=self.now, by=self.by, grace=grace)
        self.emit("server_stopping", server=server.name, launch_id=server.launch_id, reason=why, grace=grace)
        return self.move(server, "stopping", stop=stop)

    def plan_restart(self, server: ModelServer, ended_by: FailureType | None) -> ModelServer:
        """Decide whether a server that nobody asked podctl to stop is launched again, and when.

        ``ended_by`` None: it was stopped on the machine. Nothing follows before ``rest``.
        """
        before = restarts.recent(server, self.now)
        if len(before) >= restarts.limit(server, ended_by):
            return self.change(server, wanted=False, retry_at=None, restarts=before)
        retry_at = self.now + restarts.delay(len(before))
        return self.change(server, wanted=True, retry_at=retry_at, restarts=(*before, self.now))

    def fail(self, server: ModelServer, failure: Failure) -> ModelServer:
        """Record that a server failed, and when it is launched again.

        Nothing is said about what is left of it: see ``end``, ``order_stop`` and, where nothing was launched, ``rest``.
        """
        server = self.plan_restart(server, failure.type)
        if server.retry_at is None and restarts.limit(server, failure.type):
            often = f"; it was launched again {len(server.restarts)} times within the hour before, and is not again"
            failure = failure.model_copy(update={"message": failure.message + often})
        self.emit(
            "server_failed",
            by="podctl",
            server=server.name,
            launch_id=server.launch_id,
            failure=failure.type,
            message=failure.message,
            advice=failure.advice,
            exit=describe_exit(server.exit) if server.exit else None,
            restart=restarts.describe(server.model_copy(update={"failure": failure})) or None,
        )
        return self.move(server, "failed", failure=failure)

    def end(self, server: ModelServer, how: str, to: ServerState, **changes: object) -> ModelServer:
        """Record that nothing of a server's launch is left, and why that is known: its lease is released."""
        released = [lease for lease in leases(self.state) if lease.server == server.name]
        ended = self.change(server, ended=Ended.model_validate({"how": how, "at": self.now}), **changes)
        self.emit(
            "lease_released",
            by="podctl",
            server=server.name,
            launch_id=server.launch_id,
            because=how,
            gpus=[lease.gpu for lease in released],
        )
        return self.rest(ended, to)

    def rest(self, server: ModelServer, to: ServerState) -> ModelServer:
        """Let a server of which nothing is left stay as ``to``, or wait for its next launch if there is to be one."""
        if server.retry_at is None:
            return self.move(server, to)
        self.emit("server_restarting", by="podctl", server=server.name, launch_id=server.launch_id,
                  retry_at=server.retry_at.isoformat(), restarts=len(server.restarts))  # fmt: skip
        return self.move(server, "restarting")
