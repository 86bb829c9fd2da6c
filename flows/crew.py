"""The workers of a command: one thread for each, which follows it or is its parent.

Whose end concerns whom: what is the matter with a device or a scratch disk ends that worker alone;
anything else (the run folder's store, its records, the sources, the breaker) ends them all.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from flows.metrics_server import metrics_served
from flows.stopping import Stopping
from manifests.budget import UNBOUNDED, Bounds
from manifests.job import Compute
from tasks.runs.environment import num_cores
from tasks.runs.faults import SourcesGone, WorkerFault
from tasks.work.child import ChildProcess
from tasks.work.events import WorkEvent
from tasks.work.fork_server import ForkServer
from tasks.work.worker import Worked, work

logger = logging.getLogger(__name__)


class Crew(ABC):
    """Workers on one run folder, from `with` to the end of the block.

    Args:
        run_uri: the run folder.
        devices: one for each worker.
        stopping: whether to stop.
        tell: is told what happens, by the workers' threads.

    Attributes:
        run_uri: the run folder.
        devices: one for each worker, such as `cuda:0`; a device may be there twice.
        tell: is told what happens.
    """

    def __init__(
        self,
        run_uri: str,
        devices: Sequence[str],
        *,
        stopping: Stopping,
        tell: Callable[[WorkEvent], None] = lambda event: None,
    ) -> None:
        self.run_uri = run_uri
        self.devices = tuple(devices)
        self._stopping = stopping
        self.tell = tell
        self._ending = threading.Event()
        self._threads = ThreadPoolExecutor(len(self.devices), thread_name_prefix="worker")
        self._workers: list[Future[Worked]] = []

    def __enter__(self) -> Self:
        self._workers = [
            self._threads.submit(self._work, number) for number in range(len(self.devices))
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._threads.shutdown()

    def is_working(self) -> bool:
        """Whether a worker has not ended yet."""
        return not all(worker.done() for worker in self._workers)

    def wait(self) -> bool:
        """Waits for all workers.

        Returns:
            Whether they were asked to stop before the run was complete.

        Raises:
            WorkerFault: each ended by a fault of its own; the message has each of them once.
            Exception: what concerned all of them.
        """
        errors = [error for worker in self._workers if (error := worker.exception())]
        for error in errors:
            if not _concerns_one(error):
                raise error
        if len(errors) == len(self._workers):
            raise WorkerFault("\n".join(dict.fromkeys(map(str, errors))))
        return any(worker.result().stopped for worker in self._workers if not worker.exception())

    @property
    def num_committed(self) -> int:
        """Shards that the workers have committed which ended without a fault."""
        return sum(one.result().num_committed for one in self._workers if not one.exception())

    @property
    def uncovered_seconds(self) -> float | None:
        """That the next shard would have taken, where the budget ended a worker; else None."""
        ended = (worker.result() for worker in self._workers if not worker.exception())
        found = [one.uncovered_seconds for one in ended if one.uncovered_seconds is not None]
        return min(found, default=None)

    @abstractmethod
    def work(self, number: int) -> Worked:
        """What one worker does from its start to its end; raises what ended it."""

    def should_stop(self) -> bool:
        """Whether the workers shall end: somebody asks for it, or one has ended for all."""
        return self._ending.is_set() or self._stopping.asked()

    def _work(self, number: int) -> Worked:
        try:
            return self.work(number)
        except Exception as error:
            if not _concerns_one(error):
                self._ending.set()
            elif len(self.devices) > 1:
                logger.warning("the worker on %s has ended: %s", self.devices[number], error)
            raise


class LocalCrew(Crew):
    """Workers on the devices of this machine.

    Args:
        run_uri: the run folder.
        devices: one for each worker.
        compute: batch size, threads and patience.
        server: forks the rendering processes; it is closed by whoever made it.
        stopping: whether to stop.
        tell: is told what happens, by the workers' threads.
        max_shards: each worker ends after so many.
        bounds: the budget of the run.
    """

    def __init__(
        self,
        run_uri: str,
        devices: Sequence[str],
        compute: Compute,
        *,
        server: ForkServer,
        stopping: Stopping,
        tell: Callable[[WorkEvent], None] = lambda event: None,
        max_shards: int | None = None,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        super().__init__(run_uri, devices, stopping=stopping, tell=tell)
        self._compute = compute
        self._server = server
        self._max_shards = max_shards
        self._bounds = bounds
        self._num_threads = threads_of_each(self.devices)

    def work(self, number: int) -> Worked:
        """One worker and its child."""
        with (
            metrics_served(
                *(self.run_uri, self._compute, number, self.tell, self.should_stop)
            ) as tell,
            ChildProcess(self._num_threads, self._server) as renderer,
            self._stopping.step(renderer.close),
        ):
            return work(
                self.run_uri,
                device=self.devices[number],
                compute=self._compute,
                renderer=renderer,
                max_shards=self._max_shards,
                bounds=self._bounds,
                should_stop=self.should_stop,
                tell=tell,
            )


def _concerns_one(error: BaseException) -> bool:
    return isinstance(error, WorkerFault) and not isinstance(error, SourcesGone)


def threads_of_each(devices: Sequence[str]) -> int | None:
    """The cores for each worker where several of them share the CPU; else as torch decides."""
    num_sharing = sum(1 for device in devices if device == "cpu")
    if num_sharing < 2:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(given) if given.isdecimal() else num_cores()
    return max(1, cores // num_sharing)
