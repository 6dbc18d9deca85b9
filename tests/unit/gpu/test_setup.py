"""Setting up a machine: what is accepted, which step comes when, what follows from each outcome."""

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import BadInput, Rejected
from domain.gpu.commands import (
    Command,
    InspectionFailed,
    PodObserved,
    PodUnreachable,
    SetupStepDone,
    SetupStepFailed,
    StartSetup,
)
from domain.gpu.observation import Vllm
from domain.gpu.schedule import Inspect, Launch, SetUp
from domain.gpu.setup import STEPS, Setup, check_models_path, check_vllm, split_mount
from domain.gpu.summary import summary_markdown
from tests.unit.gpu.pod import Pod, inventory, running, types

MOUNT = ("mount", "-t", "nfs", "files:/models", "/mnt/models")
ON_THE_MACHINE = ("mount", "models", "uv", "venv", "install", "verify")
OUTCOMES = {
    "models": {"models_path": "/mnt/models"},
    "venv": {"version": "0.33.0"},
    "verify": {"program": "/root/.podctl/vllm/0.33.0/bin/vllm"},
}


def setup_of(pod: Pod) -> Setup:
    assert pod.state.setup is not None
    return pod.state.setup


def action(pod: Pod) -> SetUp:
    [found] = [action for action in pod.actions().values() if isinstance(action, SetUp)]
    return found


def states(pod: Pod) -> dict[str, str]:
    return {step.name: step.state for step in setup_of(pod).steps}


def look(pod: Pod, **fields: Any) -> None:  # noqa: ANN401 - the model checks them
    pod.observe(inventory=inventory(2, **{"vllm": Vllm(), **fields}))


def done(pod: Pod, **fields: str) -> None:
    """Let the machine do the step that is under way."""
    asked = action(pod)
    given = {**OUTCOMES.get(asked.step, {}), **fields}
    pod.do(SetupStepDone(launch_id=asked.launch_id, message=f"{asked.step} it is", **given))


def failed(pod: Pod, code: str = "no_network") -> None:
    pod.do(SetupStepFailed(launch_id=action(pod).launch_id, code=code, message="no route", advice="look at it"))


def complete(pod: Pod, **request: object) -> None:
    pod.do(StartSetup.model_validate(request))
    look(pod)
    while setup_of(pod).state == "running":
        done(pod)


def test_the_steps_are_done_in_their_order_each_by_a_launch_of_its_own() -> None:
    pod = Pod()
    assert types(pod.do(StartSetup(mount=MOUNT))) == ["setup_started"]
    assert states(pod) == dict.fromkeys(STEPS, "pending") | {"connect": "running"}
    assert not [one for one in pod.actions().values() if isinstance(one, SetUp)]
    look(pod)
    launches = []
    for step in ON_THE_MACHINE:
        assert action(pod).step == step
        assert states(pod)[step] == "running"
        launches.append(action(pod).launch_id)
        done(pod)
    assert setup_of(pod).state == "completed"
    assert set(states(pod).values()) == {"done"}
    assert len(set(launches)) == len(launches)
    assert launches[0].startswith("box/setup-mount/1-1-")
    assert pod.state.models_path == "/mnt/models"
    assert [(one.spec, one.version) for one in pod.state.vllm] == [("release", "0.33.0")]
    assert types(pod.events)[-1] == "setup_completed"
    told = [event.payload["step"] for event in pod.events if event.type == "setup_step_done"]
    assert told == list(STEPS)


def test_without_a_mount_there_is_no_such_step() -> None:
    pod = Pod(inventory(1))
    pod.do(StartSetup())
    assert list(states(pod)) == [step for step in STEPS if step != "mount"]


def test_the_machine_is_looked_at_anew_before_it_is_checked() -> None:
    pod = Pod(inventory(1))
    pod.later(3_600)
    pod.do(StartSetup())
    assert states(pod)["connect"] == "done"
    assert states(pod)["check"] == "running"
    assert any(isinstance(one, Inspect) for one in pod.actions().values())
    look(pod)
    assert states(pod)["check"] == "done"


@pytest.mark.parametrize(
    ("fields", "code"), [({"gpu_state": "no_driver", "gpus": ()}, "no_driver"), ({"gpus": ()}, "no_gpus")]
)
def test_a_machine_without_gpus_or_driver_is_refused_with_advice(fields: dict[str, object], code: str) -> None:
    pod = Pod()
    pod.do(StartSetup())
    look(pod, **fields)
    failure = setup_of(pod).failure
    assert failure is not None
    assert (failure.step, failure.code) == ("check", code)
    assert "nvidia-smi" in failure.advice
    assert setup_of(pod).state == "failed"
    assert not [one for one in pod.actions().values() if isinstance(one, SetUp)]


