"""Who renders a run: the devices of this machine, or the nodes of a Ray cluster?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flows.crew import Crew, LocalCrew
from flows.stopping import Stopping
from manifests.budget import UNBOUNDED, Bounds
from manifests.commits import RunRecord
from manifests.job import Compute
from tasks.inputs.devices import DeviceType, devices_of_run
from tasks.work.events import WorkEvent
from tasks.work.fork_server import ForkServer


@contextmanager
def crew_of(
    run_uri: str,
    run: RunRecord,
    compute: Compute,
    *,
    device_type: DeviceType | None = None,
    server: ForkServer,
    stopping: Stopping,
    bounds: Bounds = UNBOUNDED,
    tell: Callable[[WorkEvent], None] = lambda event: None,
) -> Iterator[Crew]:
    """The workers that a job asks for, at work until the end of the block.

    Args:
        run_uri: the run folder.
        run: what is there.
        compute: of the job; `runner` says who renders.
        device_type: the kind of device to render on; the run's unless given.
        server: forks the rendering processes of this machine.
        stopping: whether to stop.
        bounds: the budget of the run.
        tell: is told what happens, by a thread of each worker.

    Raises:
        JobError: this machine lacks the device, or there is no such cluster.
    """
    kind = device_type or run.device_type
    if compute.runner == "ray":
        from flows.ray_crew import ray_crew

        with ray_crew(
            run_uri, run, compute, kind, stopping=stopping, bounds=bounds, tell=tell
        ) as crew:
            yield crew
        return
    devices = devices_of_run(run, compute, kind)
    with LocalCrew(
        *(run_uri, devices, compute), server=server, stopping=stopping, bounds=bounds, tell=tell
    ) as crew:
        yield crew
