"""The pretend ``uv``: resolves, makes an environment, installs the pretend ``vllm`` into it, and fails as uv fails.

The environment is a real one, made by hand: its Python runs and imports ``vllm``, which knows its version and no more.
Every call is written to ``uv.log`` in the machine's folder.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from pathlib import Path

from simulator import lean_json, vllm_process

VERSION = "0.13.9"
NIGHTLY = "0.33.0rc1.dev7+gsimulated"

_FAILED = 1
_USAGE = 2
_SAYS = {
    "no_network": "error: Failed to fetch: `https://pypi.org/simple/vllm/`\n"
    "  Caused by: error sending request for url (https://pypi.org/simple/vllm/)\n"
    "  Caused by: dns error: failed to lookup address information: Name or service not known",
    "disk_full": "error: Failed to install: torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (torch==2.13.0)\n"
    "  Caused by: failed to write to file: No space left on device (os error 28)",
    "package_not_found": "  x No solution found when resolving dependencies:\n"
    "  `-> Because there is no version of vllm{wanted} and you require vllm{wanted}, we can conclude that your\n"
    "      requirements are unsatisfiable.",
}


def run(folder: str) -> int:
    """Run as the program that a simulated machine has on its PATH; return the exit code."""
    arguments = sys.argv[1:]
    with Path(f"{folder}/uv.log").open("a", encoding="utf-8") as log:
        log.write(" ".join(arguments) + "\n")
    if arguments == ["--version"]:
        print(f"uv {VERSION} (simulated)")
        return 0
    settings = lean_json.read(f"{folder}/settings.json")
    if arguments[:2] == ["python", "find"]:
        print(getattr(sys, "_base_executable", sys.executable))
        return 0
    if arguments[:1] == ["venv"]:
        _make_environment(Path(arguments[-1]))
        return 0
    if arguments[:2] == ["pip", "compile"]:
        return _resolve(arguments, settings["install_failure"])
    if arguments[:2] == ["pip", "install"]:
        return _install(arguments, folder, settings)
    print(f"error: the simulation of uv does not know: {' '.join(arguments)}", file=sys.stderr)
    return _USAGE


def _resolve(arguments: list[str], failure: str | None) -> int:
    found = re.search(r"^vllm(==\S+)?$", sys.stdin.read(), re.MULTILINE)
    wanted = (found.group(1) if found else None) or ""
    if failure in {"no_network", "package_not_found"}:
        print(_SAYS[failure].replace("{wanted}", wanted), file=sys.stderr)
        return _FAILED
    nightly = any("nightly" in argument for argument in arguments)
    version = wanted.removeprefix("==") or (NIGHTLY if nightly else vllm_process.VERSION)
    Path(_after(arguments, "--output-file")).write_text(f"hf-transfer==0.1.9\nvllm=={version}\n", encoding="utf-8")
    return 0


def _make_environment(place: Path) -> None:
    python = Path(getattr(sys, "_base_executable", sys.executable))
    _packages(place).mkdir(parents=True)
    (place / "bin").mkdir()
    (place / "pyvenv.cfg").write_text(f"home = {python.parent}\n", encoding="utf-8")
    (place / "bin" / "python").symlink_to(python)


def _install(arguments: list[str], folder: str, settings: dict[str, object]) -> int:
    place = Path(_after(arguments, "--python")).parent.parent
    wanted = Path(_after(arguments, "-r")).read_text(encoding="utf-8")
    [version] = re.findall(r"^vllm==(\S+)$", wanted, re.MULTILINE)
    print("Resolved 2 packages in 1ms\nDownloading vllm (433.2MiB)", flush=True)
    vllm_process.pass_hook(folder, "uv.install")
    time.sleep(float(str(settings["install_seconds"])))
    if settings["install_failure"] == "disk_full":
        print(_SAYS["disk_full"], file=sys.stderr)
        return _FAILED
    package = _packages(place) / "vllm"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(f"__version__ = {version!r}\n", encoding="utf-8")
    shutil.copy(f"{folder}/bin/vllm", place / "bin" / "vllm")
    print(f"Installed 2 packages in 1ms\n + hf-transfer==0.1.9\n + vllm=={version}")
    return 0


def _packages(place: Path) -> Path:
    return place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]
