from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import Rejected
from domain.gpu.catalog import ModelConfiguration, ModelEntry, builtin_catalog
from domain.gpu.leases import Lease
from domain.gpu.observation import Gpu, Inventory, Vllm
from domain.gpu.planning import plan_start, reserve
from domain.gpu.request import StartRequest
from tests.unit.gpu.pod import gpus, inventory, request


def lease(gpu: int, share: float, server: str = "other") -> Lease:
    return Lease(gpu=f"GPU-{gpu}", share=share, server=server)


def refusal(wanted: StartRequest, look: Inventory, held: list[Lease] | None = None) -> Rejected:
    with pytest.raises(Rejected) as refused:
        plan_start(wanted, look, held or [])
    return refused.value


def test_an_unknown_model_gets_one_gpu_and_vllms_defaults_spelled_out() -> None:
    plan = plan_start(request("n", "my/own"), inventory(2), [])
    assert plan.gpus == ("GPU-0",)
    assert plan.share == 0.9
    assert plan.argv == (
        "/opt/vllm", "serve", "my/own", "--host", "{loopback}", "--port", "8001", "--shutdown-timeout", "25",
        "--served-model-name", "my/own", "--gpu-memory-utilization", "0.9",
    )  # fmt: skip
    assert plan.environment == {
        "HF_HUB_ENABLE_HF_TRANSFER": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "VLLM_NO_USAGE_STATS": "1",
    }
    assert plan.served_name == "my/own"
    assert plan.internal_ports == (20_000, 20)


def test_least_used_gpus_first_ties_by_index() -> None:
    look = inventory(4)
    assert plan_start(request(), look, [lease(0, 0.3), lease(1, 0.1)]).gpus == ("GPU-2",)
    small = request(memory=0.2)
    held = [lease(0, 0.3), lease(1, 0.1), lease(2, 0.5), lease(3, 0.5)]
    assert plan_start(small, look, held).gpus == ("GPU-1",)


def test_a_gpu_is_shared_only_while_the_shares_fit() -> None:
    look = inventory(1)
    held = [lease(0, 0.3, "a"), lease(0, 0.3, "b")]
    assert plan_start(request(memory=0.4), look, held).share == 0.4
    refused = refusal(request(memory=0.5), look, held)
    assert refused.code == "no_room"
    assert refused.message == "qwen needs 0.5 of a GPU: GPU 0 is used by a (0.3) and b (0.3)"


def test_a_gpu_with_a_foreign_process_is_not_free() -> None:
    assert plan_start(request(), inventory(2, foreign=[0]), []).gpus == ("GPU-1",)
    assert (
        "GPU 0 is used by a process of somebody else (pid 900)" in refusal(request(), inventory(1, foreign=[0])).message
    )


def test_the_largest_count_that_fits_now_unless_it_is_said() -> None:
    entry = builtin_catalog().models["openai/gpt-oss-120b"]
    wanted = request("oss", "openai/gpt-oss-120b", entry=entry)
    look = inventory(8)
    assert len(plan_start(wanted, look, []).gpus) == 8
    assert len(plan_start(wanted, look, [lease(0, 0.9)]).gpus) == 4
    assert plan_start(wanted.model_copy(update={"gpus": 2}), look, [lease(0, 0.9)]).gpus == ("GPU-1", "GPU-2")


def test_a_count_without_an_entry_lists_those_there_are() -> None:
    entry = builtin_catalog().models["openai/gpt-oss-120b"]
    refused = refusal(request("oss", "openai/gpt-oss-120b", entry=entry, gpus=3), inventory(8))
    assert refused.code == "no_such_count"
    assert "1 x H100/H200; 2 x H100/H200; 4 x H100/H200; 8 x H100/H200" in refused.message


def test_a_machine_that_can_never_do_it_says_what_is_needed() -> None:
    entry = builtin_catalog().models["zai-org/GLM-4.5"]
    refused = refusal(request("glm", "zai-org/GLM-4.5", entry=entry), inventory(2))
    assert refused.code == "does_not_fit"
    assert refused.message == "zai-org/GLM-4.5 needs 16 x H100; or 8 x H200; this pod has 2 x H100"


