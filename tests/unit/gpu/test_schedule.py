from datetime import timedelta

from domain.gpu.beliefs import differs, newer
from domain.gpu.commands import HolderTold, PodUnreachable, Remove
from domain.gpu.observation import Exit, Observation
from domain.gpu.schedule import Launch, Notify, Stop, Watch, is_settled, next_actions
from domain.gpu.summary import memo
from tests.unit.gpu.pod import EPOCH, Pod, exited, inventory, running, stopped

LAUNCH = "box/qwen/1"


def watch_of(pod: Pod) -> Watch:
    watch = pod.actions()["watch/0"]
    assert isinstance(watch, Watch)
    return watch


def notices(pod: Pod) -> dict[str, Notify]:
    return {key: action for key, action in pod.actions().items() if isinstance(action, Notify)}


def sees_news(pod: Pod, *launches: Observation) -> bool:
    watch = watch_of(pod)
    owned = newer(launches, pod.state.name, watch.counters, watch.counter_floor)
    return differs(launches, watch.beliefs, {*watch.expected, *owned})


def test_a_new_pod_is_looked_at_before_it_is_watched() -> None:
    pod = Pod()
    assert list(pod.actions()) == ["inspect/0"]
    pod.do(PodUnreachable(reason="connection refused"))
    assert list(pod.actions()) == ["watch/0"]
    assert watch_of(pod).reachable is False
    pod.observe()
    assert list(pod.actions()) == ["watch/0", "inspect/0"]


def test_a_healthy_pod_is_watched_and_nothing_else_for_ever() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.ready()
    for days in (0, 1, 100):
        assert [a.type for a in next_actions(pod.state, EPOCH + timedelta(days=days))] == ["watch"]


def test_what_is_to_be_done_is_the_same_until_it_is_reported() -> None:
    pod = Pod(inventory(1))
    pod.start()
    assert pod.actions() == pod.actions()
    launch = pod.actions()[f"launch/{LAUNCH}"]
    assert isinstance(launch, Launch)
    assert launch.launch_id == LAUNCH
    assert launch.plan == pod.server().plan
    pod.launched()
    assert f"launch/{LAUNCH}" not in pod.actions()
    pod.stop(grace=7)
    stop = pod.actions()[f"stop/{LAUNCH}/7"]
    assert isinstance(stop, Stop)
    assert stop.grace == 7
    pod.do(stopped(LAUNCH))
    assert list(pod.actions()) == ["watch/0"]


def test_a_watch_given_what_is_believed_sees_no_news_in_it() -> None:
    pod = Pod(inventory(2))
    pod.start()
    looks = [
        running(LAUNCH, state="starting", pid=None, boot=None),
        running(LAUNCH),
        running(LAUNCH, stage="load"),
        running(LAUNCH, stage="load", ready=True),
        running(LAUNCH, ready=True, healthy=False),
        running(LAUNCH, ready=True),
        running(LAUNCH, exit=Exit(signal=9), members=2),
        exited(LAUNCH, code=None, signal=9),
    ]
    orphan = running("box/other/3")
    for look in looks:
        assert sees_news(pod, look, orphan)
        pod.observe(look, orphan)
        assert not sees_news(pod, look, orphan)
    assert sees_news(pod, looks[-1])
    pod.observe(looks[-1])
    assert not sees_news(pod, looks[-1])
    assert sees_news(pod)
    pod.observe()
    assert not sees_news(pod)


def test_what_only_moves_on_is_no_news() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.ready()
    assert not sees_news(pod, running(LAUNCH, ready=True, log_size=9, last_line="x", members=4))
    assert not sees_news(pod, running(LAUNCH, readiness="models", healthy=None))
    run = running("task/ws/1", kind="run")
    old = exited("box/qwen/0")
    assert not sees_news(pod, running(LAUNCH, ready=True), run, old)


