import json

from domain.gpu.commands import PodUnreachable, Remove
from domain.gpu.models import PodAddress
from domain.gpu.summary import memo, search_attributes, summary_markdown
from tests.unit.gpu.pod import Pod, exited, inventory, running, stopped


def test_the_summary_shows_the_machine_its_gpus_and_servers() -> None:
    pod = Pod(inventory(2))
    pod.attach("one", "a")
    pod.start("b", model="a|weird\n`model`".replace("\n", " "))
    pod.observe(running("box/a/1"), exited("box/b/1"), running("box/orphan/1"))
    text = summary_markdown(pod.state)
    assert "**box** is **reachable**" in text
    assert "- GPU 0 NVIDIA H100 80GB HBM3: a 90%" in text
    assert "| a | some/model | loading | box/a/1 | 8001 | one |" in text
    assert "a\\|weird \\`model\\`" in text
    assert "`box/orphan/1`" in text
    assert "free" in summary_markdown(Pod(inventory(1)).state)


def test_an_unreachable_pod_says_why() -> None:
    pod = Pod(inventory(1))
    pod.do(PodUnreachable(reason="no route to host"))
    assert "**unreachable** since 2026-01-01 00:00:00 UTC: no route to host" in summary_markdown(pod.state)


def test_the_memo_is_enough_to_reach_the_machine() -> None:
    pod = Pod(inventory(1))
    pod.start("a")
    pod.start("b")
    pod.stop("b")
    told = json.loads(json.dumps(memo(pod.state)))
    address = PodAddress.model_validate(told["address"])
    assert (address.ssh.host, address.ssh.port, address.host_key) == ("203.0.113.7", 2222, "ssh-ed25519 AAAA")
    assert told["servers"] == {"launching": 1, "stopped": 1}
    assert told["gpus"] == "1 x H100"
    assert told["state"] == "reachable"


def test_pods_are_found_by_state_and_models() -> None:
    pod = Pod()
    assert search_attributes(pod.state).state == "new"
    pod.observe(inventory=inventory(2))
    pod.start("b", model="m/two")
    pod.start("a", model="m/one")
    found = search_attributes(pod.state)
    assert (found.state, found.gpu_pod, found.models) == ("reachable", "box", ("m/one", "m/two"))
    pod.stop("a")
    pod.do(stopped("box/a/1"))
    assert search_attributes(pod.state).models == ("m/two",)
    pod.do(PodUnreachable(reason="x"))
    assert search_attributes(pod.state).state == "unreachable"
    pod.do(Remove(lost=True))
    assert search_attributes(pod.state).state == "removed"
