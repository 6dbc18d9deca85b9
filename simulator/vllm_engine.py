"""EngineCore and Worker of a pretend vLLM: they load, hold GPU memory and shared memory, and produce tokens.

An engine talks with the API server over one socket, in lines:
``start ID COUNT`` and ``abort ID`` come in, ``ready`` and ``tokens ID SO_FAR`` go out. So a stopped engine (SIGSTOP)
hangs completions while ``/health`` still answers, and a killed one is seen at once, both without further pretending.
"""

from __future__ import annotations

import _socket
import mmap
import os
import select
import time

from simulator import gpu_memory, vllm_process
from simulator.vllm_process import Log, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any
else:
    import _signal as signal  # see vllm_process

_DOWNLOAD_PIECES = 20
# more than whoever looks for progress by bytes could overlook
_DOWNLOAD_PIECE_BYTES = 1 << 23
_STALL_REPEATS_SECONDS = 0.5
# real ones have about 400 MB; a page-sized one is found, mapped and left behind in the same way
_SHARED_MEMORY_BYTES = 65_536
_TOKENS_PER_MIB = 12


class Plan:
    """What one engine has to know; made by the API server before it forks."""

    __slots__ = ("data_parallel", "flags", "folder", "gpus", "index", "loopback", "settings")

    def __init__(
        self,
        *,
        index: int,
        data_parallel: int,
        gpus: list[dict[str, Any]],
        flags: dict[str, Any],
        settings: dict[str, Any],
        folder: str,
        loopback: str,
    ) -> None:
        self.index = index
        self.data_parallel = data_parallel
        self.gpus = gpus
        self.flags = flags
        self.settings = settings
        self.folder = folder
        self.loopback = loopback

    @property
    def memory_share(self) -> float:
        """Share of each GPU that the server takes (``--gpu-memory-utilization``, vLLM's default 0.9)."""
        return float(self.flags.get("gpu-memory-utilization", 0.9))

    @property
    def process_name(self) -> str:
        """VLLM's name for the engine, without the prefix of its title."""
        return f"EngineCore_DP{self.index}" if self.data_parallel > 1 else "EngineCore"

    def worker_name(self, rank: int) -> str:
        """VLLM's name for the worker of ``rank``."""
        parts = [f"DP{self.index}"] * (self.data_parallel > 1) + [f"TP{rank}"] * (len(self.gpus) > 1)
        return "_".join(["Worker", *parts])


def run_engine(plan: Plan, ipc_path: str) -> int:
    """Be the EngineCore process until told to end; return the exit code."""
    vllm_process.set_title(f"VLLM::{plan.process_name}")
    vllm_process.ignore_signals(signal.SIGINT)
    signals = vllm_process.catch_signals(signal.SIGTERM)
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    link.connect(ipc_path)
    engine = _Engine(plan, link, signals)
    try:
        return engine.run()
    finally:
        engine.end_workers()


