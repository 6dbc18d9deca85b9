"""The project's one plugin: what client, worker and replayer must agree on.

Activities are the worker's own: they need the client that the plugin has made.
"""

from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.plugin import SimplePlugin
from temporalio.worker import WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workflows.gpu_pod import GpuPodWorkflow
from workflows.task_pod import TaskPodWorkflow

#: Loaded once, not once per workflow: what does no I/O and keeps no state. Of ours only the two workflow classes are
#: made anew; loading the rest for each of them took longer than all its decisions.
PASSED_THROUGH = (
    "domain",
    "workflows.activity_calls",
    "workflows.entity",
    "workflows.entity_workflow",
    "workflows.messages",
    "workflows.names",
    "workflows.search_attributes",
    "workflows.summaries",
    "workflows.task_runs",
    "workflows.timeouts",
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions",
    "yaml",
)


def project_plugin() -> SimplePlugin:
    """Return the plugin: data converter, workflows, and the sandbox that they run in."""
    return SimplePlugin(
        "podctl",
        data_converter=pydantic_data_converter,
        workflows=[TaskPodWorkflow, GpuPodWorkflow],
        workflow_runner=_sandboxed,
    )


def _sandboxed(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Return the sandboxed runner with our pure packages passed through; any other runner is left as it is."""
    if runner is None or isinstance(runner, SandboxedWorkflowRunner):
        restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
        return SandboxedWorkflowRunner(restrictions=restrictions)
    return runner
