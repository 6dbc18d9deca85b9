"""The steps of a setup on a machine, by the real uv and wheels made on the spot: no network, nothing of the user's."""

import hashlib
import http.server
import json
import os
import re
import shutil
import stat
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from podlet import setup_steps
from tests.activity.podlet_harness import Machine, PodletError, wait_until
from tests.system.tiny_vllm import VERSION, write_wheels

STEPS = (Path(__file__).parents[2] / "podlet" / "setup_steps.py").read_text()


def uv() -> str:
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "uv is missing: pip install -r requirements-development.lock"
    return found


class Setup:
    """A machine whose home has a blank in it, and what a setup does to it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.home = Path(machine.environment["HOME"])
        self._count = 0

    def begin(self, step: str, **fields: object) -> Any:  # noqa: ANN401 - a conversation
        self._count += 1
        return self.machine.start(
            "setup_step", id=f"box/setup-{step}/{self._count}-1-test", step=step, program=STEPS, **fields
        )

    def do(self, step: str, **fields: object) -> dict[str, Any]:
        """Do a step that succeeds; return what it says."""
        result = self.begin(step, **fields).result()
        assert result["exit"]["code"] == 0, result
        outcome: dict[str, Any] = result["outcome"]
        return outcome

    def fails(self, step: str, **fields: object) -> dict[str, Any]:
        """Do a step that fails; return what it says, which always ends with advice."""
        result = self.begin(step, **fields).result()
        outcome: dict[str, Any] = result["outcome"]
        assert (result["exit"]["code"], bool(outcome["advice"])) == (1, True), result
        return outcome

    def install(self, spec: str = "release") -> str:
        """Set up one vLLM; return its program."""
        version = self.do("venv", spec=spec)["version"]
        self.do("install", spec=spec, version=version)
        return str(self.do("verify", version=version)["program"])


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    wheels = tmp_path / "wheels"
    write_wheels(wheels, VERSION, "0.98.0", "0.10.1+gptoss")
    with Machine(tmp_path / "a machine") as machine:
        (machine.folder / "bin" / "uv").symlink_to(uv())
        machine.environment.update(
            UV_FIND_LINKS=str(wheels), UV_NO_INDEX="1", UV_OFFLINE="1", UV_PYTHON_DOWNLOADS="never"
        )
        yield Setup(machine)


def test_a_vllm_is_installed_into_an_environment_of_its_own_and_nothing_of_the_users_is_touched(setup: Setup) -> None:
    for name in (".bashrc", ".profile", ".cache/uv/x", ".cache/pip/x", "venv/bin/python", ".venv/pyvenv.cfg"):
        path = setup.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"theirs: {name}")
    setup.machine.environment["VIRTUAL_ENV"] = str(setup.home / "venv")
    before = {path: path.read_bytes() for path in setup.home.rglob("*") if path.is_file()}
    first, second = setup.install(), setup.install("==0.98.0")
    assert first == f"{setup.machine.root}/vllm/{VERSION}/bin/vllm"
    assert second == f"{setup.machine.root}/vllm/0.98.0/bin/vllm"
    assert Path(first).exists()
    assert {path: path.read_bytes() for path in setup.home.rglob("*") if path.is_file()} == before
    packages = next(Path(first).parents[1].glob("lib/*/site-packages"))
    assert (packages / "hf_transfer").is_dir(), "launches ask huggingface_hub to use it"


def test_what_is_there_is_not_done_again(setup: Setup) -> None:
    setup.install("==0.98.0")
    setup.machine.environment["UV_FIND_LINKS"] = "/nowhere"
    assert setup.do("venv", spec="==0.98.0")["message"] == "vLLM 0.98.0 is here already"
    assert setup.do("install", spec="==0.98.0", version="0.98.0")["message"] == "vLLM 0.98.0 is installed already"


def test_an_environment_that_a_dead_step_left_half_made_is_made_anew(setup: Setup) -> None:
    half = setup.machine.root / "vllm" / "0.98.0"
    half.mkdir(parents=True)
    (half / "left").touch()
    setup.install("==0.98.0")
    assert not (half / "left").exists()


def test_a_broken_installation_is_found_by_its_import_and_installed_again(setup: Setup) -> None:
    program = setup.install("==0.98.0")
    package = next(Path(program).parents[1].glob("lib/*/site-packages/vllm/__init__.py"))
    package.write_text("import nothing_of_this_name\n")
    problem = setup.fails("verify", version="0.98.0")
    assert problem["problem"] == "import_failed"
    assert "nothing_of_this_name" in problem["message"]
    assert str(Path(program).parents[1]) in problem["advice"]


@pytest.mark.parametrize(("spec", "version"), [("nightly", VERSION), ("gpt-oss", "0.10.1+gptoss")])
def test_the_other_vllms_are_resolved_to_an_exact_version_too(setup: Setup, spec: str, version: str) -> None:
    assert f"/vllm/{version}/bin/vllm" in setup.install(spec)


def test_a_version_that_there_is_not_is_named(setup: Setup) -> None:
    problem = setup.fails("venv", spec="==7.7.7")
    assert problem["problem"] == "package_not_found"
    assert "vllm==7.7.7" in problem["message"]


def test_without_a_network_that_is_what_is_said(setup: Setup) -> None:
    for name in ("UV_NO_INDEX", "UV_OFFLINE", "UV_FIND_LINKS"):
        del setup.machine.environment[name]
    setup.machine.environment.update(UV_DEFAULT_INDEX="http://user:s3cret@127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    conversation = setup.begin("venv", spec="==0.98.0")
    result = conversation.result()
    assert result["outcome"]["problem"] == "no_network"
    assert "s3cret" not in json.dumps(result)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(setup: Setup, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert setup.fails("models", models_path=str(closed / "models"))["problem"] == "permission_denied"


@pytest.mark.parametrize("name", ['it\'s "here" $HOME `id`', "möbel/模型", "x" * 250 + "/" + "y" * 50, " ", "-rf"])
def test_odd_paths_of_models_are_taken_literally(setup: Setup, tmp_path: Path, name: str) -> None:
    told = setup.do("models", models_path=str(tmp_path / "m" / name))
    assert told["models_path"] == str(tmp_path / "m" / name)
    assert (tmp_path / "m" / name / "huggingface" / "hub").is_dir()


def test_a_path_too_long_for_the_machine_is_named(setup: Setup, tmp_path: Path) -> None:
    assert setup.fails("models", models_path=str(tmp_path / ("x" * 300)))["problem"] == "name_too_long"


def test_without_a_folder_of_their_own_models_go_where_hugging_face_puts_them(setup: Setup) -> None:
    told = setup.do("models")
    assert f"{setup.home}/.cache/huggingface/hub" in told["message"]
    assert "models_path" not in told


def test_a_file_in_the_place_of_a_folder_is_named(setup: Setup, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in setup.fails("models", models_path=str(tmp_path / "file" / "models"))["message"]


# -- mount


def pretend_mount(setup: Setup, script: str) -> list[str]:
    """Return the words of a mount command that runs a script, and ends with the place."""
    program = setup.machine.folder / "bin" / "mounter"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    setup.machine.environment["PODLET_MOUNTS"] = str(setup.machine.folder / "mounts")
    return ["mounter", "-o", "a=b c", str(setup.machine.folder / "mnt" / "models")]


def test_a_mount_is_done_once_with_its_words_as_they_are(setup: Setup) -> None:
    words = pretend_mount(
        setup, 'printf "%s\\n" "$@" >> "$HOME/words"; for last; do :; done; echo "$last" > "$PODLET_MOUNTS"'
    )
    assert setup.do("mount", mount=words)["message"] == f"{words[-1]} is mounted"
    assert setup.do("mount", mount=words)["message"] == f"{words[-1]} is mounted already"
    assert (setup.home / "words").read_text().splitlines() == words[1:]


def test_a_mount_that_leaves_a_program_in_the_background_is_not_waited_for(setup: Setup) -> None:
    words = pretend_mount(setup, 'for last; do :; done; echo "$last" > "$PODLET_MOUNTS"; sleep 600 &')
    assert setup.do("mount", mount=words)["message"] == f"{words[-1]} is mounted"


@pytest.mark.parametrize(
    ("script", "problem", "said"),
    [
        ("echo 'access denied by server' >&2; exit 32", "mount_failed", "exit code 32: access denied by server"),
        ("exit 0", "not_mounted", "is no mount point"),
    ],
)
def test_a_mount_that_fails_says_how(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, script: str, problem: str, said: str
) -> None:
    short = STEPS.replace("MOUNT_APPEARS_WITHIN = 10.0", "MOUNT_APPEARS_WITHIN = 0.1")
    monkeypatch.setattr("tests.activity.test_podlet_setup.STEPS", short)
    failed = setup.fails("mount", mount=pretend_mount(setup, script))
    assert failed["problem"] == problem
    assert said in failed["message"]


def test_a_mount_that_hangs_is_ended(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    short = STEPS.replace("MOUNT_ENDS_WITHIN = 120.0", "MOUNT_ENDS_WITHIN = 0.3")
    assert short != STEPS
    monkeypatch.setattr("tests.activity.test_podlet_setup.STEPS", short)
    assert setup.fails("mount", mount=pretend_mount(setup, "sleep 600"))["problem"] == "mount_hangs"


def test_a_mount_program_that_is_not_there_is_named(setup: Setup) -> None:
    failed = setup.fails("mount", mount=["no-such-mount", "files:/a", "/nowhere/models"])
    assert (failed["problem"], "no-such-mount" in failed["message"]) == ("program_not_found", True)


# -- the step as a launch


def test_a_step_is_found_again_by_its_id_and_was_done_once(setup: Setup) -> None:
    words = pretend_mount(
        setup, 'echo run >> "$HOME/runs"; while [ ! -e "$HOME/go" ]; do sleep 0.02; done; echo "$3" > "$PODLET_MOUNTS"'
    )
    request: dict[str, Any] = {"id": "box/setup-mount/1-1-x", "step": "mount", "program": STEPS, "mount": words}
    first = setup.machine.start("setup_step", **request)
    runs = setup.home / "runs"
    wait_until(runs.exists, "it runs")
    first.kill()
    second = setup.machine.start("setup_step", **request)
    beat = second.read_until(lambda line: line["type"] == "beat", "a sign of life")
    assert "last_line" in beat
    (setup.home / "go").touch()
    result = second.result()
    assert (result["created"], runs.read_text().split()) == (False, ["run"])
    assert result["outcome"] == {"message": f"{words[-1]} is mounted"}
    assert setup.machine.call("setup_step", **request)["outcome"] == result["outcome"]


def test_a_step_that_takes_too_long_is_ended(setup: Setup) -> None:
    result = setup.begin("mount", mount=pretend_mount(setup, "sleep 600"), timeout=0.5).result()
    assert result["timed_out"]
    assert result["outcome"] is None


def test_a_step_that_dies_says_so_by_its_exit(setup: Setup) -> None:
    result = setup.begin("mount", mount=pretend_mount(setup, "kill -9 $PPID")).result()
    assert (result["exit"]["signal"], result["outcome"]) == (9, None)


# -- uv


def test_the_users_uv_is_used_if_it_is_recent(setup: Setup) -> None:
    assert setup.do("uv")["message"].endswith(f"{setup.machine.folder}/bin/uv")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index that has a uv: the real program in a wheel, listed as HTML and, where asked for, as JSON."""
    folder = tmp_path / "index" / "uv"
    folder.mkdir(parents=True)
    name = f"uv-9.9.9-py3-none-manylinux_2_17_{os.uname().machine}.whl"
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_STORED) as archive:
        archive.write(Path(uv()).resolve(), "uv-9.9.9.data/scripts/uv")
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="../uv/{name}#sha256={digest}">{name}</a>')

    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def without_uv(setup: Setup, index: str) -> None:
    """Leave a machine that has no uv but an old one of the user's, which has to stay."""
    folder = setup.machine.folder / "bin"
    (folder / "uv").unlink()
    old = setup.home / ".local" / "bin" / "uv"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\necho uv 0.1.2\n")
    old.chmod(0o700)
    setup.machine.environment.update(UV_DEFAULT_INDEX=index, PATH=f"{folder}:/usr/bin:/bin")


