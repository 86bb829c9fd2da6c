"""The workers of a Ray cluster: an actor for each, which is a worker's parent and has a child.

Whatever happens to an actor or its node costs the shards that it had in hand: the run folder is the
queue, and other workers take them. Another actor takes the lost one's place where there is room.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from flows.crew import Crew
from flows.ray_node import AtWork, other_folder
from flows.stopping import Stopping
from infra.ray_cluster import (
    Node,
    RayCluster,
    RayUnavailable,
    RayWorker,
    Share,
    WorkerLost,
    joined_cluster,
)
from infra.store import open_store
from manifests.budget import Bounds
from manifests.commits import RunRecord
from manifests.errors import JobError
from manifests.job import Compute, check_ray_address
from tasks.inputs.devices import DeviceType, check_kind
from tasks.runs.faults import Stopped, WorkerFault
from tasks.work.events import Committed, Ended, WorkEvent
from tasks.work.patience import patiently
from tasks.work.worker import MAX_FAULTS, Worked

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25

PATIENCE_SECONDS = 30.0
"""After so long without room for a worker, that is told."""

ROOM_SECONDS = 600.0
"""So long a cluster is waited for that has room for no worker at all."""

STOP_SECONDS = 15.0
"""So long a worker is waited for that was asked to stop; its child has 10."""


@contextmanager
def ray_crew(
    run_uri: str,
    run: RunRecord,
    compute: Compute,
    device_type: DeviceType | None,
    *,
    stopping: Stopping,
    bounds: Bounds,
    tell: Callable[[WorkEvent], None],
) -> Iterator[Crew]:
    """Workers on the nodes of the cluster that the job names, until the end of the block.

    Args:
        run_uri: the run folder.
        run: what is there.
        compute: names the cluster, and how many workers there shall be.
        device_type: the kind of device to render on; None for a run of the first layout.
        stopping: whether to stop.
        bounds: the budget of the run.
        tell: is told what happens, by a thread of each worker.

    Raises:
        JobError: there is no such cluster, it has no GPU for a run that renders on `cuda`, or the
            run renders on another kind of device than the job says.
    """
    check_kind(device_type, compute.device)
    try:
        with joined_cluster(cluster_address(compute)) as cluster:
            places = Places.in_cluster(cluster.nodes, compute.workers, device_type)
            if places.num_workers > 1 and not run.conditional_put:
                logger.warning(
                    "one worker instead of %d: the store of this run does not honour conditional "
                    "writes",
                    places.num_workers,
                )
                places = replace(places, num_workers=1)
            with RayCrew(
                *(run_uri, cluster, places, device_type, compute),
                stopping=stopping,
                bounds=bounds,
                tell=tell,
            ) as crew:
                yield crew
    except RayUnavailable as error:
        raise JobError(f"compute.runner: ray: {error}") from error


def cluster_address(compute: Compute) -> str:
    """The cluster of a job: the one that it names, RAY_ADDRESS, or this machine's.

    Raises:
        JobError: RAY_ADDRESS is no address of a cluster.
    """
    if compute.ray_address is not None:
        return compute.ray_address
    try:
        return check_ray_address(os.environ.get("RAY_ADDRESS") or "auto")
    except ValueError as error:
        raise JobError(f"RAY_ADDRESS: {error}; got {os.environ['RAY_ADDRESS']!r}") from None


@dataclass(frozen=True, kw_only=True)
class Places:
    """How many workers a cluster gets, and what Ray keeps for each of them.

    Attributes:
        num_workers: one for each GPU, or one for each node where no node has a GPU, unless given.
        share: a GPU, or the cores of a node divided by its workers.
        num_threads: the cores for each worker where they render on a CPU.
    """

    num_workers: int
    share: Share
    num_threads: int

    @classmethod
    def in_cluster(
        cls, nodes: Sequence[Node], workers: int | None, device_type: DeviceType | None
    ) -> Places:
        """The places of a cluster.

        Args:
            nodes: of the cluster, at least one.
            workers: so many; those that find no room wait for it.
            device_type: the kind of device that the run renders on.

        Raises:
            JobError: the run needs GPUs, and no node has one.
        """
        with_gpus = [node for node in nodes if node.num_gpus >= 1]
        with_cpus = [node for node in nodes if node.num_cpus >= 1]
        if device_type == "cuda" and not with_gpus:
            raise JobError(
                f"compute.runner: this run renders on cuda, and no node of the Ray cluster has a "
                f"GPU (it has {len(nodes)}, with {nodes[0].host}): 'ray start --num-gpus' says how "
                "many a node has"
            )
        if with_gpus:
            num_workers = workers or sum(int(node.num_gpus) for node in with_gpus)
            num_threads = min(int(node.num_cpus // node.num_gpus) for node in with_gpus)
            share = Share(num_cpus=0, num_gpus=1)
        elif not with_cpus:
            raise JobError(
                f"compute.runner: the Ray cluster has {len(nodes)} nodes and gives away no CPU and "
                "no GPU: 'ray start --num-cpus' says how many a node has"
            )
        else:
            num_workers = workers or len(with_cpus)
            of_a_node = -(-num_workers // len(with_cpus))
            num_threads = min(int(node.num_cpus // of_a_node) for node in with_cpus)
            share = Share(num_cpus=max(1, num_threads), num_gpus=0)
        return cls(num_workers=num_workers, share=share, num_threads=max(1, num_threads))


class RayCrew(Crew):
    """A crew whose workers are actors; see `ray_crew`."""

    def __init__(
        self,
        run_uri: str,
        cluster: RayCluster,
        places: Places,
        device_type: DeviceType | None,
        compute: Compute,
        *,
        stopping: Stopping,
        bounds: Bounds,
        tell: Callable[[WorkEvent], None],
    ) -> None:
        devices = [device_type or "auto"] * places.num_workers
        super().__init__(run_uri, devices, stopping=stopping, tell=tell)
        self._compute, self._bounds = compute, bounds
        self._device_type: DeviceType | None = device_type
        self._cluster, self._places = cluster, places
        self._store = open_store(run_uri)
        self._at_work: set[int] = set()
        self._is_over = threading.Event()
        self._last_at_work = time.monotonic()

    def work(self, number: int) -> Worked:
        """Workers one after another, until one has ended in order."""
        num_losses = 0
        while True:
            post = _Post(number)
            try:
                return self._work_there(post)
            except Stopped:
                return _nothing_done(stopped=True)
            except RayUnavailable as gone:
                raise WorkerFault(f"{gone}; run the same command again to finish") from gone
            except WorkerLost as loss:
                num_losses = 1 if post.num_committed else num_losses + 1
                if num_losses >= MAX_FAULTS:
                    raise WorkerFault(
                        f"{num_losses} workers in a row were lost before they committed a shard, "
                        f"the last {post}: {loss} (every node needs this version of stylefarm[ray])"
                    ) from loss
                logger.warning("the worker %s is lost (%s); another takes its place", post, loss)

    def _work_there(self, post: _Post) -> Worked:
        """One worker on some node, from its start to its end.

        Raises:
            WorkerLost: it was killed, or its node is gone.
            RayUnavailable: the cluster is gone.
            Stopped: it was asked to stop, and has not done so in time or has never begun.
            Exception: what ended it.
        """
        arguments = {
            "run_uri": self.run_uri,
            "number": post.number,
            "device_type": self._device_type,
            "compute": self._compute,
            "bounds": self._bounds,
            "num_threads": self._places.num_threads,
            "log_level": logger.getEffectiveLevel(),
        }
        worker = self._cluster.start(
            "flows.ray_node.work_on_this_node", arguments, self._places.share
        )
        with self._stopping.step(worker.close):
            try:
                while True:
                    message = worker.receive(TICK_SECONDS)
                    if isinstance(message, Worked):
                        self._is_over.set()  # complete, or the budget or a request ended the worker
                        return message
                    self._hear(post, message)
                    self._look_after(post, worker)
                    if post.host is None and self._is_over.is_set():
                        return _nothing_done(stopped=False)
            finally:
                worker.close()
                self._at_work.discard(post.number)
                if post.worker is not None:  # it could not tell that itself
                    self.tell(Ended(post.worker, reason="lost with its process or node"))

    def _hear(self, post: _Post, message: object) -> None:
        """Passes on what a worker has told, if anything."""
        if isinstance(message, WorkEvent):
            post.num_committed += isinstance(message, Committed)
            post.worker = None if isinstance(message, Ended) else message.worker
            self.tell(message)
        elif isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, AtWork):
            self._meet(message)
            post.host = message.host
            self._at_work.add(post.number)
            logger.info("a worker is at work %s", post)
        elif isinstance(message, Exception):
            raise message

    def _look_after(self, post: _Post, worker: RayWorker) -> None:
        """Passes on that it shall stop; and waits for room no longer than is sensible."""
        now = time.monotonic()
        if self.should_stop():
            if post.stop_asked is None:
                post.stop_asked = now
                worker.ask_to_stop()
            if post.host is None or now - post.stop_asked > STOP_SECONDS:
                raise Stopped("stopped; run the same command again to finish")
        if self._at_work:
            self._last_at_work = now
        elif now - self._last_at_work > ROOM_SECONDS:
            raise WorkerFault(
                f"the Ray cluster had room for no worker for {ROOM_SECONDS:.0f} s (each needs "
                f"{self._places.share}): 'ray status' says what holds it; run the same command "
                "again to finish"
            )
        if post.host is None and not post.is_told and now - post.asked_at > PATIENCE_SECONDS:
            post.is_told = True
            logger.warning(
                "worker %d of %d waits for room in the Ray cluster: it needs %s",
                *(post.number + 1, len(self.devices), self._places.share),
            )

    def _meet(self, at_work: AtWork) -> None:
        """Looks for the worker's sign in the run folder: it must be the same folder there.

        Raises:
            RunFolderError: it is another one, such as one of the same name on the node's own disk.
        """
        find = partial(self._store.find, at_work.sign)
        if patiently(find, self.should_stop, _in_silence) is None:
            raise other_folder(at_work.host, f"what it wrote to {self.run_uri} is not seen here")
        patiently(lambda: self._store.delete(at_work.sign), self.should_stop, _in_silence)


@dataclass
class _Post:
    """A worker that was asked for, as far as it has come.

    Attributes:
        number: of the crew's workers.
        host: where it is, as soon as it is anywhere.
        worker: its id, from its first event to its last.
        stop_asked: when it was asked to stop, by the clock of `time.monotonic`.
        is_told: whether it was told that there is no room for it.
    """

    number: int
    host: str | None = None
    worker: str | None = None
    num_committed: int = 0
    asked_at: float = field(default_factory=time.monotonic)
    stop_asked: float | None = None
    is_told: bool = False

    def __str__(self) -> str:
        return f"on {self.host}" if self.host else "that was starting"


def _nothing_done(*, stopped: bool) -> Worked:
    return Worked(num_committed=0, num_lost=0, stopped=stopped)


def _in_silence(reason: str) -> None:
    """The worker itself tells that the store is waited for."""
