"""The pretend ``nvidia-smi``: the table, ``-L``, ``--query-gpu`` and ``--query-compute-apps``, and how it fails.

``nvidia_smi`` in the machine's settings chooses what it says: ``ok``, ``no_driver``, ``not_available`` (``[N/A]`` for
memory), ``insufficient_permissions`` (of processes), ``no_processes`` (none listed though memory is used, as in many
containers). ``missing`` takes the program away altogether.
"""

from __future__ import annotations

import sys

from simulator import gpu_memory, lean_json, process_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

DRIVER = "570.00"  # a version like any other: uv reads it
CUDA = "12.8"
NOT_AVAILABLE = "[N/A]"
NO_PERMISSION = "[Insufficient Permissions]"

# the exit codes are nvidia-smi's own: bad argument, nothing found, driver not loaded
_BAD_ARGUMENT = 2
_NOT_FOUND = 6
_NO_DRIVER = 9


def main(arguments: list[str], folder: str) -> int:
    """Do what ``nvidia-smi`` does with ``arguments`` on the machine in ``folder``; return the exit code."""
    mode = lean_json.read(f"{folder}/settings.json")["nvidia_smi"]
    if mode == "no_driver":
        print(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.\n"
        )
        return _NO_DRIVER
    gpus = gpu_memory.gpus(folder)
    if not gpus:
        print("No devices were found")
        return _NOT_FOUND
    options, refused = _options(arguments)
    if refused:
        print(f"Invalid combination of input arguments: {refused}. Please run 'nvidia-smi -h' for help.\n")
        return _BAD_ARGUMENT
    code = 0
    if "list" in options:
        _list(gpus)
    elif "gpu" in options:
        code = _query(options, "gpu", _gpu_fields(mode, folder), gpus)
    elif "compute-apps" in options:
        code = _query(options, "compute-apps", _application_fields(mode, folder), _applications(mode, folder))
    else:
        _table(mode, folder, gpus)
    return code


def _options(arguments: list[str]) -> tuple[dict[str, str], str]:
    options: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if argument in {"-L", "--list-gpus"}:
            options["list"] = ""
        elif name in {"--query-gpu", "--query-compute-apps", "--format"} and value:
            options[name.removeprefix("--").removeprefix("query-")] = value
        else:
            return options, argument
    queries = len({"list", "gpu", "compute-apps"} & options.keys())
    if queries > 1 or ("format" in options and not options.keys() & {"gpu", "compute-apps"}):
        return options, " ".join(arguments)
    return options, ""


def _list(gpus: list[dict[str, Any]]) -> None:
    for gpu in gpus:
        print(f"GPU {gpu['index']}: {gpu['name']} (UUID: {gpu['uuid']})")
        if gpu["mig"]:
            print(f"  MIG 1g.10gb     Device  0: (UUID: {gpu['uuid'].replace('GPU-', 'MIG-', 1)})")


def _query(
    options: dict[str, str], subject: str, fields: dict[str, tuple[str, Callable[[Any], str]]], rows: list[Any]
) -> int:
    """Print the asked fields of ``rows`` as CSV; ``fields``: name → (unit, its text for a row)."""
    form = options.get("format", "").replace(" ", "").split(",")
    if form[0] != "csv" or not set(form[1:]) <= {"noheader", "nounits"}:
        print(f'Error: --format "{options.get("format", "")}" is not valid. Please use "csv[,noheader][,nounits]".')
        return _BAD_ARGUMENT
    names = options[subject].replace(" ", "").split(",")
    for name in names:
        if name not in fields:
            print(f'Field "{name}" is not a valid field to query.\n')
            return _BAD_ARGUMENT
    units = "nounits" not in form
    if "noheader" not in form:
        print(", ".join(name + (f" [{fields[name][0]}]" if fields[name][0] else "") for name in names))
    for row in rows:
        texts = []
        for name in names:
            unit, text = fields[name][0], fields[name][1](row)
            texts.append(f"{text} {unit}" if units and unit and not text.startswith("[") else text)
        print(", ".join(texts))
    return 0