def test_memory_decides_where_no_type_does() -> None:
    entry = ModelEntry(configurations=(ModelConfiguration(gpus=1, minimum_memory_gb=38),))
    wanted = request(entry=entry)
    small = inventory(1, "NVIDIA L4", gpus=gpus(1, "NVIDIA L4", 23_034))
    assert refusal(wanted, small).message.startswith("some/model needs 1 x GPU with at least 38 GB")
    unknown = inventory(1, gpus=gpus(1, memory=None))
    assert refusal(wanted, unknown).code == "does_not_fit"
    assert plan_start(wanted, inventory(1, gpus=gpus(1, memory=40_960)), []).gpus == ("GPU-0",)


def test_a_machine_of_two_kinds_uses_the_one_that_fits() -> None:
    mixed = (*gpus(1, "NVIDIA L4"), Gpu(index=1, uuid="GPU-1", name="NVIDIA H200", memory_total_mib=143_771))
    entry = builtin_catalog().models["zai-org/GLM-4.5-Air-FP8"]
    plan = plan_start(request("glm", "zai-org/GLM-4.5-Air-FP8", entry=entry), inventory(2, gpus=mixed), [])
    assert plan.gpus == ("GPU-1",)


def test_gpus_of_an_unknown_model_point_to_vllms_options() -> None:
    refused = refusal(request(gpus=2), inventory(2))
    assert refused.code == "unknown_model_gpus"
    assert "--vllm --tensor-parallel-size 2" in refused.message


def test_memory_and_context_replace_what_the_entry_had() -> None:
    entry = builtin_catalog().models["openai/gpt-oss-120b"]
    plan = plan_start(request("o", "m", entry=entry, memory="50%", context="32k"), inventory(1), [])
    assert plan.share == 0.5
    assert plan.argv.count("--gpu-memory-utilization") == 1
    assert " ".join(plan.argv).endswith("--gpu-memory-utilization 0.5 --max-model-len 32768")


def test_vllm_arguments_pass_unchanged_and_say_how_many_gpus_and_how_much() -> None:
    arguments = ("-tp", "2", "--pipeline_parallel_size=2", "--gpu-memory-utilization", "0.4", "--x", "a b $(c) 'd'")
    plan = plan_start(request("n", "m", arguments=arguments), inventory(4), [lease(0, 0.6)])
    assert plan.argv[-len(arguments) :] == arguments
    assert plan.gpus == ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
    assert plan.share == 0.4


def test_a_served_name_of_ones_own() -> None:
    plan = plan_start(request("n", "/models/x", arguments=("--served-model-name", "x")), inventory(1), [])
    assert plan.served_name == "x"
    assert plan.argv.count("--served-model-name") == 1


@pytest.mark.parametrize(
    "arguments", [("--tensor-parallel-size", "two"), ("--gpu-memory-utilization", "2"), ("--gpu-memory-utilization=x",)]
)
def test_arguments_that_planning_cannot_read(arguments: tuple[str, ...]) -> None:
    assert refusal(request(arguments=arguments), inventory(2)).code == "bad_argument"


@pytest.mark.parametrize(
    ("version", "there"), [(None, True), ("0.18.0", True), ("1.0", True), ("0.17.3", False), ("0.10.0rc2", False)]
)
def test_an_old_vllm_is_not_given_what_it_does_not_know(version: str | None, there: bool) -> None:
    plan = plan_start(request(), inventory(1, vllm=Vllm(version=version)), [])
    assert ("--shutdown-timeout" in plan.argv) is there
    assert plan.argv[0] == "vllm"


@pytest.mark.parametrize(
    ("look", "code", "says"),
    [
        (inventory(0, gpu_state="no_nvidia_smi"), "no_gpus", "no nvidia-smi on the machine"),
        (inventory(0, gpu_state="no_driver", gpu_message="NVIDIA-SMI has failed"), "no_gpus", "NVIDIA-SMI has failed"),
        (inventory(1, gpus=(gpus(1)[0].model_copy(update={"mig": True}),)), "mig_not_supported", "nvidia-smi -mig 0"),
    ],
)
def test_machines_that_cannot_start_anything(look: Inventory, code: str, says: str) -> None:
    refused = refusal(request(), look)
    assert refused.code == code
    assert says in refused.message


