"""What makes a plan one that can be carried out: known dependencies without cycles, a pod for each command."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from domain.errors import Rejected
from domain.gpu.arguments import redact
from domain.gpu.request import StartRequest, check_request
from domain.task.models import CommandExecutor, Plan, PlanDraft, WorkstreamDraft, digest

WORKSTREAM_LIMIT = 500
SERVER_LIMIT = 50
#: Encoded size of a plan, in bytes.
PLAN_LIMIT = 256 * 1024


class Problem(NamedTuple):
    """Why a plan cannot be used, and where in it the reason stands."""

    code: str
    message: str
    path: tuple[str | int, ...]


def check_plan(draft: PlanDraft) -> Plan:
    """Return ``draft`` as a plan of revision 0, or raise ``Rejected`` with the first problem."""
    problem = next(problems(draft), None)
    if problem is not None:
        raise Rejected(problem.code, problem.message)
    return _plan(draft)


def problems(draft: PlanDraft) -> Iterator[Problem]:
    """Yield what is wrong with a plan; the later checks only run on a plan that passes the earlier ones."""
    found = False
    for problem in (*_bounds(draft), *_names(draft), *_dependencies(draft)):
        found = True
        yield problem
    if not found:
        cycle = find_cycle({ws.id: ws.depends_on for ws in draft.workstreams})
        if cycle is not None:
            index = next(i for i, ws in enumerate(draft.workstreams) if ws.id == cycle[0])
            yield Problem(
                "dependency_cycle",
                f"workstreams wait for each other in a circle: {' -> '.join(cycle)}; remove one of these dependencies",
                ("workstreams", index, "depends_on"),
            )
        yield from _servers(draft)
        yield from _executors(draft)


def find_cycle(depends_on: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return one cycle as a path that ends where it begins, or None. Iterative: a chain may be long."""
    done: set[str] = set()
    for start in depends_on:
        if start in done:
            continue
        path = [start]
        on_path = {start}
        branches = [iter(depends_on[start])]
        while branches:
            following = next(branches[-1], None)
            if following is None:
                branches.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif following in on_path:
                return (*path[path.index(following) :], following)
            elif following not in done and following in depends_on:
                path.append(following)
                on_path.add(following)
                branches.append(iter(depends_on[following]))
    return None


def _plan(draft: PlanDraft) -> Plan:
    return Plan(
        summary=draft.summary,
        model_servers={server.name: server for server in draft.model_servers},
        workstreams={workstream.id: workstream for workstream in draft.workstreams},
        digest=digest(draft.model_dump_json().encode()),
    )


def _bounds(draft: PlanDraft) -> Iterator[Problem]:
    size = len(draft.model_dump_json().encode())
    if size > PLAN_LIMIT:
        yield Problem(
            "content_too_long",
            f"the plan is {size:,} bytes, the limit is {PLAN_LIMIT:,}; put long texts into files and name them",
            (),
        )
    for what, count, limit in (
        ("workstreams", len(draft.workstreams), WORKSTREAM_LIMIT),
        ("model_servers", len(draft.model_servers), SERVER_LIMIT),
    ):
        if count > limit:
            message = f"the plan has {count} {what.replace('_', ' ')}, the limit is {limit}; split the task"
            yield Problem(f"too_many_{what}", message, (what,))


def _names(draft: PlanDraft) -> Iterator[Problem]:
    for what, code, ids in (
        ("workstreams", "duplicate_workstream", [ws.id for ws in draft.workstreams]),
        ("model_servers", "duplicate_server", [server.name for server in draft.model_servers]),
    ):
        seen: set[str] = set()
        for index, name in enumerate(ids):
            if name in seen:
                message = f"{name!r} stands twice under {what}; each needs a name of its own"
                yield Problem(code, message, (what, index, "id" if what == "workstreams" else "name"))
            seen.add(name)


def _dependencies(draft: PlanDraft) -> Iterator[Problem]:
    known = {ws.id for ws in draft.workstreams}
    for index, workstream in enumerate(draft.workstreams):
        for position, dependency in enumerate(workstream.depends_on):
            problem = dependency_problem(workstream, dependency, known)
            if problem is not None:
                yield Problem(*problem, path=("workstreams", index, "depends_on", position))


def dependency_problem(workstream: WorkstreamDraft, dependency: str, known: set[str]) -> tuple[str, str] | None:
    """Return code and message if ``workstream`` cannot depend on ``dependency``."""
    if dependency == workstream.id:
        return "self_dependency", f"workstream {workstream.id!r} depends on itself; remove it from its depends_on"
    if dependency not in known:
        listed = sorted(known - {workstream.id})
        there_are = f"there are {', '.join(listed[:20])}" if listed else "there are no others"
        return "unknown_dependency", f"workstream {workstream.id!r} depends on {dependency!r}, unknown; {there_are}"
    return None


def _servers(draft: PlanDraft) -> Iterator[Problem]:
    for index, server in enumerate(draft.model_servers):
        try:
            check_request(StartRequest(**server.model_dump(exclude={"pod"})))
        except Rejected as rejected:
            yield Problem(
                rejected.code,
                f"model server {server.name!r}: {rejected.message}",
                ("model_servers", index, "arguments"),
            )


def _executors(draft: PlanDraft) -> Iterator[Problem]:
    plan = _plan(draft)
    for index, workstream in enumerate(draft.workstreams):
        problem = executor_problem(workstream, plan)
        if problem is not None:
            yield Problem(*problem, path=("workstreams", index, "executor"))


def carries_secret(executor: CommandExecutor) -> bool:
    """Return whether a command has what looks like an access token: what a task is given stays in its history."""
    return any(redact(text) != text for text in (*executor.argv, *executor.environment.values()))


def executor_problem(workstream: WorkstreamDraft, plan: Plan) -> tuple[str, str] | None:
    """Return code and message if a workstream's command has nowhere to run or nothing to talk to."""
    if not isinstance(workstream.executor, CommandExecutor):
        return None
    return command_problem(f"workstream {workstream.id!r}", workstream.executor, plan)


def command_problem(user: str, executor: CommandExecutor, plan: Plan) -> tuple[str, str] | None:
    """Return code and message if the command of ``user`` has nowhere to run or nothing to talk to."""
    if carries_secret(executor):
        return (
            "secret_in_arguments",
            (
                f"the command of {user} carries what looks like an access token; keep it in a "
                "file on the pod that the program reads"
            ),
        )
    server = None if executor.server is None else plan.model_servers.get(executor.server)
    if executor.server is not None and server is None:
        listed = ", ".join(plan.model_servers) or "none"
        return (
            "unknown_server",
            (
                f"{user} uses model server {executor.server!r}, which the plan does not name; "
                f"its model_servers: {listed}"
            ),
        )
    # A command reaches its server over the loopback address of the machine they share.
    if server is not None and executor.pod not in (None, server.pod):
        return (
            "server_on_other_pod",
            (
                f"{user} runs on pod {executor.pod!r}, but its server {server.name!r} is on "
                f"{server.pod!r}; a command runs where its server is: leave out 'pod' or name {server.pod!r}"
            ),
        )
    if plan.pod_of(executor) is None:
        pods = sorted(plan.pods())
        known = f"the plan names {', '.join(pods)}" if pods else "the plan names none"
        return "no_pod", f"{user} does not say on which pod it runs ({known}); add 'pod:'"
    return None
