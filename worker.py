"""The worker process: ``python worker.py``, or ``podctl worker``.

Any number of them may run; Temporal divides the work among those that poll the same task queue.
"""

import argparse
import asyncio
import logging
import signal
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from activities.commands import CommandActivities
from activities.gpu_pods import GpuPodActivities
from activities.notify import notify
from activities.servers import ServerActivities
from activities.setups import SetupActivities
from podctl.catalog import known_models
from podctl.connection import connect
from podctl.paths import PodctlPaths
from remote.podlet import Podlet
from remote.ssh import SshPool
from workflows.plugin import project_plugin
from workflows.task_queues import DEFAULT_TASK_QUEUE

#: Activities wait on networks, not on processors: a thousand watches cost a twentieth of a core.
MAXIMUM_ACTIVITIES = 2_000
#: Seconds that activities get to hear of a shutdown; what runs on the pods is left alone and found again.
GRACEFUL_SHUTDOWN = timedelta(seconds=5)
#: Cancellations arrive with heartbeats: at most this long after they were asked for.
HEARTBEAT_THROTTLE = timedelta(seconds=5)


def build_worker(client: Client, pool: SshPool, task_queue: str = DEFAULT_TASK_QUEUE) -> Worker:
    """Return a worker that serves every workflow and activity of podctl on ``task_queue``."""
    podlet = Podlet(pool)
    gpu_pods = GpuPodActivities(client, podlet)
    servers = ServerActivities(client, lambda: known_models(PodctlPaths.from_environment()))
    commands = CommandActivities(client, podlet)
    setups = SetupActivities(client, podlet)
    return Worker(
        client,
        task_queue=task_queue,
        # The workflows come with the client's plugin.
        activities=[
            gpu_pods.inspect_pod,
            gpu_pods.watch_pod,
            gpu_pods.launch_server,
            gpu_pods.stop_launch,
            servers.attach_server,
            servers.detach_server,
            commands.run_command,
            notify,
            setups.setup_step,
        ],
        max_concurrent_activities=MAXIMUM_ACTIVITIES,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=GRACEFUL_SHUTDOWN,
    )


async def serve(task_queue: str) -> None:
    """Work until TERM or INT. Raises ``podctl.connection.NoServer``."""
    client = await connect(plugins=[project_plugin()])
    pool = SshPool()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with build_worker(client, pool, task_queue):
            logging.getLogger(__name__).info("working on task queue %s", task_queue)
            await stop.wait()
    finally:
        await pool.close()


def main(arguments: list[str] | None = None) -> None:
    """Run the worker process until it is told to end."""
    parser = argparse.ArgumentParser(prog="worker.py", description=__doc__)
    parser.add_argument("--task-queue", default=DEFAULT_TASK_QUEUE, help="the queue to serve (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Of asyncssh only what went wrong: its 'info' is a line for each channel.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    asyncio.run(serve(options.task_queue))


if __name__ == "__main__":
    main()
