"""What the models of the catalog need, against the GPUs of a pod."""

from dataclasses import dataclass

from domain.gpu.inventory import describe_gpus
from domain.gpu.observation import Inventory
from domain.gpu.offers import Offer
from domain.gpu.summary import pod_state
from podctl.client import NotFound, PodctlClient
from podctl.pod_cache import cached_machine
from podctl.pods_file import KnownPods


@dataclass(frozen=True)
class PodGpus:
    """The GPUs of a pod, as its workflow knows them or as `pods.json` remembers them."""

    pod: str
    machine: Inventory | None
    #: Why they are only remembered, or not known at all; empty if they are what the pod's workflow says.
    note: str = ""


@dataclass(frozen=True)
class ModelOffers:
    """The catalog against one pod, or against none."""

    pod: str | None
    gpus: str
    note: str
    models: list[Offer]


async def pod_gpus(client: PodctlClient, known: KnownPods, pod: str) -> PodGpus:
    """Return a pod's GPUs, from its workflow where it has seen the machine, else as they were last seen."""
    try:
        state = await client.pod(pod)
    except NotFound:
        return remembered_gpus(known, pod, f"the server has no pod {pod}")
    if state.inventory is None:
        return remembered_gpus(
            known, pod, f"pod {pod} is {pod_state(state)}: {state.unreachable_reason or 'no look yet'}"
        )
    return PodGpus(pod, state.inventory)


def remembered_gpus(known: KnownPods, pod: str, why: str) -> PodGpus:
    """Return a pod's GPUs as `pods.json` remembers them. Rejected ``unknown_pod`` says which pods there are."""
    remembered = known.get(pod)
    if not remembered.gpus:
        return PodGpus(pod, None, f"the GPUs of pod {pod} are not known: {why}")
    return PodGpus(pod, cached_machine(remembered), f"GPUs of pod {pod} as last seen: {why}")


def describe(gpus: PodGpus | None) -> str:
    """Return a pod's GPUs in words; empty where they are not known."""
    return describe_gpus(gpus.machine) if gpus is not None and gpus.machine is not None else ""