def test_a_mig_gpu_beside_others_is_left_out() -> None:
    first, second = gpus(2)
    look = inventory(2, gpus=(first.model_copy(update={"mig": True}), second))
    assert plan_start(request(), look, []).gpus == ("GPU-1",)


def test_ports_are_the_lowest_that_are_free() -> None:
    plan = plan_start(request(), inventory(1), [], ports={8001, 8002, 8004, 20_005, 20_039})
    assert plan.port == 8003
    assert plan.internal_ports == (20_040, 20)


def test_a_reservation_is_for_whole_gpus_nearest_to_free() -> None:
    look = inventory(3, foreign=[0])
    wanted = request("big", arguments=("--tensor-parallel-size", "2"))
    kept = reserve(wanted, look, [lease(1, 0.9), lease(2, 0.5)])
    assert [(k.gpu, k.share) for k in kept] == [("GPU-2", 1.0), ("GPU-1", 1.0)]


@given(st.lists(st.sampled_from([0.05, 0.1, 0.25, 0.3, 0.45, 0.7, 0.9, 1.0]), max_size=30), st.integers(1, 4))
def test_shares_never_exceed_a_gpu_and_ports_never_meet(shares: list[float], count: int) -> None:
    look = inventory(count)
    held: list[Lease] = []
    ports: set[int] = set()
    for number, share in enumerate(shares):
        with suppress(Rejected):
            plan = plan_start(request(f"s{number}", memory=share), look, held, ports)
            assert not ports & set(plan.ports)
            ports |= set(plan.ports)
            held += [Lease(gpu=gpu, share=plan.share, server=f"s{number}") for gpu in plan.gpus]
    for gpu in look.gpus:
        assert sum(lease.share for lease in held if lease.gpu == gpu.uuid) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("0.11.2", "vllm_too_old"),
        ("0.9", "vllm_too_old"),
        ("0.23.0rc1", None),
        ("0.23.0+cu129", None),
        ("1.0", None),
        ("0.1.dev1+g1234567", None),
        ("0.22.1rc2.dev300+gabc", None),
        (None, None),
    ],
)
def test_a_model_that_needs_a_newer_vllm_is_refused_on_an_older_one(version: str | None, code: str | None) -> None:
    entry = ModelEntry(configurations=(ModelConfiguration(gpus=1),), min_vllm_version="0.23.0")
    look = inventory(1, vllm=Vllm(version=version))
    if code is None:
        assert plan_start(request(entry=entry), look, []).gpus == ("GPU-0",)
    else:
        refused = refusal(request(entry=entry), look)
        assert refused.code == code
        assert f"needs vLLM 0.23.0 or newer; this pod has {version}" in refused.message
        # Whoever gives vLLM's own arguments knows better.
        assert plan_start(request(entry=entry, arguments=()), look, []).gpus == ("GPU-0",)


def test_an_entry_may_prefer_the_fewest_gpus() -> None:
    configurations = tuple(ModelConfiguration(gpus=count) for count in (4, 1, 2))
    entry = ModelEntry(configurations=configurations, prefers="fewest_gpus")
    assert len(plan_start(request(entry=entry), inventory(4), []).gpus) == 1
    assert len(plan_start(request(entry=entry, gpus=4), inventory(4), []).gpus) == 4
    # One that waits keeps the GPUs of its smallest way, whichever way it prefers.
    for prefers in ("fewest_gpus", "most_gpus"):
        waiting = request(entry=entry.model_copy(update={"prefers": prefers}))
        assert len(reserve(waiting, inventory(4), [lease(index, 0.9) for index in range(4)])) == 1


#: Configurations as a catalog may have them: any mixture of counts, types and sizes.
CONFIGURATIONS = st.builds(
    ModelConfiguration,
    gpus=st.integers(1, 5),
    types=st.sampled_from([(), ("H100",), ("H200", "H20"), ("L4",)]),
    minimum_memory_gb=st.sampled_from([None, 20.0, 80.0]),
    arguments=st.sampled_from([(), ("--gpu-memory-utilization", "0.5"), ("--max-model-len=4096", "--x")]),
)
MACHINES = st.lists(
    st.sampled_from([("NVIDIA H100 PCIe", 81_559), ("NVIDIA H200", 143_771), ("NVIDIA L4", 23_034), ("Odd", None)]),
    min_size=1,
    max_size=8,
)


