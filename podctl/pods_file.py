"""`pods.json`: which GPU pods this user knows, and which one is active.

Everything else in it is a cache of what a pod's workflow owns, so that pods can be listed offline. Fields that this
version does not know are kept as they are.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from domain.errors import BadInput, Rejected
from domain.ids import Name, check_name
from podctl.files import only_one, write_atomically

_DECODER = json.JSONDecoder()


class KnownGpu(BaseModel):
    """A GPU as it was last seen."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: int
    name: str
    memory: str


class KnownPod(BaseModel):
    """A pod's SSH command as the user gave it, and what was last seen there."""

    model_config = ConfigDict(frozen=True, extra="allow", validate_by_name=True, validate_by_alias=True)

    ssh: str = Field(min_length=1)
    gpus: tuple[KnownGpu, ...] = ()
    models: Mapping[str, JsonValue] = Field(default_factory=dict)
    models_path: str | None = Field(default=None, alias="modelsPath")
    vllm_version: str | None = Field(default=None, alias="vllmVersion")


class KnownPods(BaseModel):
    """The content of the file; ``active`` is one of ``pods`` or None."""

    model_config = ConfigDict(frozen=True, extra="allow")

    pods: Mapping[Name, KnownPod] = Field(default_factory=dict)
    active: str | None = None

    def choose(self, name: str | None) -> str:
        """Return ``name`` if it is known, the active pod for None; Rejected says which pods there are."""
        if name is not None:
            self.get(name)
            return name
        if self.active is None:
            raise Rejected(
                "no_active_pod", f"no pod is active: name one, or `podctl pods active NAME` ({self._known()})"
            )
        return self.active

    def get(self, name: str) -> KnownPod:
        """Return the pod called ``name``; Rejected('unknown_pod') says which pods there are."""
        if name not in self.pods:
            raise Rejected("unknown_pod", f"no pod is called {name!r} ({self._known()})")
        return self.pods[name]

    def _known(self) -> str:
        if not self.pods:
            return 'none is known yet: podctl pods add NAME "ssh …"'
        return f"known: {', '.join(sorted(self.pods))}"


class PodsFile:
    """Reads and changes `pods.json`; several processes may change it at once and none loses another's change."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> KnownPods:
        """Return what the file says, nothing if there is none; BadInput names file and line of what is broken."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return KnownPods()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{self.path} cannot be read: {error}") from error
        return self._parse(text)

    def add(self, name: str, pod: KnownPod) -> KnownPods:
        """Remember a pod; the first one becomes active. Adding it again as it is changes nothing."""
        check_name("pod", name)
        with self._alone():
            known = self.read()
            if name not in known.pods:
                return self._write({**known.pods, name: pod}, known.active if known.pods else name, known)
            if known.pods[name].ssh != pod.ssh:
                raise Rejected(
                    "pod_exists",
                    f"pod {name} is known as {known.pods[name].ssh!r}: "
                    f'`podctl pods set {name} "{pod.ssh}"` changes its address',
                )
            return known

    def update(self, name: str, **changes: object) -> KnownPods:
        """Replace fields of a known pod: its ``ssh``, or what was last seen there."""
        with self._alone():
            known = self.read()
            pod = KnownPod.model_validate({**known.get(name).model_dump(), **changes})
            return self._write({**known.pods, name: pod}, known.active, known)

    def remove(self, name: str) -> KnownPods:
        """Forget a pod; if it was the active one, none is active then."""
        with self._alone():
            known = self.read()
            known.get(name)
            pods = {other: pod for other, pod in known.pods.items() if other != name}
            return self._write(pods, None if known.active == name else known.active, known)

    def activate(self, name: str) -> KnownPods:
        """Make a known pod the active one."""
        with self._alone():
            known = self.read()
            known.get(name)
            return self._write(known.pods, name, known)

    def _alone(self) -> AbstractContextManager[None]:
        return only_one(self.path.with_name(self.path.name + ".lock"))

    def _write(self, pods: Mapping[str, KnownPod], active: str | None, before: KnownPods) -> KnownPods:
        known = before.model_copy(update={"pods": dict(pods), "active": active})
        content = known.model_dump(mode="json", by_alias=True, exclude_none=True)
        # The key stands there also when no pod is active: other tools that read this file expect it.
        write_atomically(self.path, json.dumps({**content, "active": active}, indent=2, ensure_ascii=False) + "\n")
        return known

    def _parse(self, text: str) -> KnownPods:
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"{self.path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
        try:
            known = KnownPods.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise self._broken(text, first["loc"], first["msg"]) from error
        if known.active is not None and known.active not in known.pods:
            raise self._broken(text, ("active",), f"{known.active!r} is none of the pods in this file")
        return known

    def _broken(self, text: str, location: Sequence[int | str], message: str) -> BadInput:
        field = ".".join(str(part) for part in location) or "the whole file"
        return BadInput(f"{self.path}:{_line_of(text, location)}: {field}: {message}")


def _line_of(text: str, location: Sequence[int | str]) -> int:
    """Return the line where the value at ``location`` stands in valid JSON, or its nearest parent that is there."""
    position = _skip_space(text, 0)
    for part in location:
        child = dict(_children(text, position)).get(part)
        if child is None:
            break
        position = child
    return text.count("\n", 0, position) + 1


def _children(text: str, position: int) -> Iterator[tuple[int | str, int]]:
    """Yield key or index and position of each value inside the object or array that begins at ``position``."""
    closing = {"{": "}", "[": "]"}.get(text[position])
    if closing is None:
        return
    is_object = closing == "}"
    position = _skip_space(text, position + 1)
    index = 0
    while text[position] != closing:
        key: int | str = index
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            position = _skip_space(text, _skip_space(text, position) + 1)
        yield key, position
        position = _skip_space(text, _DECODER.raw_decode(text, position)[1])
        if text[position] == ",":
            position = _skip_space(text, position + 1)
        index += 1


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