def test_each_holder_is_told_each_state_once() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.attach("two")
    assert list(notices(pod)) == ["notify/one/qwen", "notify/two/qwen"]
    notice = notices(pod)["notify/one/qwen"]
    assert (notice.status, notice.launch_id, notice.pod) == ("launching", LAUNCH, "box")
    pod.do(HolderTold(task_id="one", name="qwen", status="launching", launch_id=LAUNCH))
    assert list(notices(pod)) == ["notify/two/qwen"]

    pod.ready()
    again = notices(pod)["notify/one/qwen"]
    assert again.status == "ready"
    assert again.command_id != notice.command_id

    for task in ("one", "two"):
        pod.do(HolderTold(task_id=task, name="qwen", status="ready", launch_id=LAUNCH))
    assert not notices(pod)
    pod.do(PodUnreachable(reason="no route to host"))
    assert {notice.status for notice in notices(pod).values()} == {"unreachable"}
    assert "no route to host" in notices(pod)["notify/one/qwen"].detail


def test_who_waits_and_who_failed_is_told_why() -> None:
    pod = Pod(inventory(1))
    pod.attach("one", "a")
    pod.attach("two", "b")
    assert notices(pod)["notify/two/b"].detail == "waits for room: b needs 0.9 of a GPU: GPU 0 is used by a (0.9)"
    pod.observe(exited("box/a/1"), log_tails={"box/a/1": "CUDA out of memory"})
    notice = notices(pod)["notify/one/a"]
    assert notice.status == "failed"
    assert "CUDA out of memory" in notice.detail


def test_a_task_that_let_go_is_told_nothing() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    pod.detach("one")
    assert not notices(pod)
    assert pod.do(HolderTold(task_id="one", name="qwen", status="stopping")) == []
    assert pod.server().told == {}


def test_who_holds_servers_is_shown_and_the_watch_knows_what_must_be_there() -> None:
    pod = Pod(inventory(2))
    pod.attach("two", "a")
    pod.attach("one", "a")
    pod.attach("one", "b")
    assert memo(pod.state)["holders"] == ["one", "two"]
    assert watch_of(pod).expected == ()
    pod.launched("a")
    assert watch_of(pod).expected == ("box/a/1",)


def test_a_removed_pod_is_settled_when_its_holders_know() -> None:
    pod = Pod(inventory(1))
    pod.attach("one")
    assert not is_settled(pod.state)
    pod.do(Remove(lost=True))
    assert not is_settled(pod.state)
    pod.do(HolderTold(task_id="one", name="qwen", status="lost", launch_id=LAUNCH))
    assert is_settled(pod.state)


def test_a_launch_that_died_before_it_was_seen_is_news_to_whichever_watch_is_there() -> None:
    pod = Pod(inventory(1))
    watches = [watch_of(pod)]
    pod.start()
    watches.append(watch_of(pod))
    died = exited(LAUNCH, code=1)
    for watch in watches:
        assert newer((died,), pod.state.name, watch.counters, watch.counter_floor) == {LAUNCH}
    pod.observe_one(running(LAUNCH, state="starting", pid=None, boot=None))
    watch = watch_of(pod)
    assert newer((died,), pod.state.name, watch.counters, watch.counter_floor) == {LAUNCH}
    pod.launched()
    assert sees_news(pod, died)
    pod.observe(died)
    assert pod.server().state == "failed"
    assert not sees_news(pod, died)
    watch = watches[0]
    assert newer((exited("other/qwen/7"),), pod.state.name, watch.counters, watch.counter_floor) == set()


def test_a_launch_that_was_seen_before_it_ran_is_asked_for_the_end_of_its_log_when_it_dies() -> None:
    pod = Pod(inventory(1))
    pod.start()
    pod.observe_one(Observation(id=LAUNCH, state="starting", boot="boot-1"), expected=())
    assert pod.server().state == "launching"
    watch = watch_of(pod)
    assert newer((exited(LAUNCH),), pod.state.name, watch.counters, watch.counter_floor) == {LAUNCH}
    assert sees_news(pod, exited(LAUNCH))
    assert not sees_news(pod, Observation(id=LAUNCH, state="starting", boot="boot-1"))