def test_little_space_is_a_warning_and_nothing_more() -> None:
    pod = Pod()
    pod.do(StartSetup())
    look(pod, disk_free_bytes=5_000_000_000)
    check = next(step for step in setup_of(pod).steps if step.name == "check")
    assert check.state == "done"
    assert "5 GB free" in check.message
    assert "warning" in check.message


def test_a_failed_step_ends_the_setup_and_a_new_one_goes_through_all_steps_again() -> None:
    pod = Pod()
    pod.do(StartSetup(mount=MOUNT, vllm="==0.33.0"))
    look(pod)
    done(pod)
    first = action(pod).launch_id
    failed(pod)
    assert (setup_of(pod).state, states(pod)["mount"], states(pod)["models"]) == ("failed", "done", "failed")
    assert states(pod)["uv"] == "pending"
    pod.do(StartSetup())
    assert setup_of(pod).request.mount == MOUNT
    assert setup_of(pod).request.vllm == "==0.33.0"
    assert setup_of(pod).failure is None
    look(pod)
    assert action(pod).step == "mount"
    done(pod)
    assert action(pod).launch_id != first


def test_what_is_not_said_is_as_before_and_nothing_can_be_said_too() -> None:
    pod = Pod()
    complete(pod, mount=MOUNT)
    assert setup_of(pod).request.models_path == "/mnt/models"
    pod.do(StartSetup(mount=(), models_path="/data"))
    assert (setup_of(pod).request.mount, setup_of(pod).request.models_path) == ((), "/data")


def test_the_same_setup_asked_for_twice_is_one_and_another_one_is_refused() -> None:
    pod = Pod(inventory(1))
    pod.do(StartSetup(vllm="nightly"))
    before = setup_of(pod)
    assert pod.do(StartSetup()) == []
    assert pod.do(StartSetup(vllm="nightly")) == []
    assert setup_of(pod) == before
    with pytest.raises(Rejected, match="setup_running") as refused:
        pod.do(StartSetup(vllm="release"))
    assert "podctl pods setup box" in refused.value.message


def test_an_unreachable_machine_is_waited_for() -> None:
    pod = Pod()
    pod.do(StartSetup())
    pod.do(PodUnreachable(reason="no route to host"))
    assert states(pod)["connect"] == "running"
    assert set(pod.actions()) == {"watch/0"}
    look(pod)
    launch = action(pod).launch_id
    pod.do(PodUnreachable(reason="no route to host"))
    assert set(pod.actions()) == {"watch/0"}
    pod.observe()
    assert action(pod).launch_id == launch


def test_a_machine_that_cannot_be_looked_at_is_looked_at_again() -> None:
    pod = Pod(inventory(1))
    pod.do(StartSetup())
    pod.do(InspectionFailed(reason="nvidia-smi hangs"))
    assert states(pod)["check"] == "running"
    look(pod)
    assert states(pod)["check"] == "done"


def test_a_reboot_in_the_middle_begins_again_under_other_ids_but_not_for_ever() -> None:
    pod = Pod()
    pod.do(StartSetup(mount=MOUNT))
    look(pod)
    seen = set()
    for number in itertools.count(2):
        done(pod)
        seen.add(action(pod).launch_id)
        failed(pod, "interrupted")
        if setup_of(pod).state == "failed":
            break
        assert (setup_of(pod).round, setup_of(pod).number) == (number, 1)
        assert states(pod)["mount"] == "pending"
        look(pod)
    assert len(seen) == setup_of(pod).round == 5
    assert "setup_interrupted" in types(pod.events)


def test_reports_of_another_step_or_an_earlier_setup_change_nothing() -> None:
    pod = Pod()
    pod.do(StartSetup())
    look(pod)
    late = action(pod).launch_id
    failed(pod)
    pod.do(StartSetup())
    look(pod)
    before = setup_of(pod)
    pod.do(SetupStepDone(launch_id=late, message="late"))
    pod.do(SetupStepFailed(launch_id=late, code="x", message="late", advice=""))
    pod.do(SetupStepDone(launch_id=before.launch_id("box", "install"), message="not its turn"))
    assert setup_of(pod) == before


def test_a_pod_added_anew_under_the_same_name_takes_no_result_of_its_earlier_life() -> None:
    first, second = Pod(), Pod()
    first.do(StartSetup(), command_id="one")
    second.do(StartSetup(), command_id="two")
    look(first)
    look(second)
    assert action(first).launch_id != action(second).launch_id


