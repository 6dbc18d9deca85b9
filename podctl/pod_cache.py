"""What was last seen of this user's pods, kept in `pods.json` for when no server can be asked."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import JsonValue

from domain.gpu.inventory import describe_gpus, gpu_type
from domain.gpu.models import GpuPodState, shown_state
from domain.gpu.observation import Gpu, Inventory, Vllm
from podctl.listing import PodRow, held_gpus, setup_word, vllm_version
from podctl.pods_file import KnownPod, KnownPods, PodsFile

#: What has not changed is written down again no more often than this.
SEEN_AGAIN = timedelta(minutes=1)


def remember(file: PodsFile, states: Sequence[GpuPodState]) -> None:
    """Keep what was seen of known pods in the file, for a day without a server."""
    known = file.read()
    now = datetime.now(UTC)
    for state in states:
        pod = known.pods.get(state.name)
        if pod is None:
            continue
        news = _seen(state)
        before = pod.model_dump(mode="json")
        if any(before.get(field) != value for field, value in news.items()) or _is_old(before.get("seen_at"), now):
            file.update(state.name, **news, seen_at=now.isoformat(timespec="seconds"))


def _is_old(seen_at: object, now: datetime) -> bool:
    """Return whether it is time to write down that nothing has changed."""
    try:
        return not isinstance(seen_at, str) or now - datetime.fromisoformat(seen_at) > SEEN_AGAIN
    except (ValueError, TypeError):  # written by somebody else, perhaps without a zone
        return True


def cached_pod_row(known: KnownPods, name: str, *, state: str | None = None) -> PodRow:
    """Return a pod's row as `pods.json` remembers it; ``state`` says what is known better."""
    pod = known.pods[name]
    extra: Mapping[str, Any] = pod.model_extra or {}
    reachable = extra.get("reachable")
    remembered = "new" if reachable is None else "reachable" if reachable else "unreachable"
    return PodRow(
        name=name,
        active=known.active == name,
        ssh=pod.ssh,
        state=state or remembered,
        since=_text(extra.get("reachable_since")),
        reason=_text(extra.get("unreachable_reason")) or "",
        gpus=_gpus(pod),
        servers=_count(pod),
        vllm=_text(extra.get("vllm")),
        setup=_text(extra.get("setup")),
        cached=True,
        seen_at=_text(extra.get("seen_at")),
    )


def cached_machine(pod: KnownPod) -> Inventory:
    """Return the GPUs of a pod as `pods.json` remembers them."""
    gpus = tuple(
        Gpu(
            index=gpu.id,
            uuid=f"GPU-{gpu.id}",
            name=gpu.name,
            memory_total_mib=_mib(gpu.memory),
            mig=bool((gpu.model_extra or {}).get("mig")),
        )
        for gpu in pod.gpus
    )
    return Inventory(boot="", gpus=gpus, vllm=Vllm(version=_text((pod.model_extra or {}).get("vllm"))))


def _mib(memory: str) -> int | None:
    """Return what a remembered ``81559 MiB`` says; other tools that write the file say it so too."""
    found = re.match(r"\s*(\d+)\s*(?:MiB|MB)?\s*$", memory)
    return int(found.group(1)) if found else None


def _seen(state: GpuPodState) -> dict[str, JsonValue]:
    """Return what `pods.json` remembers of a pod: see ``cached_pod_row``."""
    gpus = state.inventory.gpus if state.inventory else ()
    return {
        "ssh": state.ssh.command,
        "gpus": [
            {
                "id": gpu.index,
                "name": gpu_type(gpu.name),
                "memory": f"{gpu.memory_total_mib} MiB" if gpu.memory_total_mib is not None else "unknown",
                **({"mig": True} if gpu.mig else {}),
            }
            for gpu in gpus
        ],
        "models": {
            server.name: {
                "model": server.model,
                "port": server.plan.port if server.plan else None,
                "gpu": [*held_gpus(state, server)],
                "pid": server.pid,
                "state": shown_state(state, server),
            }
            for server in state.servers.values()
            if not server.finished
        },
        "reachable": state.reachable,
        "reachable_since": state.since.isoformat(timespec="seconds"),
        "unreachable_reason": state.unreachable_reason,
        "vllm": vllm_version(state),
        "setup": setup_word(state),
    }


def _gpus(pod: KnownPod) -> str:
    return describe_gpus(cached_machine(pod)) if pod.gpus else ""


def _count(pod: KnownPod) -> dict[str, int]:
    states = [str(server.get("state", "unknown")) for server in pod.models.values() if isinstance(server, Mapping)]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
