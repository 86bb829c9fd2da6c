"""What does `stylefarm estimate` do: which items are tried, and what is said meanwhile?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flows.bars import progress_shown
from flows.crew import threads_of_each
from flows.forecasts import bucket_name, forecast_document, show_forecast
from flows.memory_words import memory_warnings
from flows.planning import planned_or_found, spent_of
from flows.progress import Snapshot
from flows.stopping import Stopping
from flows.terminal import Terminal
from tasks.estimating.buckets import Bucket, buckets_of
from tasks.estimating.estimating import outlooks_of
from tasks.estimating.forecast import Forecast
from tasks.estimating.stopwatch import TimedRenderer
from tasks.estimating.trial import TrialPlace
from tasks.inputs.devices import devices_for
from tasks.inputs.resolving import ResolvedJob
from tasks.work.child import ChildProcess
from tasks.work.events import Needs, WorkEvent
from tasks.work.fork_server import ForkServer
from tasks.work.shard_work import MemoryNeed

WORKERS = (1, 2, 4, 8)
"""Numbers of workers that the end is told for, besides the job's own."""


@dataclass
class _TrialProgress:
    """Which bucket is tried now."""

    phase: str = "loading"
    done: int = 0
    total: int = 1

    def begin(self, bucket: Bucket, number: int, total: int) -> None:
        """Notes that another bucket is tried."""
        self.phase = f"trying {bucket_name(bucket)}"
        self.done, self.total = number - 1, total

    def read(self) -> Snapshot:
        """How far the estimate is now."""
        figures = f"{self.done}/{self.total} buckets"
        return Snapshot(phase=self.phase, done=self.done, total=self.total, figures=figures)


def estimate(
    terminal: Terminal,
    stopping: Stopping,
    server: ForkServer,
    resolved: ResolvedJob,
    *,
    num_items: int,
    workers: Sequence[int],
    as_json: bool,
) -> None:
    """Tries a few items of each bucket of a job and prints what its run will take.

    Args:
        terminal: where it is printed.
        stopping: whether to stop; nothing is left behind.
        server: forks the rendering process.
        resolved: the job.
        num_items: of each bucket, to be rendered to their ends.
        workers: numbers of workers that the end is told for; some and the job's unless given.
        as_json: print a JSON document.

    Raises:
        Stopped: somebody asked to stop.
        Exception: what ended the worker; see `tasks.work.worker.work`.
    """
    planned = planned_or_found(terminal, resolved)
    compute = resolved.job.compute
    devices = devices_for(resolved.device_type, compute.device, compute.workers)
    outlooks, load_seconds = [], 0.0
    needs: list[MemoryNeed] = []
    pending, _ = buckets_of(planned.plan, planned.commits)
    if pending:
        progress = _TrialProgress()
        with (
            progress_shown(terminal, progress),
            _trial_place(stopping, server, resolved, devices, needs) as place,
        ):
            outlooks = list(
                outlooks_of(place, planned.plan, list(pending.values()), num_items, progress.begin)
            )
            load_seconds = place.renderer.load_seconds
    forecast = Forecast(
        outlooks=outlooks,
        load_seconds=load_seconds,
        workers=len(devices),
        price_per_hour=compute.price_per_hour,
        spent_seconds=spent_of(planned),
    )
    numbers = sorted({*(workers or (*WORKERS, forecast.workers))})
    show_forecast(terminal, forecast, resolved.device_type, numbers)
    terminal.say_list(memory_warnings(needs), "yellow", rest="more sizes")
    if as_json:
        document = {"run": planned.uri} | forecast_document(forecast, resolved.device_type, numbers)
        terminal.print_json(document)


@contextmanager
def _trial_place(
    stopping: Stopping,
    server: ForkServer,
    resolved: ResolvedJob,
    devices: Sequence[str],
    needs: list[MemoryNeed],
) -> Iterator[TrialPlace]:
    """What items are tried with; `needs` takes in what memory their sizes take."""

    def tell(event: WorkEvent) -> None:
        if isinstance(event, Needs):
            needs.append(event.need)

    with (
        ChildProcess(threads_of_each(devices), server) as renderer,
        stopping.step(renderer.close),
    ):
        yield TrialPlace(
            resolved=resolved,
            device=devices[0],
            renderer=TimedRenderer(renderer),
            should_stop=stopping.asked,
            tell=tell,
        )
