"""The pretend ``vllm``: ``vllm serve MODEL …`` as tree of API server → EngineCore → Worker, without any model.

Exit codes are vLLM's: 2 for an unknown flag, 1 for a taken port, a bad configuration or an engine that does not come
up, 0 after TERM, and 0 as well some seconds after an engine was killed.
"""

from __future__ import annotations

import _socket
import os
import sys

from simulator import gpu_memory, vllm_flags, vllm_process
from simulator.vllm_engine import Plan
from simulator.vllm_process import Log, StartFailed
from simulator.vllm_server import ApiServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_USAGE = "usage: vllm serve [model_tag] [options]\n"
_CONTEXT = 40_960
# a request for any of these arrives at the simulated machine, whose only interface is its loopback address
_ANY_HOST = {"0.0.0.0", "::", "127.0.0.1", "localhost", ""}  # noqa: S104 - names that are replaced, nothing binds them


def run(folder: str) -> int:
    """Run as the program that a simulated machine has on its PATH; return the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] in (["--version"], ["-v"]):
        print(vllm_process.VERSION)
        return 0
    if arguments[:1] != ["serve"]:
        print(f"{_USAGE}vllm: error: the simulation has serve only, and --version", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(arguments):
        print(_USAGE + "A simulation: it takes the flags of vLLM, loads nothing, and makes its answers up.")
        return 0
    try:
        flags = vllm_flags.parse(arguments[1:])
    except vllm_flags.Refused as refused:
        print(f"{_USAGE}vllm: error: {refused}", file=sys.stderr)
        return 2
    try:
        return _serve(folder, flags)
    except StartFailed:
        return 1


def _serve(folder: str, flags: dict[str, Any]) -> int:
    journal = Log("APIServer")
    model = flags["model"]
    flags.setdefault("max-model-len", _CONTEXT)
    journal.warning("simulator", "This is podctl's simulation of vLLM: no model is loaded and every answer is made up.")
    journal.info("api_server.py", f"vLLM API server version {vllm_process.VERSION}")
    shown = {name: value for name, value in flags.items() if name not in {"api-key", "hf-token"}}
    journal.info("utils.py", f"non-default args: {shown}")
    if model.startswith(("/", "./", "../", "~")) and not os.path.isdir(model):  # noqa: PTH112 - lean
        journal.error("api_server.py", f"OSError: {model} is not a local folder: no such model")
        raise StartFailed
    loopback = os.environ.get("PODLET_LOOPBACK", "127.0.0.1")
    listener, host = _bind(flags, loopback, journal)
    settings = vllm_process.settings(folder)
    plans = _plans(flags, settings, folder, loopback, journal)
    journal.info("model.py", "Resolved architecture: SimulatedForCausalLM")
    journal.info("model.py", f"Using max model len {flags['max-model-len']}")
    server = ApiServer(plans=plans, listener=listener, url=f"http://{host}:{flags.get('port', 8000)}", journal=journal)
    return server.run()


def _bind(flags: dict[str, Any], loopback: str, journal: Log) -> tuple[_socket.socket, str]:
    """Take the port before anything loads; it is listened on when the engine is ready, as with vLLM."""
    asked = flags.get("host", "")
    host, port = loopback if asked in _ANY_HOST else asked, flags.get("port", 8000)
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        _refuse_taken(host, port)
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        journal.plain(f"Traceback (most recent call last):\nOSError: {error} ({host}:{port})")
        raise StartFailed from error
    return listener, host


def _refuse_taken(host: str, port: int) -> None:
    """Refuse a port that another server has bound and not yet listened on, which SO_REUSEADDR would let pass."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    probe.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen()
    finally:
        probe.close()


def _plans(flags: dict[str, Any], settings: dict[str, Any], folder: str, loopback: str, journal: Log) -> list[Plan]:
    engines = flags.get("data-parallel-size", 1)
    world = flags.get("tensor-parallel-size", 1) * flags.get("pipeline-parallel-size", 1)
    gpus = _visible_gpus(flags, folder, journal)
    if engines * world > len(gpus):
        journal.error(
            "parallel.py",
            f"ValueError: World size ({engines * world}) is larger than the number of available GPUs ({len(gpus)}) in"
            " this node.",
        )
        raise StartFailed
    return [
        Plan(
            index=index,
            data_parallel=engines,
            gpus=gpus[index * world : (index + 1) * world],
            flags=flags,
            settings=settings,
            folder=folder,
            loopback=loopback,
        )
        for index in range(engines)
    ]


def _visible_gpus(flags: dict[str, Any], folder: str, journal: Log) -> list[dict[str, Any]]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES shows; a UUID in it stops vLLM, which reads numbers there."""
    gpus = gpu_memory.gpus(folder)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    asked = flags.get("device-ids") or (None if visible is None else [word for word in visible.split(",") if word])
    if asked is None:
        chosen = gpus
    else:
        try:
            indexes = [int(word) for word in asked]
        except ValueError as error:
            journal.error("cuda.py", f"Traceback (most recent call last):\nValueError: {error}")
            raise StartFailed from error
        chosen = [gpus[index] for index in indexes if 0 <= index < len(gpus)]
    if not chosen:
        journal.error("cuda.py", f"RuntimeError: No CUDA GPUs are available (CUDA_VISIBLE_DEVICES={visible!r})")
        raise StartFailed
    return chosen
