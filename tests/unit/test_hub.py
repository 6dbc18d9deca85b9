"""What is read of a model: from a folder, and from a server that answers as the Hugging Face Hub does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from podctl.hub import HubError, model_facts

CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256}
TOKEN = "hf_" + "t" * 30


class Hub(ThreadingHTTPServer):
    """Some models: their files, and whether a token is needed; what was asked is kept with its token."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, dict[str, int]] = {}
        self.gated: set[str] = set()
        self.redirect = ""
        self.asked: list[tuple[str, str | None]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        token = self.headers.get("Authorization")
        self.server.asked.append((self.path, token))
        is_list = self.path.startswith("/api/models/")
        model = (
            self.path.removeprefix("/api/models/").partition("?")[0] if is_list else "/".join(self.path.split("/")[1:3])
        )
        files = self.server.files.get(model)
        if files is None:
            self.refuse(401 if token is None else 404, "RepoNotFound")
        elif is_list:
            self.say({"siblings": [{"rfilename": name, "size": size} for name, size in files.items()]})
        elif model in self.server.gated and token != f"Bearer {TOKEN}":
            self.refuse(401 if token is None else 403, "GatedRepo")
        elif "config.json" not in files:
            self.refuse(404, "EntryNotFound")
        elif self.server.redirect:
            self.send_response(307)
            self.send_header("Location", self.server.redirect + self.path)
            self.end_headers()
        else:
            self.say(CONFIG)

    def say(self, content: Any) -> None:  # noqa: ANN401 - JSON
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address + "/")
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server
        server.shutdown()


def refusal(model: str) -> str:
    with pytest.raises(HubError) as refused:
        model_facts(model)
    assert TOKEN not in str(refused.value)
    return str(refused.value)


def test_config_and_the_sizes_of_the_weights(hub: Hub) -> None:
    hub.files["acme/heron"] = {
        "config.json": 100,
        "model-00001-of-00002.safetensors": 5_000,
        "model-00002-of-00002.safetensors": 300,
        "consolidated.safetensors": 5_300,
        "original/model.safetensors": 5_300,
        "pytorch_model.bin": 9_999,
    }
    facts = model_facts("acme/heron")
    assert (facts.weights_bytes, facts.config) == (5_300, CONFIG)
    assert facts.source == f"acme/heron at {hub.address}"
    hub.files["acme/raw"] = {"config.json": 100, "consolidated.safetensors": 7}
    assert model_facts("acme/raw").weights_bytes == 7
    assert [token for _, token in hub.asked] == [None] * 4


def test_a_gated_model_needs_a_token_with_access(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.files["acme/gated"] = {"config.json": 1, "model.safetensors": 10}
    hub.gated = {"acme/gated"}
    assert f"accept its licence at {hub.address}/acme/gated; then set HF_TOKEN" in refusal("acme/gated")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "w" * 30)
    assert "the account of your token has no access yet" in refusal("acme/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert model_facts("acme/gated").weights_bytes == 10
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert model_facts("acme/gated").weights_bytes == 10


def test_a_token_goes_to_no_other_server(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Hub() as elsewhere:
        hub.files["acme/heron"] = elsewhere.files["acme/heron"] = {"config.json": 1, "model.safetensors": 10}
        hub.redirect = elsewhere.address
        assert model_facts("acme/heron").config == CONFIG
        assert [token for _, token in hub.asked] == [f"Bearer {TOKEN}"] * 2
        assert [token for _, token in elsewhere.asked] == [None]
        elsewhere.shutdown()


def test_what_is_not_there_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no model acme/none" in refusal("acme/none")
    assert "a private one needs HF_TOKEN" in refusal("acme/none")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "your token may not see it" in refusal("acme/none")
    hub.files["acme/gguf"] = {"config.json": 1, "heron.gguf": 10}
    assert "has no safetensors files" in refusal("acme/gguf")
    hub.files["acme/bare"] = {"model.safetensors": 10}
    assert "has no config.json" in refusal("acme/bare")
    assert "neither a folder here nor the id of a model" in refusal("../etc/passwd")
    assert "neither a folder here nor the id of a model" in refusal("a b")


def test_a_server_that_cannot_be_reached_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached: " in refusal("acme/heron")
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    assert "HF_ENDPOINT is 'huggingface.co'" in refusal("acme/heron")


def test_a_folder_needs_no_server(tmp_path: Path) -> None:
    folder = tmp_path / "heron"
    folder.mkdir()
    assert "has no config.json" in refusal(str(folder))
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(str(folder))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert "has no safetensors files" in refusal(str(folder))
    (folder / "model.safetensors").write_bytes(b"x" * 77)
    assert model_facts(str(folder)).weights_bytes == 77