def test_where_there_is_no_recent_uv_one_is_fetched_and_the_users_stays(setup: Setup, index: str) -> None:
    without_uv(setup, index)
    program = STEPS.replace('[sys.executable, "-m", "pip"]', '["/nowhere/python", "-m", "pip"]')
    assert program != STEPS
    told = setup.machine.call("setup_step", id="box/setup-uv/1-1-x", step="uv", program=program)["outcome"]
    assert told["message"].endswith(f"{setup.machine.root}/uv/bin/uv")
    assert (setup.home / ".local" / "bin" / "uv").read_text() == "#!/bin/sh\necho uv 0.1.2\n"


def test_a_uv_that_is_not_what_the_index_says_is_not_used(setup: Setup, index: str, tmp_path: Path) -> None:
    without_uv(setup, index)
    page = tmp_path / "index" / "uv" / "index.html"
    page.write_text(re.sub("[0-9a-f]{64}", "0" * 64, page.read_text()))
    program = STEPS.replace('[sys.executable, "-m", "pip"]', '["/nowhere/python", "-m", "pip"]')
    told = setup.machine.call("setup_step", id="box/setup-uv/1-1-x", step="uv", program=program)["outcome"]
    assert told["problem"] == "wrong_digest"
    assert not (setup.machine.root / "uv").exists()


