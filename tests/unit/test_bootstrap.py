"""What the set-up decides before it downloads anything; that it works is seen by whoever runs these tests by make."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tools import bootstrap


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project; no command is carried out, `commands.log` says which would have been."""
    for name in (*bootstrap.LOCKS.values(), "pyproject.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / ".venv").mkdir()
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "run", lambda argv: _note(tmp_path / "commands.log", argv))
    return tmp_path


def _note(log: Path, argv: list[str]) -> None:
    with log.open("a") as file:
        file.write(" ".join(argv) + "\n")


def commands(project: Path) -> list[str]:
    log = project / "commands.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name in modules else found(name, package)
    )


def offer_pip(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "pip", SimpleNamespace(__version__=version, __spec__=object()))


def test_it_installs_by_hash_once_and_again_only_when_something_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_pip(monkeypatch, "23.0.1")
    bootstrap.set_up("run")
    venv, locked, own = commands(project)
    assert "-m venv --clear --without-pip" in venv
    assert "--require-hashes --only-binary :all: --requirement requirements.lock" in locked
    assert "--no-deps --no-build-isolation --editable ." in own
    bootstrap.set_up("run")
    assert commands(project) == []

    bootstrap.set_up("development")
    assert "requirements-development.lock" in commands(project)[1]
    (project / "requirements.lock").write_text("changed")
    # What development needs holds all that run needs.
    bootstrap.set_up("run")
    assert commands(project) == []
    for name in ("requirements-development.lock", "pyproject.toml"):
        (project / name).write_text("changed")
        bootstrap.set_up("development")
        assert len(commands(project)) == 3


def test_the_pip_of_the_python_is_used_without_ensurepip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer_pip(monkeypatch, "22.3")
    hide(monkeypatch, "ensurepip")
    assert bootstrap.installer() == [sys.executable, "-m", "pip", "--python", str(project / ".venv/bin/python")]


def test_ensurepips_own_wheel_is_used_without_a_pip(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = project / "pip-99-py3-none-any.whl"
    bundled.touch()
    monkeypatch.setitem(
        sys.modules,
        "ensurepip",
        SimpleNamespace(
            __file__=str(project / "ensurepip/__init__.py"), _WHEEL_PKG_DIR=str(project), __spec__=object()
        ),
    )
    hide(monkeypatch, "pip")
    assert bootstrap.installer() == [str(project / ".venv/bin/python"), str(bundled / "pip")]


@pytest.mark.parametrize(("version", "said"), [(None, "no pip"), ("22.0.2", "pip 22.0.2")])
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, version: str | None, said: str) -> None:
    if version is not None:
        offer_pip(monkeypatch, version)
    hide(monkeypatch, "ensurepip", *(() if version else ("pip",)))
    with pytest.raises(bootstrap.SetUpError, match=rf"has {said} and no ensurepip; pip 22\.3 or newer is needed"):
        bootstrap.installer()


def test_an_old_python_is_told_plainly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    assert bootstrap.main(["run"]) == 1
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


def test_it_parses_on_a_python_that_is_too_old() -> None:
    import ast

    ast.parse(Path(bootstrap.__file__).read_text(encoding="utf-8"), feature_version=(3, 7))


def test_the_system_programs_are_checked(tmp_path: Path) -> None:
    script = Path(bootstrap.__file__).with_name("system_programs.py")
    program = f"import sys; sys.argv = [{str(script)!r}]; import runpy, shutil; shutil.which = lambda *a, **k: None; "
    done = subprocess.run(
        [sys.executable, "-c", program + f"runpy.run_path({str(script)!r}, run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert [line.partition(" is missing")[0] for line in done.stderr.splitlines()] == [
        "error: OpenSSH server (sshd)",
        "error: Chromium",
        "error: Chromium driver",
    ]
    assert "apt-get install openssh-server" in done.stderr