def _gpu_fields(mode: str, folder: str) -> dict[str, tuple[str, Callable[[Any], str]]]:
    used = gpu_memory.used(folder)

    def in_use(gpu: dict[str, Any]) -> str:
        return NOT_AVAILABLE if mode == "not_available" else str(used[gpu["uuid"]])

    def free(gpu: dict[str, Any]) -> str:
        return NOT_AVAILABLE if mode == "not_available" else str(max(0, gpu["memory_mib"] - used[gpu["uuid"]]))

    def total(gpu: dict[str, Any]) -> str:
        return NOT_AVAILABLE if mode == "not_available" else str(gpu["memory_mib"])

    def mig(gpu: dict[str, Any]) -> str:
        return "Enabled" if gpu["mig"] else "Disabled"

    count = str(len(gpu_memory.gpus(folder)))
    return {
        "index": ("", lambda gpu: str(gpu["index"])),
        "uuid": ("", lambda gpu: str(gpu["uuid"])),
        "gpu_uuid": ("", lambda gpu: str(gpu["uuid"])),
        "name": ("", lambda gpu: str(gpu["name"])),
        "gpu_name": ("", lambda gpu: str(gpu["name"])),
        "count": ("", lambda _: count),
        "pci.bus_id": ("", lambda gpu: f"00000000:{gpu['index'] + 1:02X}:00.0"),
        "driver_version": ("", lambda _: DRIVER),
        "memory.total": ("MiB", total),
        "memory.used": ("MiB", in_use),
        "memory.free": ("MiB", free),
        "mig.mode.current": ("", mig),
        "utilization.gpu": ("%", lambda gpu: "0" if not used[gpu["uuid"]] else "35"),
        "temperature.gpu": ("", lambda _: "38"),
        "power.draw": ("W", lambda _: NOT_AVAILABLE),
        "compute_mode": ("", lambda _: "Default"),
        "compute_cap": ("", lambda _: "9.0"),
    }


def _applications(mode: str, folder: str) -> list[tuple[int, str, int]]:
    return [] if mode == "no_processes" else [application for application in gpu_memory.held(folder) if application[0]]


def _application_fields(mode: str, folder: str) -> dict[str, tuple[str, Callable[[Any], str]]]:
    names = {gpu["uuid"]: gpu["name"] for gpu in gpu_memory.gpus(folder)}

    def memory(application: tuple[int, str, int]) -> str:
        hidden = {"not_available": NOT_AVAILABLE, "insufficient_permissions": NO_PERMISSION}
        return hidden.get(mode, str(application[2]))

    def program(application: tuple[int, str, int]) -> str:
        return NO_PERMISSION if mode == "insufficient_permissions" else _program(application[0])

    return {
        "pid": ("", lambda application: str(application[0])),
        "gpu_uuid": ("", lambda application: application[1]),
        "gpu_name": ("", lambda application: names[application[1]]),
        "used_memory": ("MiB", memory),
        "used_gpu_memory": ("MiB", memory),
        "process_name": ("", program),
        "name": ("", program),
    }


def _program(pid: int) -> str:
    return (process_table.arguments(pid) or ["[Not Found]"])[0]


def _table(mode: str, folder: str, gpus: list[dict[str, Any]]) -> None:
    """Print the table for people; which columns it has is no interface, so that it is only near the real one."""
    used = gpu_memory.used(folder)
    line = "+" + "-" * 89 + "+"
    print(line)
    print(f"| {f'NVIDIA-SMI {DRIVER} (simulated)   Driver Version: {DRIVER}   CUDA Version: {CUDA}':<87} |")
    print(f"| {'a simulated machine: these GPUs are made up':<87} |")
    print(line)
    for gpu in gpus:
        memory = NOT_AVAILABLE if mode == "not_available" else f"{used[gpu['uuid']]}MiB / {gpu['memory_mib']}MiB"
        print(f"| {gpu['index']:>3}  {gpu['name']:<40} {memory:>24}  {'MIG' if gpu['mig'] else '':<14} |")
    print(line)
    print(f"| {'Processes:':<87} |")
    applications = _applications(mode, folder)
    index = {gpu["uuid"]: gpu["index"] for gpu in gpus}
    for pid, uuid, mib in applications:
        print(f"| {f'{index[uuid]:>3} {pid:>10}   C   {_program(pid)[:40]:<40} {mib:>8}MiB':<87} |")
    if not applications:
        print(f"| {'  No running processes found':<87} |")
    print(line)


def run(folder: str) -> int:
    """Run as the program that a simulated machine has on its PATH."""
    return main(sys.argv[1:], folder)
