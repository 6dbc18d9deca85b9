"""The API server of a pretend vLLM, its root process: it forks the engines, answers HTTP, and ends as vLLM ends.

Health looks at one flag only, as vLLM's does: an engine that hangs leaves ``/health`` at 200. An engine that dies
turns it to 503; some seconds later the server ends, with exit code 0.
"""

from __future__ import annotations

import _socket
import os
import select
import time

from simulator import lean_json, vllm_process
from simulator.vllm_answers import Answer, BadRequest
from simulator.vllm_engine import Plan, run_engine
from simulator.vllm_http import Connection, Request, access_line
from simulator.vllm_metrics import Metrics
from simulator.vllm_process import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any
else:
    import _signal as signal  # see vllm_process

# an engine that does not end on TERM (it may be stopped) is killed after this many seconds, as vLLM does
_ENGINE_PATIENCE = 5.0
_GUARDED = ("/v1", "/v2", "/inference", "/cohere")


class _Engine:
    """One engine as its server sees it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.link: _socket.socket | None = None
        self.ready = False
        self.buffered = b""


class _Running:
    """A request that an engine works on."""

    def __init__(self, connection: Connection, answer: Answer, engine: _Engine) -> None:
        self.connection = connection
        self.answer = answer
        self.engine = engine
        self.begun = time.monotonic()
        self.first_token = 0.0


class ApiServer:
    """The root process: one loop over its sockets and signals."""

    def __init__(self, *, plans: list[Plan], listener: _socket.socket, url: str, journal: Log) -> None:
        self._plans = plans
        self._flags = plans[0].flags
        self._settings = plans[0].settings
        self._listener = listener
        self._url = url
        self._log = journal
        self._names = self._flags.get("served-model-name") or [self._flags["model"]]
        self._keys = self._flags.get("api-key") or [key for key in [os.environ.get("VLLM_API_KEY")] if key]
        # 12 tokens of cache for each MiB, about what a model of 30 billion parameters has
        self._metrics = Metrics(self._names[0], max(1, sum(gpu["memory_mib"] for gpu in plans[0].gpus)) * 12)
        self._quiet = set(self._flags.get("disable-access-log-for-endpoints", "").split(","))
        self._engines: list[_Engine] = []
        self._connections: dict[int, Connection] = {}
        self._running: dict[str, _Running] = {}
        self._serial = 0
        self._serving = False
        self._healthy = True
        self._swallow = self._settings["swallow_first_term"]
        self._deadline: float | None = None
        self._draining = False
        self._poll = select.epoll()
        self._ipc = self._listen_for_engines()
        self._signals = -1
        self._exit_code: int | None = None

    def run(self) -> int:
        """Start the engines, serve, and return the exit code."""
        self._signals = vllm_process.catch_signals(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        handlers: dict[int, Callable[[], None]] = {
            self._signals: self._take_signals,
            self._ipc.fileno(): self._accept_engine,
        }
        for plan in self._plans:
            self._engines.append(_Engine(vllm_process.fork(lambda plan=plan: self._be_engine(plan))))  # type: ignore[misc] # mypy cannot type defaults of a lambda
        for descriptor in handlers:
            self._poll.register(descriptor, select.EPOLLIN)
        while self._exit_code is None:
            pause = -1.0 if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            for descriptor, events in self._poll.poll(pause):
                if descriptor in handlers:
                    handlers[descriptor]()
                elif self._serving and descriptor == self._listener.fileno():
                    self._accept_client()
                elif descriptor in self._connections:
                    self._take_from_client(self._connections[descriptor], events)
                else:
                    self._take_from_engine(descriptor)
            if (self._draining and not self._running) or (
                self._deadline is not None and time.monotonic() >= self._deadline
            ):
                self._stop()
        return self._exit_code

    # ---- engines

    def _listen_for_engines(self) -> _socket.socket:
        base = os.environ.get("VLLM_RPC_BASE_PATH") or os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - vLLM's default
        self._ipc_path = f"{base}/{os.urandom(16).hex()}"
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        vllm_process.leave_behind(self._plans[0].folder, self._ipc_path)
        listener.bind(self._ipc_path)
        listener.listen()
        return listener

    def _be_engine(self, plan: Plan) -> int:
        self._poll.close()
        self._ipc.close()
        self._listener.close()
        os.close(self._signals)
        return run_engine(plan, self._ipc_path)

    def _accept_engine(self) -> None:
        link, _ = vllm_process.accept(self._ipc)
        pid = vllm_process.peer(link)
        for engine in self._engines:
            if engine.pid == pid:
                engine.link = link
                self._poll.register(link.fileno(), select.EPOLLIN)

    def _take_from_engine(self, descriptor: int) -> None:
        for engine in self._engines:
            if engine.link is None or engine.link.fileno() != descriptor:
                continue
            try:
                received = engine.link.recv(65_536)
            except OSError:
                received = b""
            if not received:
                # its death is handled when the kernel reports it (SIGCHLD)
                self._poll.unregister(descriptor)
                engine.link.close()
                engine.link = None
                return
            *lines, engine.buffered = (engine.buffered + received).split(b"\n")
            for line in lines:
                word, *values = line.decode().split()
                if word == "ready":
                    engine.ready = True
                    self._begin_to_serve()
                else:
                    self._advance(values[0], int(values[1]))

    def _begin_to_serve(self) -> None:
        if self._serving or not all(engine.ready for engine in self._engines):
            return
        self._log.info("api_server.py", "Supported tasks: ['generate']")
        self._log.info("api_server.py", f"Starting vLLM server on {self._url}")
        self._log.info("launcher.py", "Available routes are:")
        for path, (method, _) in self._routes().items():
            self._log.info("launcher.py", f"Route: {path}, Methods: {method}")
        self._log.plain(f"INFO:     Started server process [{os.getpid()}]")
        self._log.plain("INFO:     Waiting for application startup.")
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._serving = True
        self._log.plain("INFO:     Application startup complete.")

    # ---- signals and ends

    def _take_signals(self) -> None:
        for number in os.read(self._signals, 64):
            if number == signal.SIGCHLD:
                self._reap()
            elif not self._serving and self._swallow:
                self._swallow = False
            elif self._serving and self._flags.get("shutdown-timeout", 0) and self._healthy and not self._draining:
                self._draining = True
                self._deadline = time.monotonic() + self._flags["shutdown-timeout"]
                self._log.info("launcher.py", f"Draining requests for up to {self._flags['shutdown-timeout']} s.")
            else:
                self._stop()

    def _reap(self) -> None:
        for engine in self._engines:
            if engine.pid and os.waitpid(engine.pid, os.WNOHANG)[0]:
                engine.pid = 0
                self._lose_engine()

    def _lose_engine(self) -> None:
        """Begin to end: an engine is gone though nobody asked for it."""
        if not self._serving:
            self._log.plain(
                "Traceback (most recent call last):\n"
                "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
            )
            self._end_engines()
            self._leave(1)
        elif self._healthy:
            self._healthy = False
            self._draining = False
            self._log.error(
                "core_client.py", "Engine core proc EngineCore died unexpectedly, shutting down client. (simulated)"
            )
            self._deadline = time.monotonic() + self._settings["seconds_from_engine_death_to_exit"]
            for identity in list(self._running):
                self._fail(identity, "EngineCore encountered an issue. See stack trace (above) for the root cause.")

    def _stop(self) -> None:
        """End everything now: what runs is aborted, the engines are killed, the port is closed."""
        self._log.plain("INFO:     Shutting down")
        manner = self._settings["hang_on_term"]
        self._end_engines()
        if self._serving:
            self._listener.close()
        if self._healthy and (manner == "always" or (manner == "client_connected" and self._running)):
            self._hang(until_clients_leave=manner == "client_connected")
        self._log.plain("INFO:     Waiting for application shutdown.")
        self._log.plain("INFO:     Application shutdown complete.")
        self._log.plain(f"INFO:     Finished server process [{os.getpid()}]")
        self._leave(0)

    def _hang(self, *, until_clients_leave: bool) -> None:
        """Wait for clients that nobody serves any more, deaf to TERM and INT, as vLLM does."""
        waiting = select.epoll()
        for running in self._running.values():
            waiting.register(running.connection.socket.fileno(), select.EPOLLRDHUP)
        left = len(self._running)
        while left or not until_clients_leave:
            for descriptor, _ in waiting.poll():
                waiting.unregister(descriptor)
                left -= 1

    def _end_engines(self) -> None:
        pids = [engine.pid for engine in self._engines if engine.pid]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _ENGINE_PATIENCE
        for pid in pids:
            while not os.waitpid(pid, os.WNOHANG)[0]:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.005)
        for engine in self._engines:
            engine.pid = 0

    def _leave(self, code: int) -> None:
        vllm_process.take_away(self._plans[0].folder, self._ipc_path)
        self._exit_code = code

    # ---- clients

    def _accept_client(self) -> None:
        try:
            client, address = vllm_process.accept(self._listener)
        except OSError:
            return
        client.setblocking(False)
        client.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._connections[client.fileno()] = Connection(client, f"{address[0]}:{address[1]}")
        self._poll.register(client.fileno(), select.EPOLLIN)

    def _take_from_client(self, connection: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            connection.flush()
        if events & ~select.EPOLLOUT:
            connection.read()
        while (request := connection.next_request()) is not None:
            self._handle(connection, request)
            if connection.answering is not None:
                break
        self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """Close what is over, and watch for room to write where output waits."""
        descriptor = connection.socket.fileno()
        if descriptor not in self._connections:
            return
        if connection.closed:
            for identity, running in list(self._running.items()):
                if running.connection is connection:
                    self._order(running.engine, f"abort {identity}")
                    self._finish(identity, "abort")
            self._poll.unregister(descriptor)
            del self._connections[descriptor]
            connection.socket.close()
        else:
            self._poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if connection.has_output else 0))

    def _routes(self) -> dict[str, tuple[str, Callable[[Connection, Request], None]]]:
        return {
            "/health": ("GET", self._health),
            "/ping": ("GET", self._health),
            "/version": ("GET", lambda connection, _: connection.respond_json(200, {"version": vllm_process.VERSION})),
            "/metrics": ("GET", self._show_metrics),
            "/v1/models": ("GET", self._models),
            "/v1/completions": ("POST", self._complete),
            "/v1/chat/completions": ("POST", self._complete),
        }

    def _handle(self, connection: Connection, request: Request) -> None:
        method, answer = self._routes().get(request.path, ("", None))
        if request.path.startswith(_GUARDED) and not self._allowed(request):
            connection.respond_json(401, {"error": "Unauthorized"})
        elif answer is None:
            connection.respond_json(404, {"detail": "Not Found"})
        elif request.method != method:
            connection.respond_json(405, {"detail": "Method Not Allowed"})
        else:
            answer(connection, request)
        if connection.answering is None:
            self._log_access(connection, request)

    def _log_access(self, connection: Connection, request: Request) -> None:
        if request.path not in self._quiet and not self._flags.get("disable-uvicorn-access-log"):
            self._log.plain(access_line(connection, request))

    def _allowed(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return not self._keys or (scheme.lower() == "bearer" and key in self._keys)

    def _health(self, connection: Connection, _: Request) -> None:
        connection.respond(200 if self._healthy else 503, b"")

    def _show_metrics(self, connection: Connection, _: Request) -> None:
        held = sum(one.answer.usage["total_tokens"] for one in self._running.values() if one.first_token)
        text = self._metrics.text(len(self._running), held)
        connection.respond(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def _models(self, connection: Connection, _: Request) -> None:
        models = [
            {
                "id": name,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "podctl-simulator",
                "root": self._flags["model"],
                "parent": None,
                "max_model_len": self._flags["max-model-len"],
            }
            for name in self._names
        ]
        connection.respond_json(200, {"object": "list", "data": models})

    # ---- completions

    def _complete(self, connection: Connection, request: Request) -> None:
        try:
            body = self._body(request)
            answer = Answer(
                body,
                chat=request.path == "/v1/chat/completions",
                model=body.get("model") or self._names[0],
                context=self._flags["max-model-len"],
                auto_tools=bool(self._flags.get("enable-auto-tool-choice")),
            )
        except BadRequest as refused:
            connection.respond_json(refused.status, refused.body)
            return
        self._serial += 1
        identity = str(self._serial)
        engine = self._engines[self._serial % len(self._engines)]
        self._running[identity] = _Running(connection, answer, engine)
        self._order(engine, f"start {identity} {len(answer.tokens)}")

    def _body(self, request: Request) -> dict[str, Any]:
        if not self._healthy or self._draining:
            raise BadRequest("The engine is shutting down.", 500, "InternalServerError")
        try:
            body = lean_json.parse(request.body.decode())
        except ValueError as error:
            raise BadRequest(f"JSON decode error: {error}") from error
        if not isinstance(body, dict):
            raise BadRequest("the body has to be a JSON object")
        model = body.get("model")
        if model is not None and model not in self._names:
            raise BadRequest(f"The model `{model}` does not exist.", 404, "NotFoundError", "model")
        return body

    def _order(self, engine: _Engine, line: str) -> None:
        if engine.link is not None:
            try:
                engine.link.sendall(line.encode() + b"\n")
            except OSError:
                return  # its death is on its way as SIGCHLD

    def _advance(self, identity: str, produced: int) -> None:
        running = self._running.get(identity)
        if running is None:
            return
        answer, connection, now = running.answer, running.connection, time.monotonic()
        new = produced - answer.produced
        self._metrics.generation_tokens += new
        if not running.first_token:
            running.first_token = now
            # counted by what the engine has done, as vLLM does: a hung one counts nothing
            self._metrics.prompt_tokens += answer.prompt_tokens
            self._metrics.observe("time_to_first_token_seconds", now - running.begun)
            new -= 1
        if new:
            self._metrics.observe(
                "inter_token_latency_seconds", (now - running.first_token) / max(1, produced - 1), new
            )
        events = answer.events(produced)
        if answer.stream:
            for event in events:
                connection.send_event(lean_json.dump(event))
        if produced < len(answer.tokens):
            self._settle(connection)
            return
        request = connection.answering
        if answer.stream:
            connection.send_event("[DONE]")
            connection.end_events()
        else:
            connection.respond_json(200, answer.whole())
        self._finish(identity, "length" if answer.finish_reason == "length" else "stop")
        if request is not None:
            self._log_access(connection, request)
        # what the client sent meanwhile waits in the connection
        self._take_from_client(connection, 0)

    def _finish(self, identity: str, reason: str) -> None:
        running = self._running.pop(identity)
        seconds = time.monotonic() - running.begun
        self._metrics.finished[reason] += 1
        self._metrics.observe("e2e_request_latency_seconds", seconds)
        self._metrics.observe("request_time_per_output_token_seconds", seconds / max(1, running.answer.produced))

    def _fail(self, identity: str, message: str) -> None:
        """Answer a running request with an error, within the stream where one has begun."""
        running = self._running[identity]
        failure = BadRequest(message, 500, "InternalServerError")
        if running.answer.stream and running.answer.produced:
            running.connection.send_event(lean_json.dump(failure.body))
            running.connection.end_events()
        else:
            running.connection.respond_json(failure.status, failure.body)
        self._finish(identity, "abort")
        self._settle(running.connection)
