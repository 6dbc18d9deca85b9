"""A pretend model server with real vLLM's bad manners, for the podlet's tests. Each process notes its pid by role."""

import argparse
import json
import mmap
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--notes", type=Path)
parser.add_argument("--port", type=int)
parser.add_argument("--engine", action="store_true", help="fork an engine, which forks a worker")
parser.add_argument("--daemon", action="store_true", help="a double fork with a session and folder of its own")
parser.add_argument("--ignore-term", action="store_true", help="in every process")
parser.add_argument("--swallow-terms", type=int, default=0, help="how many TERMs the root swallows")
parser.add_argument("--hang-on-term", action="store_true", help="the root ends its engine on TERM, then hangs")
parser.add_argument("--shared-memory", help="a file below /dev/shm that the engine maps and leaves")
parser.add_argument("--socket", action="store_true", help="leave a socket in VLLM_RPC_BASE_PATH")
parser.add_argument("--memory", type=int, help="MiB that the worker holds on the first GPU")
parser.add_argument("--served-name", default="tiny")
parser.add_argument("--answers", type=Path, help="a folder: a file 'health', 'models' or 'completion' has its status")
for option in ("--gpu-memory-utilization", "--served-model-name"):
    parser.add_argument(option, help="as vLLM has it")
parser.add_argument("--api-key", nargs="+", default=[], help="as vLLM has it")
parser.add_argument("--say", action="append", default=[], help="log lines")
parser.add_argument("--repeat", help="a log line that comes again and again, with a clock and a waiting time in it")
parser.add_argument("--spin", action="store_true", help="burn CPU time")
parser.add_argument("--move", type=Path, help="a file: as many bytes as it says are written to /dev/null, in all")
options = parser.parse_args()


def note(role: str) -> None:
    """Write our pid where the test looks for it, atomically."""
    (options.notes / f".{role}").write_text(str(os.getpid()))
    (options.notes / f".{role}").rename(options.notes / role)


def sleep_for_ever() -> None:
    """Do nothing until killed, without our environment as vLLM's children are."""
    while True:
        time.sleep(60)


def become_other_program(role: str) -> None:
    """Go on as a process whose environment is empty."""
    arguments = [sys.executable, "-I", "-S", __file__, "--notes", str(options.notes)]
    os.execve(sys.executable, [*arguments, *sys.argv[3:], f"--say=role:{role}"], {})  # noqa: S606 - no shell is wanted


def engine() -> None:
    """Map shared memory, start the worker, live on."""
    if os.fork() == 0:
        become_other_program("worker")
    if options.shared_memory:
        with Path(options.shared_memory).open("wb") as file:
            file.truncate(4096)
        with Path(options.shared_memory).open("r+b") as file:
            globals()["kept"] = mmap.mmap(file.fileno(), 4096)
    note("engine")
    sleep_for_ever()


def worker() -> None:
    """Hold GPU memory, live on."""
    if options.memory:
        uuid = "GPU-0"
        registered = Path(options.notes).parent / "gpu" / "memory" / str(os.getpid())
        registered.write_text(json.dumps({"uuid": uuid, "mib": options.memory}))
    note("worker")
    sleep_for_ever()


def daemon() -> None:
    """Leave session, folder and parent behind."""
    os.setsid()
    os.chdir("/")
    if os.fork() == 0:
        note("daemon")
        sleep_for_ever()
    os._exit(0)


def load() -> None:
    """Do as a server that loads or hangs, as told."""
    if not (options.repeat or options.spin or options.move):
        sleep_for_ever()
    written = waited = 0
    while True:
        if options.repeat:
            waited += 1
            print(f"INFO {time.strftime('%H:%M:%S')} [core.py:7] {options.repeat} after {waited} seconds", flush=True)
        wanted = int(options.move.read_text()) if options.move and options.move.exists() else 0
        with Path("/dev/null").open("wb") as file:
            file.write(b"x" * (wanted - written))
        written = wanted
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            if not options.spin:
                time.sleep(0.01)


class Counters:
    """What /metrics tells: of the completions that were answered, and of what the test puts in the file 'counters'.

    ``moves`` in it says by how much a figure grows with each reading: an engine at work, however slow the test is.
    """

    answered = 0
    readings = 0

    @classmethod
    def text(cls) -> str:
        """Return them in Prometheus' format."""
        file = options.answers / "counters" if options.answers else None
        if not file or not file.exists():
            lines = ['vllm:num_requests_running{engine="0"} 2.0', 'vllm:num_requests_running{engine="1"} 1.0']
            return "\n".join(
                [*lines, 'vllm:generation_tokens_total{engine="0"} 1.5e3', 'vllm:kv_cache_usage_perc{engine="0"} 0.25']
            )
        values = json.loads(file.read_text())
        cls.readings += 1
        for name, amount in values.pop("moves", {}).items():
            values[name] = values.get(name, 0) + amount * cls.readings
        for name in ("generation_tokens_total", "prompt_tokens_total", "request_success_total"):
            if name in values:
                values[name] += cls.answered
        return "\n".join(f'vllm:{name}{{engine="0"}} {value}' for name, value in values.items())


class Handler(BaseHTTPRequestHandler):
    """Health, models, completions, metrics; the key guards /v1."""

    def status(self, what: str) -> int:
        """Return what the test wants of this path: a status, or 0 for no answer at all."""
        file = options.answers / what if options.answers else None
        return int(file.read_text()) if file and file.exists() else 200

    def answer(self, what: str, status: int, body: bytes) -> None:
        """Answer with a status, or never."""
        key = next(iter(options.api_key), None) or os.environ.get("VLLM_API_KEY")
        if self.path.startswith("/v1") and key and self.headers["Authorization"] != f"Bearer {key}":
            status = 401
        if status == 0:
            sleep_for_ever()
        if what == "completion" and status == 200:
            Counters.answered += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        """Answer a GET."""
        if self.path == "/health":
            self.answer("health", self.status("health"), b"")
        elif self.path == "/v1/models":
            body = json.dumps({"data": [{"id": options.served_name}]})
            self.answer("models", self.status("models"), body.encode())
        else:
            self.answer("metrics", self.status("metrics"), Counters.text().encode())

    def do_POST(self) -> None:
        """Answer a completion."""
        self.rfile.read(int(self.headers["Content-Length"]))
        status = self.status("completion")  # first: who sees the line knows that it is decided
        print("completion asked" if status else "completion asked and never answered", flush=True)
        self.answer("completion", status, b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def root() -> None:
    """Serve, with an engine below."""
    engine_pid = 0
    terms = [0]

    def on_term(*_: object) -> None:
        terms[0] += 1
        print(f"TERM {terms[0]}", flush=True)
        if options.ignore_term or terms[0] <= options.swallow_terms or (options.hang_on_term and terms[0] > 1):
            return
        for role in ("engine", "worker"):
            if (options.notes / role).exists():
                os.kill(int((options.notes / role).read_text()), signal.SIGKILL)
        if not options.hang_on_term:
            os._exit(0)

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if options.engine:
        engine_pid = os.fork()
        if engine_pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_term else signal.SIG_DFL)
            engine()
    if options.daemon and os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if options.ignore_term else signal.SIG_DFL)
        daemon()
    if options.socket:
        import socket

        socket.socket(socket.AF_UNIX).bind(os.environ["VLLM_RPC_BASE_PATH"] + "/engine.sock")
    for line in options.say:
        print(line, flush=True)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler) if options.port else None
    note("root")
    if server:
        server.serve_forever()
    load()


if "role:worker" in options.say:
    worker()
root()