class _Engine:
    def __init__(self, plan: Plan, link: _socket.socket, signals: int) -> None:
        self._plan = plan
        self._link: _socket.socket | None = link
        self._signals = signals
        self._log = Log(plan.process_name)
        self._workers: dict[int, int] = {}  # file descriptor of its pipe → pid
        self._requests: dict[str, tuple[float, int, int]] = {}  # id → when it began, tokens wanted, tokens sent
        self._accepted = 0
        self._crash_at = float("inf")
        self._shared_memory = ""

    def run(self) -> int:
        plan = self._plan
        self._log.info("core.py", "Waiting for init message from front-end.")
        self._log.info(
            "core.py",
            f"Initializing a V1 LLM engine (v{vllm_process.VERSION}) with config: model={plan.flags['model']!r}, "
            f"tensor_parallel_size={len(plan.gpus)}, data_parallel_size={plan.data_parallel}",
        )
        begun = time.monotonic()
        self._make_shared_memory()
        self._start_workers()
        if not self._wait_for_workers():
            self._remove_shared_memory()
            return 0
        self._report_memory(time.monotonic() - begun)
        self._send("ready")
        if plan.settings["crash_after_seconds"] is not None:
            self._crash_at = time.monotonic() + plan.settings["crash_after_seconds"]
        return self._serve()

    def _make_shared_memory(self) -> None:
        path = f"/dev/shm/psm_{os.urandom(4).hex()}"  # noqa: S108 - where vLLM's is, by its name
        # noted first: one that is killed in between must not leave a file that nobody knows of
        vllm_process.leave_behind(self._plan.folder, path)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.ftruncate(descriptor, _SHARED_MEMORY_BYTES)
        # kept in the instance: the mapping is what shows whose file it is
        self._mapping = mmap.mmap(descriptor, _SHARED_MEMORY_BYTES)
        os.close(descriptor)
        self._shared_memory = path

    def _remove_shared_memory(self) -> None:
        if not self._plan.settings["leave_shared_memory"]:
            vllm_process.take_away(self._plan.folder, self._shared_memory)

    def _start_workers(self) -> None:
        for rank in range(len(self._plan.gpus)):
            ours, theirs = _socket.socketpair()
            pid = vllm_process.fork(lambda rank=rank, ours=ours, theirs=theirs: self._be_worker(rank, ours, theirs))  # type: ignore[misc] # mypy cannot type defaults of a lambda
            theirs.close()
            self._workers[ours.detach()] = pid

    def _be_worker(self, rank: int, ours: _socket.socket, theirs: _socket.socket) -> int:
        ours.close()
        # a worker that kept a sister's pipe open would keep her from seeing the engine's death
        for descriptor in (*self._workers, self._signals):
            os.close(descriptor)
        if self._link is not None:
            self._link.close()
        return run_worker(self._plan, rank, theirs)

    def _wait_for_workers(self) -> bool:
        """Return whether all workers have loaded; False when told to end; raises StartFailed."""
        waiting = set(self._workers)
        while waiting:
            for descriptor in select.select([*waiting, self._signals], [], [])[0]:
                if descriptor == self._signals:
                    return False
                if os.read(descriptor, 16) != b"loaded":
                    self._remove_shared_memory()
                    self._log.error("core.py", "EngineCore failed to start.")
                    raise StartFailed
                waiting.discard(descriptor)
        return True

    def _report_memory(self, seconds: float) -> None:
        mib = sum(gpu["memory_mib"] for gpu in self._plan.gpus) * self._plan.memory_share / 2
        tokens = int(mib * _TOKENS_PER_MIB)
        length = self._plan.flags["max-model-len"]
        self._log.info("kv_cache_utils.py", f"GPU KV cache size: {tokens:,} tokens")
        self._log.info(
            "kv_cache_utils.py", f"Maximum concurrency for {length:,} tokens per request: {tokens / length:.2f}x"
        )
        self._log.info("core.py", f"init engine (profile, create kv cache, warmup model) took {seconds:.2f} seconds")

    def _serve(self) -> int:
        """Produce tokens until TERM (0) or a crash (1); an engine whose API server is gone goes on, as vLLM's does."""
        buffered = b""
        while True:
            watched = [self._signals, *self._workers] + ([self._link.fileno()] if self._link is not None else [])
            readable = select.select(watched, [], [], self._pause())[0]
            if self._signals in readable:
                self._remove_shared_memory()
                return 0
            if any(worker in readable for worker in self._workers):
                self._log.error("multiproc_executor.py", "Worker proc VllmWorker-0 died unexpectedly, shutting down.")
                return 1
            if self._link is not None and self._link.fileno() in readable:
                received = self._link.recv(65_536)
                if not received:
                    self._link.close()
                    self._link = None
                    self._requests.clear()
                *lines, buffered = (buffered + received).split(b"\n")
                for line in lines:
                    self._take(line.decode())
            self._produce()
            if time.monotonic() >= self._crash_at:
                return self._crash()

    def _pause(self) -> float | None:
        """Seconds until the next token or the arranged crash is due, None when nothing is."""
        now = time.monotonic()
        due = [begun + (sent + 1) / self._rate for begun, _, sent in self._requests.values()]
        due += [self._crash_at] if self._crash_at != float("inf") else []
        return max(0.0, min(due) - now) if due else None

    @property
    def _rate(self) -> float:
        return float(self._plan.settings["tokens_per_second"])

    def _take(self, line: str) -> None:
        order, identity, *count = line.split()
        if order == "abort":
            self._requests.pop(identity, None)
            return
        self._accepted += 1
        limit = self._plan.settings["crash_after_requests"]
        if limit is not None and self._accepted > limit:
            self._crash_at = 0.0
        elif not self._plan.settings["hang"]:
            self._requests[identity] = (time.monotonic(), int(count[0]), 0)

    def _produce(self) -> None:
        now = time.monotonic()
        for identity, (begun, wanted, sent) in list(self._requests.items()):
            due = min(wanted, int((now - begun) * self._rate))
            if due > sent:
                self._send(f"tokens {identity} {due}")
                self._requests[identity] = (begun, wanted, due)
            if due >= wanted:
                del self._requests[identity]

    def _send(self, line: str) -> None:
        if self._link is not None:
            try:
                self._link.sendall(line.encode() + b"\n")
            except OSError:
                return  # the API server is gone: the next read says so

    def _crash(self) -> int:
        self._log.error(
            "core.py",
            "EngineCore encountered a fatal error.\n"
            "Traceback (most recent call last):\n"
            '  File "vllm/v1/engine/core.py", in run_engine_core\n'
            "    engine_core.run_busy_loop()\n"
            "RuntimeError: CUDA error: an illegal memory access was encountered (simulated)",
        )
        return 1

    def end_workers(self) -> None:
        """End every worker and wait for its end."""
        for descriptor, pid in self._workers.items():
            os.close(descriptor)
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for pid in self._workers.values():
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                continue
        self._workers.clear()


