"""Make `.venv` ready: `python3 tools/bootstrap.py run|development`.

Needs Python 3.11 or newer and a pip (its own or ensurepip's), no root. Installs what the lock file says, each file
checked against its hash, then this project in place. Does nothing when that was already done for the same lock,
`pyproject.toml` and Python.
"""

# Standard library only, and no syntax newer than Python 3.7: it has to be able to say that a Python is too old.
from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

PYTHON_MINIMUM = (3, 11)
#: The first pip that installs into another Python's environment (`--python`).
PIP_MINIMUM = (22, 3)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = {"run": "requirements.lock", "development": "requirements-development.lock"}
#: What `development` installs holds all of `run`, so either stamp satisfies `run`.
SATISFIED_BY = {"run": ("run", "development"), "development": ("development",)}


class SetUpError(Exception):
    """The environment cannot be made; the message says what is missing."""


def main(arguments: list[str]) -> int:
    """Bring `.venv` up to date for the profile named on the command line; return the exit status."""
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        print("usage: python3 tools/bootstrap.py " + "|".join(LOCKS), file=sys.stderr)
        return 2
    try:
        check_python()
        with Path(__file__).open("rb") as lock_file:
            hold_lock(lock_file.fileno())
            set_up(arguments[0])
    except SetUpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def check_python() -> None:
    """Raise SetUpError when this Python is too old."""
    if sys.version_info < PYTHON_MINIMUM:
        raise SetUpError(
            f"podctl needs Python {dotted(PYTHON_MINIMUM)} or newer, {sys.executable} is {dotted(sys.version_info[:3])}"
            ": name a newer one by make PYTHON=/path/to/python3 …"
        )


def set_up(profile: str) -> None:
    """Create or update `.venv` unless it is up to date, and leave the stamp that says so."""
    if any(read(stamp(each)) == fingerprint(each) for each in SATISFIED_BY[profile]):
        return
    started = time.monotonic()
    pip = installer()
    if not environment_matches():
        say(f"making .venv with Python {dotted(sys.version_info[:3])}")
        run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)])
    say(f"installing what {LOCKS[profile]} says (a minute, the first time)")
    install = [*pip, "install", "--disable-pip-version-check", "--quiet", "--no-input"]
    run([*install, "--require-hashes", "--only-binary", ":all:", "--requirement", LOCKS[profile]])
    # Without build isolation pip builds with the locked setuptools instead of fetching one of its own choice.
    run([*install, "--no-deps", "--no-build-isolation", "--editable", "."])
    stamp(profile).write_text(fingerprint(profile), encoding="utf-8")
    say(f".venv is ready after {time.monotonic() - started:.0f} s")


def installer() -> list[str]:
    """Return the argv of a pip that installs into `.venv`, which itself needs none.

    Some systems' Python has a pip but no ensurepip (it is a package of its own there), others the reverse.
    """
    found = "no pip"
    if importlib.util.find_spec("pip"):
        import pip

        if tuple(int(part) for part in pip.__version__.split(".")[:2]) >= PIP_MINIMUM:
            return [sys.executable, "-m", "pip", "--python", str(venv_python())]
        found = f"pip {pip.__version__}"
    bundled = bundled_pip()
    if bundled:
        return [str(venv_python()), str(bundled / "pip")]
    raise SetUpError(
        f"{sys.executable} has {found} and no ensurepip; pip {dotted(PIP_MINIMUM)} or newer is needed: install it "
        "(Debian, Ubuntu: apt-get install python3-pip), or name another Python by make PYTHON=/path/to/python3 …"
    )


def bundled_pip() -> Path | None:
    """Return ensurepip's own pip wheel, which runs as it is; None where there is none."""
    if not importlib.util.find_spec("ensurepip"):
        return None
    import ensurepip

    folders = [Path(ensurepip.__file__).parent / "_bundled"]
    # Where a distribution keeps its wheels elsewhere, Python's build says where.
    elsewhere = getattr(ensurepip, "_WHEEL_PKG_DIR", None)
    folders += [Path(elsewhere)] if elsewhere else []
    return next((wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))), None)


def environment_matches() -> bool:
    """Return whether `.venv` holds a working Python of the version that runs this."""
    try:
        answer = subprocess.run(
            [str(venv_python()), "-I", "-c", "import sys; print(sys.version)"],
            capture_output=True,
            check=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return answer.stdout.strip() == sys.version.strip()


def fingerprint(profile: str) -> str:
    """Return what decides whether `.venv` is up to date for ``profile``; the folder too, for `.venv` can't be moved."""
    digest = hashlib.sha256(f"{sys.version}\n{ROOT}\n".encode())
    for name in (LOCKS[profile], "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def hold_lock(descriptor: int) -> None:
    """Wait until no other set-up works on this checkout; released when the file is closed."""
    try:
        import fcntl
    except ImportError:  # not a Unix: two at a time are then the user's own business
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def venv_python() -> Path:
    """Return the path of the environment's interpreter."""
    return VENV / "bin" / "python"


def stamp(profile: str) -> Path:
    """Return the file that says for what ``profile`` was last installed."""
    return VENV / f".installed-{profile}"


def read(path: Path) -> str | None:
    """Return the text of a file, None if it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def run(argv: list[str]) -> None:
    """Run a command in the project's folder; raise SetUpError with the command as a person would type it."""
    status = subprocess.call(argv, cwd=str(ROOT))
    if status:
        raise SetUpError(f"set-up stopped: `{' '.join(argv)}` exited with {status}; what it said is above")


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"set-up: {text}", flush=True)


def dotted(version: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(str(part) for part in version)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