@st.composite
def starts(draw: st.DrawFn) -> tuple[StartRequest, Inventory, list[Lease]]:
    """A request, a machine with foreign processes and MIG on some GPUs, and leases that are possible there."""
    kinds = draw(MACHINES)
    mig = draw(st.sets(st.integers(0, 7)))
    all_gpus = tuple(
        Gpu(index=index, uuid=f"GPU-{index}", name=name, memory_total_mib=memory, mig=index in mig)
        for index, (name, memory) in enumerate(kinds)
    )
    foreign = [index for index in range(len(kinds)) if draw(st.booleans()) and draw(st.booleans())]
    look = inventory(len(kinds), gpus=all_gpus, foreign=foreign)
    held = [lease(index, draw(st.sampled_from([0.1, 0.5, 0.9]))) for index in range(len(kinds)) if draw(st.booleans())]
    if draw(st.booleans()):
        split = str(draw(st.integers(1, 4)))
        arguments = ("--tensor-parallel-size", split, "--x", draw(st.text(max_size=5)).replace("\0", ""))
        return request(arguments=arguments), look, held
    entry = draw(st.none() | st.builds(ModelEntry, configurations=st.lists(CONFIGURATIONS, min_size=1, max_size=5)))
    count = draw(st.none() | st.integers(1, 5))
    memory = draw(st.none() | st.sampled_from([0.2, 0.9, 1.0]))
    context = draw(st.none() | st.sampled_from([4096, 131_072]))
    return request(entry=entry, gpus=count, memory=memory, context=context), look, held


@given(starts())
def test_every_plan_keeps_the_rules(drawn: tuple[StartRequest, Inventory, list[Lease]]) -> None:
    wanted, look, held = drawn
    try:
        plan = plan_start(wanted, look, held, ports={8001, 20_000})
    except Rejected:
        return
    used = {gpu.uuid: sum(one.share for one in held if one.gpu == gpu.uuid) for gpu in look.gpus}
    foreign = {app.gpu_uuid for app in look.compute_apps}
    by_uuid = {gpu.uuid: gpu for gpu in look.gpus}
    assert len(set(plan.gpus)) == len(plan.gpus)
    assert [by_uuid[uuid].index for uuid in plan.gpus] == sorted(by_uuid[uuid].index for uuid in plan.gpus)
    for uuid in plan.gpus:
        assert uuid not in foreign
        assert not by_uuid[uuid].mig
        assert used[uuid] + plan.share <= 1 + 1e-6
    assert plan.port == 8002
    assert plan.internal_ports == (20_020, 20)
    if wanted.arguments is not None:
        assert plan.argv[-len(wanted.arguments) :] == wanted.arguments or "--gpu-memory-utilization" in plan.argv
        assert list(wanted.arguments) == [a for a in plan.argv if a in wanted.arguments][-len(wanted.arguments) :]
    for option, value in (("--gpu-memory-utilization", wanted.memory), ("--max-model-len", wanted.context)):
        given_as = [a for a in plan.argv if a == option or a.startswith(f"{option}=")]
        assert len(given_as) <= 1
        if value is not None:
            assert plan.argv[plan.argv.index(option) + 1] == f"{value:g}" if option[2] == "g" else str(value)
    if wanted.gpus is not None:
        assert len(plan.gpus) == wanted.gpus


@given(starts())
def test_a_start_that_waits_could_ever_be_served(drawn: tuple[StartRequest, Inventory, list[Lease]]) -> None:
    wanted, look, held = drawn
    free = look.model_copy(update={"compute_apps": ()})
    now, ever = code_of(wanted, look, held), code_of(wanted, free, [])
    assert ever == (None if now == "no_room" else now)


def code_of(wanted: StartRequest, look: Inventory, held: list[Lease]) -> str | None:
    """Why a start is refused; None: it is not."""
    try:
        plan_start(wanted, look, held)
    except Rejected as refused:
        return refused.code
    return None


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8]), min_size=1, max_size=8))
def test_the_least_used_gpu_is_taken_ties_by_index(shares: list[float]) -> None:
    held = [lease(index, share) for index, share in enumerate(shares) if share]
    plan = plan_start(request(memory=0.2), inventory(len(shares)), held)
    assert plan.gpus == (f"GPU-{shares.index(min(shares))}",)