def test_model_servers_wait_for_the_vllm_that_is_on_its_way() -> None:
    pod = Pod()
    pod.do(StartSetup(mount=MOUNT))
    look(pod)
    pod.start()
    assert pod.server().state == "pending"
    while setup_of(pod).state == "running":
        done(pod)
    plan = pod.server().plan
    assert plan is not None
    assert plan.argv[0] == "/root/.podctl/vllm/0.33.0/bin/vllm"
    assert plan.environment["HF_HUB_CACHE"] == "/mnt/models/huggingface/hub"
    assert "HF_HOME" not in plan.environment


def test_where_vllm_is_on_path_nobody_waits_for_a_setup() -> None:
    pod = Pod(inventory(1))
    pod.do(StartSetup())
    look(pod, vllm=Vllm(program="/usr/bin/vllm"))
    pod.start()
    plan = pod.server().plan
    assert plan is not None
    assert plan.argv[0] == "/usr/bin/vllm"
    assert "HF_HUB_CACHE" not in plan.environment


def test_a_running_server_keeps_its_vllm_and_the_next_start_takes_the_newest() -> None:
    pod = Pod()
    complete(pod)
    pod.start("a")
    pod.ready("a")
    pod.do(StartSetup(vllm="nightly"))
    pod.observe(running("box/a/1", ready=True), inventory=inventory(2))
    version = "0.34.0.dev1+gabc"
    told = {"venv": {"version": version}, "verify": {"program": f"/p/{version}/vllm"}}
    while setup_of(pod).state == "running":
        done(pod, **told.get(action(pod).step, {}))
    old = pod.server("a").plan
    assert old is not None
    assert old.argv[0].endswith("0.33.0/bin/vllm")
    assert pod.server("a").state == "ready"
    assert [one.version for one in pod.state.vllm] == ["0.33.0", "0.34.0.dev1+gabc"]
    pod.start("b")
    new = pod.server("b").plan
    assert new is not None
    assert new.argv[0] == "/p/0.34.0.dev1+gabc/vllm"
    [launch] = [one for one in pod.actions().values() if isinstance(one, Launch)]
    assert launch.plan.argv[0] == new.argv[0]


def test_later_looks_at_the_machine_ask_for_the_installed_vllm_and_do_not_fall_back() -> None:
    pod = Pod()
    complete(pod)
    pod.observe(inventory=inventory(2, vllm=Vllm(program=None)))
    assert pod.state.inventory is not None
    assert pod.state.inventory.vllm == Vllm(program="/root/.podctl/vllm/0.33.0/bin/vllm", version="0.33.0")
    pod.do(StartSetup())
    [inspect] = [one for one in pod.actions().values() if isinstance(one, Inspect)]
    assert inspect.vllm == "/root/.podctl/vllm/0.33.0/bin/vllm"


def test_the_web_ui_shows_a_setup() -> None:
    pod = Pod()
    pod.do(StartSetup(mount=MOUNT))
    look(pod)
    text = summary_markdown(pod.state)
    assert "Setup 1: **running**, asked for by ann" in text
    assert "| mount | running |" in text
    failed(pod)
    assert "no route; look at it" in summary_markdown(pod.state)
    complete(pod)
    text = summary_markdown(pod.state)
    assert "vLLM 0.33.0: `/root/.podctl/vllm/0.33.0/bin/vllm`" in text
    assert "models in `/mnt/models`" in text


# -- what people write


def test_a_mount_command_is_words() -> None:
    assert split_mount("sudo mount -t nfs -o nconnect=16 nfs.example.com:/p '/mnt/my models'") == (
        "sudo", "mount", "-t", "nfs", "-o", "nconnect=16", "nfs.example.com:/p", "/mnt/my models",
    )  # fmt: skip
    assert split_mount("") == ()


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("mount a /b; rm -rf /", "';'"),
        ("mount a /b && echo", "'&'"),
        ("mount a /b | cat", "'|'"),
        ("mount a /b > /tmp/log", "'>'"),
        ("mount a /b < /tmp/log", "'<'"),
        ("mount $SERVER /b", "'$'"),
        ("mount `hostname` /b", "'`'"),
        ("(mount a /b)", "'('"),
        ("mount a /b\nreboot", "a line break"),
        ("mount 'a /b", "No closing quotation"),
        ("mount", "what it mounts where"),
        ("mount a ~/models", "'~'"),
        ("mount -o user=x,password=y a /b", "password"),
    ],
)
def test_what_only_a_shell_understands_is_refused_by_name(command: str, named: str) -> None:
    with pytest.raises(BadInput) as refused:
        split_mount(command)
    assert named in str(refused.value)