def run_worker(plan: Plan, rank: int, engine: _socket.socket) -> int:
    """Be a Worker process: load, hold GPU memory while the engine lives, end with it."""
    vllm_process.set_title(f"VLLM::{plan.worker_name(rank)}")
    vllm_process.default_signals(signal.SIGTERM)
    journal = Log(plan.worker_name(rank))
    port = _listen_internally(plan)
    journal.info(
        "parallel_state.py",
        f"rank {rank} in world size {len(plan.gpus)} is assigned as DP rank {plan.index}, PP rank 0, TP rank {rank}"
        f" (distributed_init_method=tcp://{plan.loopback}:{port.getsockname()[1]})",
    )
    _load(plan, rank, journal)
    engine.sendall(b"loaded")
    # the engine never writes: this ends when it dies, however it does
    engine.recv(1)
    return 0


def _listen_internally(plan: Plan) -> _socket.socket:
    """Take the first free port from VLLM_PORT upward, as vLLM does for its own processes; any port without it."""
    first = int(os.environ.get("VLLM_PORT", "0"))
    for port in range(first, first + 100):
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            listener.bind((plan.loopback, port))
            listener.listen()
        except OSError:
            listener.close()
        else:
            return listener
    raise OSError(f"no free port from VLLM_PORT={first} to {first + 99} on {plan.loopback}")


