import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from domain.errors import BadInput, Rejected
from podctl.pods_file import KnownGpu, KnownPod, KnownPods, PodsFile

SSH = "ssh -p 2222 root@192.0.2.7"


@pytest.fixture
def pods_file(tmp_path: Path) -> PodsFile:
    return PodsFile(tmp_path / "config" / "pods.json")


def test_a_missing_file_knows_no_pods_and_is_not_made(pods_file: PodsFile) -> None:
    assert pods_file.read() == KnownPods()
    assert not pods_file.path.parent.exists()


def test_the_first_pod_becomes_active_and_the_second_does_not(pods_file: PodsFile) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    pods_file.add("beta", KnownPod(ssh="root@192.0.2.8"))
    assert pods_file.read().active == "alpha"
    assert list(pods_file.read().pods) == ["alpha", "beta"]


def test_removing_the_active_pod_clears_it_and_the_next_one_added_is_not_made_active(pods_file: PodsFile) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    pods_file.add("beta", KnownPod(ssh=SSH))
    assert pods_file.remove("alpha").active is None
    pods_file.add("gamma", KnownPod(ssh=SSH))
    assert pods_file.read().active is None
    with pytest.raises(Rejected, match=r"podctl pods active NAME.*beta, gamma"):
        pods_file.read().choose(None)


def test_removing_another_pod_leaves_the_active_one(pods_file: PodsFile) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    pods_file.add("beta", KnownPod(ssh=SSH))
    assert pods_file.remove("beta").active == "alpha"


@pytest.mark.parametrize("change", ["activate", "remove", "update"])
def test_an_unknown_pod_is_refused_with_the_known_ones(pods_file: PodsFile, change: str) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    with pytest.raises(Rejected, match=r"unknown_pod.*'omega'.*known: alpha"):
        getattr(pods_file, change)("omega")


def test_choosing_without_any_pod_says_how_to_add_one(pods_file: PodsFile) -> None:
    with pytest.raises(Rejected, match=r"no_active_pod.*podctl pods add"):
        pods_file.read().choose(None)


def test_adding_again_is_fine_unless_the_address_differs(pods_file: PodsFile) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    pods_file.add("alpha", KnownPod(ssh=SSH))
    with pytest.raises(Rejected, match=r"pod_exists.*podctl pods set alpha"):
        pods_file.add("alpha", KnownPod(ssh="root@192.0.2.9"))
    assert pods_file.read().pods["alpha"].ssh == SSH


@pytest.mark.parametrize("name", ["", "a/b", "..", "-a", "a b", "ä", "x" * 64])
def test_a_pod_needs_a_valid_name(pods_file: PodsFile, name: str) -> None:
    with pytest.raises(BadInput, match=r"not a valid name"):
        pods_file.add(name, KnownPod(ssh=SSH))


def test_it_is_private_and_has_the_documented_shape(pods_file: PodsFile) -> None:
    pods_file.add("alpha", KnownPod(ssh=SSH))
    gpus = (KnownGpu(id=0, name="NVIDIA H100", memory="81559 MiB"),)
    pods_file.update("alpha", gpus=gpus, models_path="/models", vllm_version="release")
    assert stat.S_IMODE(pods_file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(pods_file.path.parent.stat().st_mode) == 0o700
    assert json.loads(pods_file.path.read_text()) == {
        "pods": {
            "alpha": {
                "ssh": SSH,
                "gpus": [{"id": 0, "name": "NVIDIA H100", "memory": "81559 MiB"}],
                "models": {},
                "modelsPath": "/models",
                "vllmVersion": "release",
            }
        },
        "active": "alpha",
    }


def test_what_another_version_wrote_is_kept(pods_file: PodsFile) -> None:
    pods_file.path.parent.mkdir()
    pods_file.path.write_text('{"pods": {"alpha": {"ssh": "root@a", "colour": "blue"}}, "active": null, "theme": 7}')
    pods_file.add("beta", KnownPod(ssh=SSH))
    content = json.loads(pods_file.path.read_text())
    assert content["theme"] == 7
    assert content["pods"]["alpha"]["colour"] == "blue"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "not JSON"),
        ('{"pods": {\n  "alpha": {"ssh": "root@a",}\n}}', 2, "not JSON"),
        ("[]", 1, "the whole file"),
        ('{\n "pods": {\n  "alpha": {\n   "gpus": []}}}', 3, "pods.alpha.ssh: Field required"),
        (
            '{"pods": {"alpha": {"ssh": "root@a",\n"gpus": [{"id": 0, "name": "A", "memory": "1"},\n{"id": "x"}]}}}',
            3,
            "id",
        ),
        ('{"pods": {\n\n"a/b": {"ssh": "root@a"}}}', 3, "pods.a/b"),
        ('{"pods": {"alpha": {"ssh": "root@a"}},\n\t"active": "omega"}', 2, "active: 'omega' is none of the pods"),
        ('{"pods": {"x": {"ssh": "\\"active\\": {"}},\n"active": 1}', 2, "active"),
    ],
)
def test_a_broken_file_is_an_error_with_its_line_and_stays_as_it_is(
    pods_file: PodsFile, text: str, line: int, what: str
) -> None:
    pods_file.path.parent.mkdir()
    pods_file.path.write_text(text)
    for attempt in (
        pods_file.read,
        lambda: pods_file.add("beta", KnownPod(ssh=SSH)),
        lambda: pods_file.remove("alpha"),
    ):
        with pytest.raises(BadInput) as raised:
            attempt()
        assert f"{pods_file.path}:{line}:" in str(raised.value)
        assert what in str(raised.value)
    assert pods_file.path.read_text() == text


def test_a_linked_file_stays_a_link(pods_file: PodsFile, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    pods_file.path.parent.mkdir()
    pods_file.path.symlink_to(real)
    pods_file.add("alpha", KnownPod(ssh=SSH))
    assert pods_file.path.is_symlink()
    assert "alpha" in real.read_text()


def test_concurrent_writers_do_not_lose_each_other(pods_file: PodsFile) -> None:
    program = (
        "import sys, pathlib\n"
        "from podctl.pods_file import KnownPod, PodsFile\n"
        "for n in range(20): PodsFile(pathlib.Path(sys.argv[1])).add(f'{sys.argv[2]}{n}', KnownPod(ssh='root@a'))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(pods_file.path), prefix]) for prefix in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(pods_file.read().pods) == 80
    # Nothing half-written is left beside it.
    assert sorted(path.name for path in pods_file.path.parent.iterdir()) == ["pods.json", "pods.json.lock"]