def test_the_rules_refuse_them_too_whoever_sends_them() -> None:
    pod = Pod(inventory(1))
    bad: list[dict[str, object]] = [
        {"mount": ("mount", "a;reboot", "/b")},
        {"mount": ("mount", "files:/models", "models")},
        {"models_path": "models"},
        {"models_path": "/mnt/a\nb"},
        {"vllm": "latest"},
        {"vllm": "==0.1; reboot"},
        {"vllm": "==../../etc"},
        {"vllm": ">=0.10.0"},
    ]
    for fields in bad:
        with pytest.raises(Rejected, match="bad_setup"):
            pod.do(StartSetup.model_validate(fields))
    assert pod.state.setup is None


@pytest.mark.parametrize("path", ['/mnt/it\'s "here"', "/mnt/möbel/模型", "~/models", "/" + "x" * 300])
def test_odd_paths_are_taken_literally(path: str) -> None:
    check_models_path(path)
    pod = Pod(inventory(1))
    pod.do(StartSetup(models_path=path))
    assert setup_of(pod).request.models_path == path


@pytest.mark.parametrize("spec", ["release", "nightly", "gpt-oss", "==0.10.1+gptoss", "==0.33.0rc1.dev2+gabc"])
def test_which_vllm_can_be_asked_for(spec: str) -> None:
    check_vllm(spec)


@given(st.text(max_size=60))
def test_any_text_is_words_without_shell_characters_or_is_refused(command: str) -> None:
    try:
        words = split_mount(command)
    except BadInput:
        return
    assert not any(character in word for word in words for character in ";|&<>$`()\n\r\0")


# -- any order of reports

LAUNCH_IDS = st.builds(
    lambda step, number, round_, pod: f"{pod}/setup-{step}/{number}-{round_}-IDENTITY",
    st.sampled_from(STEPS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["box", "other"]),
)
COMMANDS: st.SearchStrategy[Command | str] = st.one_of(
    st.sampled_from(["done", "done", "done", "failed", "interrupted", "late"]),
    st.builds(SetupStepDone, launch_id=LAUNCH_IDS, message=st.just("m")),
    st.builds(SetupStepFailed, launch_id=LAUNCH_IDS, code=st.just("x"), message=st.just("m"), advice=st.just("a")),
    st.builds(StartSetup, vllm=st.sampled_from([None, "release", "nightly"]), mount=st.sampled_from([None, MOUNT])),
    st.builds(PodUnreachable, reason=st.just("no route")),
    st.builds(
        PodObserved,
        boot=st.just("boot-1"),
        inventory=st.sampled_from([None, inventory(1), inventory(0)]),
        known_boot=st.just("boot-1"),
        expected=st.just(()),
    ),
)


def check_sane(pod: Pod) -> None:
    setup = pod.state.setup
    if setup is None:
        return
    kinds = [step.state for step in setup.steps]
    # Done ones, then at most one that runs or failed, then those to come.
    order = {"done": 0, "running": 1, "failed": 1, "pending": 2}
    assert [order[kind] for kind in kinds] == sorted(order[kind] for kind in kinds)
    assert kinds.count("running") == (1 if setup.state == "running" else 0)
    assert kinds.count("failed") == (1 if setup.state == "failed" else 0) == (setup.failure is not None)
    assert (setup.state == "completed") == (set(kinds) == {"done"})
    if setup.state == "completed":
        assert pod.state.vllm
    assert sum(isinstance(one, SetUp) for one in pod.actions().values()) <= 1


@given(st.lists(COMMANDS, max_size=30))
@settings(max_examples=200)
def test_any_order_of_outcomes_and_repeats_ends_in_a_sane_state(script: list[Command | str]) -> None:
    pod = Pod(inventory(1))
    pod.do(StartSetup())
    before: list[str] = []
    for command in script:
        pod.later(1)
        asked = [one for one in pod.actions().values() if isinstance(one, SetUp)]
        if not isinstance(command, str):
            with suppress(Rejected):  # another setup is under way
                pod.do(command)
        elif command == "late" and before:
            pod.do(SetupStepDone(launch_id=before[0], message="late"))
        elif asked and command == "done":
            before.append(asked[0].launch_id)
            done(pod)
        elif asked:
            before.append(asked[0].launch_id)
            failed(pod, command)
        check_sane(pod)