def _load(plan: Plan, rank: int, journal: Log) -> None:
    gpu = plan.gpus[rank]
    shards = plan.settings["shards"]
    step = plan.settings["load_seconds"] / (shards + 2)
    if rank == 0:
        _fail(plan, journal, "missing_model", "gated_model", "cuda_mismatch", "engine_init")
        _download(plan, journal)
    begun = time.monotonic()
    memory = _memory_wanted(plan, gpu, journal)
    journal.info("gpu_model_runner.py", f"Starting to load model {plan.flags['model']}...")
    for shard in range(shards + 1):
        if rank == 0:
            percent = 100 * shard // shards
            journal.plain(f"Loading safetensors checkpoint shards: {percent:3d}% Completed | {shard}/{shards}")
        time.sleep(step)
        if shard == shards // 2:
            # half of it is there in the middle of loading, as weights come before the KV cache
            gpu_memory.hold(plan.folder, os.getpid(), {gpu["uuid"]: memory // 2})
            if rank == 0:
                vllm_process.pass_hook(plan.folder, "vllm.loading")
                _fail(plan, journal, "out_of_memory")
                _stall(plan, journal)
    seconds = time.monotonic() - begun
    journal.info("default_loader.py", f"Loading weights took {seconds:.2f} seconds")
    journal.info("gpu_model_runner.py", f"Model loading took {memory / 2048:.2f} GiB and {seconds:.6f} seconds")
    journal.info("gpu_model_runner.py", "Warming up model for the compilation...")
    time.sleep(step)
    if rank == 0:
        _fail(plan, journal, "kv_cache")
    gpu_memory.hold(plan.folder, os.getpid(), {gpu["uuid"]: memory})


def _download(plan: Plan, journal: Log) -> None:
    """Write what a download writes, with the lines that it logs."""
    seconds = plan.settings["download_seconds"]
    if not seconds:
        return
    for piece in range(_DOWNLOAD_PIECES + 1):
        journal.plain(f"model-00001-of-00001.safetensors: {100 * piece // _DOWNLOAD_PIECES:3d}%")
        with open("/dev/null", "wb") as file:  # noqa: PTH123 - lean
            file.write(bytes(_DOWNLOAD_PIECE_BYTES))
        time.sleep(seconds / (_DOWNLOAD_PIECES + 1))
    journal.info("weight_utils.py", f"Time spent downloading weights for {plan.flags['model']}: {seconds:.6f} seconds")


def _stall(plan: Plan, journal: Log) -> None:
    """Never come back if told to stall, and go on logging as those do who wait for the one that hangs."""
    waited = 0
    while plan.settings["stall_loading"]:
        waited += 60
        journal.info("shm_broadcast.py", f"No available shared memory broadcast block found in {waited} seconds.")
        time.sleep(_STALL_REPEATS_SECONDS)


def _memory_wanted(plan: Plan, gpu: dict[str, Any], journal: Log) -> int:
    """Return the MiB this worker takes; raises StartFailed if they are not free now, as vLLM checks first."""
    total, used = gpu["memory_mib"], gpu_memory.used(plan.folder)[gpu["uuid"]]
    wanted = int(total * plan.memory_share)
    if "kv-cache-memory-bytes" in plan.flags:
        # weights come on top of it; the pretend ones take a twentieth of the GPU
        wanted = min(total, plan.flags["kv-cache-memory-bytes"] // 2**20 + total // 20)
    if total - used < wanted:
        journal.error(
            "multiproc_executor.py",
            f"ValueError: Free memory on device cuda:0 ({(total - used) / 1024:.2f}/{total / 1024:.2f} GiB) on startup"
            f" is less than desired GPU memory utilization ({plan.memory_share}, {wanted / 1024:.2f} GiB). Decrease GPU"
            " memory utilization or reduce GPU memory used by other processes.",
        )
        raise StartFailed
    return wanted


_FAILURES = {
    "out_of_memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"
    " capacity of 79.11 GiB of which 1.04 GiB is free. (simulated)",
    "kv_cache": "ValueError: To serve at least one request with the models's max seq len ({length}), (16.00 GiB KV"
    " cache is needed, which is larger than the available KV cache memory (5.21 GiB). Based on the available memory,"
    " the estimated maximum model length is 13344. Try increasing `gpu_memory_utilization` or decreasing"
    " `max_model_len` when initializing the engine. (simulated)",
    "gated_model": "OSError: You are trying to access a gated repo.\nMake sure to have access to it at"
    " https://huggingface.co/{model}.\n401 Client Error. (simulated)",
    "missing_model": "OSError: {model} is not a local folder and is not a valid model identifier listed on"
    " 'https://huggingface.co/models' (simulated)",
    "cuda_mismatch": "RuntimeError: The NVIDIA driver on your system is too old (found version 12020). Please update"
    " your GPU driver. (simulated)",
    "engine_init": "RuntimeError: the pretend engine was told to fail (simulated)",
}


def _fail(plan: Plan, journal: Log, *here: str) -> None:
    """Raise StartFailed with the lines vLLM would log, if ``start_failure`` names one of ``here``."""
    failure = plan.settings["start_failure"]
    if failure in here:
        text = _FAILURES[failure].format(model=plan.flags["model"], length=plan.flags["max-model-len"])
        journal.error(
            "multiproc_executor.py", f"WorkerProc failed to start.\nTraceback (most recent call last):\n{text}"
        )
        raise StartFailed
