"""A model's config and the sizes of its weights, from the Hugging Face Hub or a folder.

Two small GETs, for which the standard library does: the Hub's own client would bring a dozen packages, among them a
native one for downloads, and this reads no weights. It honours HF_ENDPOINT, HF_TOKEN and the token that `hf auth login`
keeps, as that client does.

```
HubError            the model cannot be read: which one, why, and what to do
```
"""

import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from domain.gpu.arguments import redact
from podctl.client import ClientError

#: Seconds that the Hub may take for one answer.
PATIENCE = 20.0
#: A config is some KB and a list of files some 100 KB: what is longer is neither.
_LONGEST_ANSWER = 32 * 2**20
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
#: Weights as transformers saves them; a repository may hold them a second time in their maker's own form.
_WEIGHTS = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors")


class HubError(ClientError):
    """A model's facts cannot be read."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without its weights."""

    config: Mapping[str, Any]
    weights_bytes: int
    #: Where it was read.
    source: str


def model_facts(model: str) -> ModelFacts:
    """Return the facts of a model: of a folder of this machine if there is one of that name, else of the Hub."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _of_folder(folder)
    if not _MODEL_ID.fullmatch(model):
        raise HubError(f"{model!r} is neither a folder here nor the id of a model (ORGANISATION/NAME)")
    return _of_hub(model)


def _of_folder(folder: Path) -> ModelFacts:
    try:
        text = (folder / "config.json").read_text(encoding="utf-8")
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    except FileNotFoundError as error:
        raise HubError(f"{folder} has no config.json: it is not the folder of a model") from error
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"{folder} cannot be read: {error}") from error
    return _facts(str(folder), text, sizes)


def _of_hub(model: str) -> ModelFacts:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    listed = _json(model, _get(model, endpoint, f"api/models/{model}?blobs=true"))
    siblings = listed.get("siblings") if isinstance(listed, Mapping) else None
    sizes = {
        str(one["rfilename"]): int(one["size"])
        for one in (siblings if isinstance(siblings, list) else [])
        if isinstance(one, Mapping) and isinstance(one.get("size"), int) and "rfilename" in one
    }
    config = _get(model, endpoint, f"{model}/resolve/main/config.json")
    return _facts(f"{model} at {endpoint}", config, sizes)


def _facts(source: str, config: str, sizes: Mapping[str, int]) -> ModelFacts:
    content = _json(source, config)
    if not isinstance(content, Mapping):
        raise HubError(f"{source}: its config.json is not a JSON object")
    files = {name: size for name, size in sizes.items() if name.endswith(".safetensors") and "/" not in name}
    weights = {name: size for name, size in files.items() if _WEIGHTS.fullmatch(name)} or files
    if not weights:
        raise HubError(f"{source} has no safetensors files: how large its weights are cannot be told without them")
    return ModelFacts(content, sum(weights.values()), source)


def _get(model: str, endpoint: str, path: str) -> str:
    if not endpoint.startswith(("https://", "http://")):
        raise HubError(f"HF_ENDPOINT is {endpoint!r}, which is not the address of a web server: https://…")
    request = urllib.request.Request(f"{endpoint}/{path}", headers={"User-Agent": "podctl"})  # noqa: S310 - see above
    token = _token()
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(_SameHostRedirects).open(request, timeout=PATIENCE) as answer:
            data: bytes = answer.read(_LONGEST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        raise HubError(_refusal(model, endpoint, path, error, has_token=token is not None)) from error
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise HubError(
            f"{endpoint} cannot be reached: {reason}. Without it, give the folder of a model that is on this machine"
        ) from error
    if len(data) > _LONGEST_ANSWER:
        raise HubError(f"{endpoint}/{path} answers with more than {_LONGEST_ANSWER >> 20} MB")
    return data.decode(errors="replace")


class _SameHostRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the token goes along to the same server only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request for where the answer points."""
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        old_server, new_server = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        authorization = req.get_header("Authorization")
        if new is not None and authorization and old_server[:2] == new_server[:2]:
            new.add_unredirected_header("Authorization", authorization)
        return new


def _refusal(model: str, endpoint: str, path: str, error: urllib.error.HTTPError, *, has_token: bool) -> str:
    headers = error.headers if isinstance(error.headers, Message) else Message()
    code = headers.get("X-Error-Code", "")
    if code == "GatedRepo" or error.code == 403:
        then = "the account of your token has no access yet" if has_token else "then set HF_TOKEN"
        return f"{model} is gated: accept its licence at {endpoint}/{model}; {then}"
    if code == "EntryNotFound" or (error.code == 404 and "/resolve/" in path):
        return f"{model} at {endpoint} has no config.json: what it takes cannot be told"
    if error.code in {401, 404}:
        private = "your token may not see it" if has_token else "a private one needs HF_TOKEN"
        return f"there is no model {model} at {endpoint}: check its spelling; {private}"
    return redact(f"{endpoint} answers {error.code} {error.reason} for {model}: try again later")


def _token() -> str | None:
    """Return the token that Hugging Face's tools would use, or None."""
    token = os.environ.get("HF_TOKEN")
    if not token:
        home = os.environ.get("HF_HOME") or str(Path("~/.cache/huggingface").expanduser())
        try:
            token = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    return token.strip() or None


def _json(what: str, text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HubError(f"{what}: what was read is not JSON: {error.msg} in line {error.lineno}") from error