def test_the_newest_wheel_for_this_machine_is_taken() -> None:
    machine = os.uname().machine
    names = [f"uv-0.{minor}.0-py3-none-manylinux_2_17_{machine}.whl" for minor in (9, 10)]
    others = [f"uv-1.0.0-py3-none-macosx_11_0_{machine}.whl", "uv-1.0.0.tar.gz", "uv-1.0.0rc1-py3-none-any.whl"]
    page = "".join(f'<a data-x="1" href="f/{name}#sha256={"a" * 64}">{name}</a>\n' for name in names + others)
    page += f'<a href="f/uv-2.0.0-py3-none-manylinux_2_17_{machine}.whl">no digest</a>'
    assert setup_steps.newest_wheel(setup_steps.listed_files(page))["filename"] == names[1]
    listed = {"files": [{"filename": name, "url": name, "hashes": {"sha256": "a"}, "yanked": False} for name in names]}
    listed["files"][1]["yanked"] = "broken"
    assert setup_steps.newest_wheel(setup_steps.listed_files(json.dumps(listed)))["filename"] == names[0]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("error: failed to write: No space left on device (os error 28)", "disk_full"),
        ("OSError: [Errno 122] Disk quota exceeded", "disk_full"),
        ("error: Permission denied (os error 13)", "permission_denied"),
        ("error: Read-only file system (os error 30)", "read_only"),
        ("  Caused by: dns error", "no_network"),
        ("  x No solution found when resolving dependencies:", "package_not_found"),
        ("something else", "failed"),
    ],
)
def test_what_programs_say_has_a_type(text: str, code: str) -> None:
    problem = setup_steps.classify(f"Resolving\n{text}\n", "vLLM", 1)
    assert problem.code == code
    assert problem.advice


# -- Hugging Face's token


def test_a_token_is_kept_for_its_owner_alone_and_another_one_stays(setup: Setup) -> None:
    file = setup.home / ".cache" / "huggingface" / "token"
    assert setup.machine.call("hf_token", token="hf_one") == {"path": str(file), "written": True}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert setup.machine.call("hf_token", token="hf_one")["written"] is False
    with pytest.raises(PodletError, match="hf_token_exists") as refused:
        setup.machine.call("hf_token", token="hf_two")
    assert "hf_two" not in refused.value.message
    assert file.read_text() == "hf_one"
    setup.machine.environment["HF_HOME"] = str(setup.home / "elsewhere")
    assert setup.machine.call("hf_token", token="hf_two")["path"] == str(setup.home / "elsewhere" / "token")
