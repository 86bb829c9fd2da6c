"""How does one worker do its part of a run?

It looks for a shard that nobody holds, finishes it, and looks again until every planned shard is
committed. Nobody hands out work: any number of workers do the same on one run folder, and what one
leaves behind another takes up. The worker holds no model; its renderer does.

While a shard renders, the one before may be on its way to the run folder; it is waited for whatever
ends the worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from infra.store import Store
from manifests.attempts import Worker as WorkerIdentity
from manifests.budget import UNBOUNDED, Bounds
from manifests.commits import RunRecord
from manifests.errors import RunFolderError
from manifests.job import Compute
from tasks.results.publisher import Publisher
from tasks.runs.faults import (
    BreakerTripped,
    ChildDied,
    ChildHung,
    SourcesGone,
    Stopped,
    WorkerFault,
)
from tasks.runs.run_folder import open_run, recorded_job
from tasks.runs.run_plan import open_plan
from tasks.runs.worker_identity import this_worker
from tasks.work.breaker import Breaker
from tasks.work.budget import Allowance
from tasks.work.events import (
    Began,
    CommittedElsewhere,
    Ended,
    Pending,
    Phase,
    Waiting,
    WorkEvent,
)
from tasks.work.finishing import ShardInWork, TakenAway
from tasks.work.holding import Holding
from tasks.work.offer import forget_kept
from tasks.work.patience import patiently
from tasks.work.queue import ShardQueue
from tasks.work.sending import Sending
from tasks.work.shard_work import Renderer
from tasks.work.stop_request import StopRequests, ask_to_stop
from tasks.work.watching import LoadingWatch
from tasks.work.workplace import Workplace, hang_seconds, most_together

logger = logging.getLogger(__name__)

MAX_FAULTS = 3
"""So many faults of the worker in a row, without a commit between them, end it."""

PAUSE_SECONDS = 0.2

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Worked:
    """What a worker has done, and what ended it.

    Attributes:
        num_committed, num_lost: shards that it committed, and that others were faster with.
        stopped: it was asked to stop.
        uncovered_seconds: that the next shard would have taken, where the run's budget does not
            cover it; None where that did not end the worker.
    """

    num_committed: int
    num_lost: int
    stopped: bool
    uncovered_seconds: float | None = None


def work(
    run_uri: str,
    *,
    device: str,
    compute: Compute,
    renderer: Renderer,
    max_shards: int | None = None,
    bounds: Bounds = UNBOUNDED,
    should_stop: Callable[[], bool],
    tell: Callable[[WorkEvent], None],
) -> Worked:
    """Finishes shards of a run until every planned one is committed, by whomever.

    Args:
        run_uri: the run folder.
        device: what the renderer renders on, such as `cpu` or `cuda:1`.
        compute: batch size and threads; they may differ from those of the plan.
        renderer: renders; it is this worker's alone, and closed by whoever made it.
        max_shards: ends after so many shards that it committed or lost to a faster one.
        bounds: ends before a shard that they do not cover.
        should_stop: asked between steps; once it is true, the worker ends within a step.
        tell: is told what happens, by any thread.

    Returns:
        What was done. `stopped` where `should_stop` or a `stop.json` of the run ended it.

    Raises:
        WorkerFault: three faults of this machine in a row, or (`SourcesGone`) missing sources.
        StoreTrouble: the store of the run folder, or of the inputs, is given up.
        BreakerTripped: too many items fail; all workers of the run are asked to stop.
        ManifestError, BackboneError: the run folder or the model is not what it should be.
    """
    store, run = open_run(run_uri)
    worker = _Worker(store, run, device, compute, renderer, bounds, should_stop, tell)
    with _told(worker.identity, tell):
        return worker.work(max_shards)


@contextmanager
def _told(worker: WorkerIdentity, tell: Callable[[WorkEvent], None]) -> Iterator[None]:
    """Tells that a worker has begun, and with what it ended."""
    tell(Began(worker.id, host=worker.host, device=worker.device))
    reason = None
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise
    finally:
        tell(Ended(worker.id, reason=reason))


class _Worker:
    """The state of one worker between its shards."""

    def __init__(
        self,
        store: Store,
        run: RunRecord,
        device: str,
        compute: Compute,
        renderer: Renderer,
        bounds: Bounds,
        should_stop: Callable[[], bool],
        tell: Callable[[WorkEvent], None],
    ) -> None:
        self.identity = self._worker = this_worker(device)
        self._tell = tell
        self._asked_to_stop, self._requests = should_stop, StopRequests(store)
        self._plan = open_plan(store, run)
        job = recorded_job(run)
        self._queue = ShardQueue(store, self._plan, self._worker, self._see_commit)
        self._allowance = Allowance(store, bounds, self._queue)
        self._uncovered: float | None = None
        self._place = Workplace(
            store=store,
            run=run,
            job=job,
            compute=compute,
            device=device,
            worker=self._worker,
            renderer=renderer,
            queue=self._queue,
            publisher=Publisher(store, run, lambda: len(self._queue.committed)),
            breaker=Breaker(job.limits),
            should_stop=self._should_stop,
            tell=tell,
        )
        self._batch_size = most_together(compute)
        self._load_seconds = 0.0
        self._num_committed = self._num_lost = self._num_faults = 0
        self._is_warm = self._is_leaving = False
        self._waits_because: str | None = None
        self._pending_told: Pending | None = None
        self._sending = Sending(self._worker.id, tell)

    def work(self, max_shards: int | None) -> Worked:
        """Finishes shards until there is no more to do for this worker; see `work`."""
        stopped = False
        try:
            with self._all_stored():
                self._finish_shards(max_shards)
            if not self._queue.num_left:
                self._place.publisher.finish(self._should_stop)
        except Stopped as reason:
            logger.info("%s", reason)
            stopped = True
        finally:
            self._sending.close()
            self._place.publisher.close()
        return Worked(
            num_committed=self._num_committed,
            num_lost=self._num_lost,
            stopped=stopped,
            uncovered_seconds=self._uncovered,
        )

    def _finish_shards(self, max_shards: int | None) -> None:
        if not self._place.run.conditional_put:
            self._refuse_company(lambda other: True)
        self._forget_kept()
        while self._may_take(max_shards):
            self._check_stop()
            if not self._may_spend():
                self._uncovered = self._allowance.shortest()
                break
            if self._warm_up():
                continue  # others may have spent the rest meanwhile
            holding = self._take()
            self._tell_pending()
            if holding:
                self._finish(holding)
            elif self._sending.shard is not None:
                self._settle()
            elif not self._has_more():
                break

    def _may_take(self, max_shards: int | None) -> bool:
        """Whether this worker may take one more; what is on its way is waited for if it decides."""
        if max_shards is None:
            return True
        num_ended = self._num_committed + self._num_lost
        if self._sending.shard is not None and num_ended + 1 >= max_shards:
            self._settle()
        return self._num_committed + self._num_lost < max_shards

    def _may_spend(self) -> bool:
        """Whether the budget covers one shard more; what is on its way may decide it."""
        if self._patiently(self._allowance.is_ample):
            return True
        self._settle()
        return self._patiently(self._allowance.covers_any)

    def _forget_kept(self) -> None:
        """Removes shards that wait here for a store which has them from another worker by now."""
        self._patiently(self._queue.peek)
        run = self._place.run
        for planned in (run, *self._plan.generations):
            forget_kept(
                self._place.store.uri, run.fingerprint, planned.plan_digest, self._queue.committed
            )

    def _warm_up(self) -> bool:
        """Loads the model once there is a shard to take: nobody waits for it with a shard in hand.

        The model is loaded again after a fault of this machine.

        Returns:
            Whether it was loaded now.
        """
        place, shard = self._place, None if self._is_warm else self._patiently(self._queue.peek)
        if shard is None:
            return False
        only_the_model = place.shard_work(self._plan.changes(shard))
        watch = LoadingWatch(self._worker.id, self._should_stop, self._tell)
        limit = hang_seconds(place.compute, ())
        try:
            place.renderer.render(only_the_model, watch, hang_seconds=limit)
        except (ChildDied, ChildHung) as death:
            self._recover(WorkerFault(f"{death}, as it loaded the model"))
        except WorkerFault as fault:
            self._recover(fault)
        else:
            self._is_warm = True
            self._load_seconds += watch.load_seconds
            self._allowance.note_loading(self._load_seconds)
        return self._is_warm

    def _take(self) -> Holding | None:
        """The next shard; where the store could give it to two, only while nobody else works.

        Of two that begin at once, both see the other after they have taken a shard; the one with
        the smaller id stays.

        Raises:
            RunFolderError: another worker is at work, or may be.
        """
        if self._place.run.conditional_put:
            return self._patiently(self._take_covered)
        self._refuse_company(lambda other: True)
        holding = self._patiently(self._take_covered)
        if holding is not None:
            try:
                self._refuse_company(lambda other: other < self._worker.id)
            except BaseException as error:
                holding.end("stopped", str(error))
                raise
        return holding

    def _take_covered(self) -> Holding | None:
        return self._queue.take(self._allowance.covers)

    def _finish(self, holding: Holding) -> None:
        """Renders a shard and sends it on its way; after a fault of this machine, another one."""
        self._waits_because = None
        load_seconds, self._load_seconds = self._load_seconds, 0.0
        self._allowance.note_loading(0.0)
        shard = ShardInWork(self._place, self._plan, holding, self._batch_size, load_seconds)
        try:
            shard.render()
        except TakenAway as reason:
            logger.warning("%s", reason)
            return
        except SourcesGone:
            raise
        except WorkerFault as fault:
            self._put_off(shard, fault)
            return
        except BreakerTripped as tripped:
            reason = str(tripped)
            patiently(lambda: ask_to_stop(self._place.store, reason), _never, self._on_wait)
            raise
        self._batch_size = shard.batch_size
        self._send(shard)

    def _send(self, shard: ShardInWork) -> None:
        """Sends a rendered shard on its way, as soon as the one before has arrived."""
        started = time.monotonic()
        try:
            self._settle()
        except BaseException as error:
            shard.keep(error)
            raise
        self._sending.send(shard, time.monotonic() - started)

    def _settle(self) -> None:
        """Waits for the shard that is on its way, if any, and takes note of how that ended.

        Raises:
            StoreTrouble, Stopped: it is kept.
            WorkerFault: one too many of this machine.
        """
        if (shard := self._sending.shard) is None:
            return
        try:
            commit, won = self._sending.wait()
        except WorkerFault as fault:
            self._put_off(shard, fault)
            return
        self._num_faults = 0
        self._queue.note_commit(shard.name)
        self._tell_pending()
        self._allowance.note(commit, is_own=won)
        self._num_committed += won
        self._num_lost += not won

    @contextmanager
    def _all_stored(self) -> Iterator[None]:
        """Waits at its end for the shard that is on its way, however it ends.

        A store that is away is waited for only as long as nothing else ends the worker. Who was to
        stop because that shard could not be stored raises why.
        """
        try:
            yield
        except Stopped:
            self._settle()
            raise
        except BaseException:
            self._is_leaving = True
            try:
                self._settle()
            except Exception as error:
                logger.warning("the shard before was not stored: %s", error)
            raise
        self._settle()

    def _put_off(self, shard: ShardInWork, fault: WorkerFault) -> None:
        logger.warning("shard %s is put off", shard.name)
        self._queue.set_aside(shard.name)
        self._recover(fault)

    def _recover(self, fault: WorkerFault) -> None:
        """Begins again with a fresh renderer; gives up after three faults in a row."""
        self._settle()  # a commit between two faults counts
        self._num_faults += 1
        self._is_warm = False
        logger.warning("%s", fault)
        self._place.renderer.close()
        if self._num_faults >= MAX_FAULTS:
            raise fault

    def _has_more(self) -> bool:
        """Waits a little where shards are held by others; False where nothing is left."""
        if not self._queue.num_left:
            plan = self._patiently(self._plan.refreshed)
            if plan is self._plan:
                return False
            self._plan = plan
            self._queue.use(plan)
            return True
        left = self._queue.num_left
        last = "the last shard" if left == 1 else f"the last {left} shards"
        self._wait_for(f"other workers hold {last}")
        return True

    def _wait_for(self, reason: str) -> None:
        if self._waits_because is None:
            self._tell(Phase(self._worker.id, name="waiting"))
        self._on_wait(reason)
        self._place.publisher.publish_if_due()
        time.sleep(PAUSE_SECONDS)

    def _refuse_company(self, is_before: Callable[[str], bool]) -> None:
        """Waits until nobody else is at work; refuses where one is whose id is before this one.

        Raises:
            RunFolderError: such a worker is at work.
        """
        seen: dict[str, int] = {}
        while True:
            waiting = False
            for attempt, is_seen_to_live in self._patiently(
                lambda: list(self._queue.others_at_work())
            ):
                before = seen.setdefault(attempt.attempt_id, attempt.progress)
                lives = is_seen_to_live or attempt.progress > before
                if lives and is_before(attempt.worker.id):
                    raise RunFolderError(
                        f"another worker (process {attempt.worker.pid} on {attempt.worker.host}) "
                        f"works on {self._place.store.uri}, and this store does not honour "
                        "conditional writes, so one worker at a time: wait for it, or stop it with "
                        "'stylefarm stop'"
                    )
                waiting = True
            if not waiting:
                return
            self._check_stop()
            self._wait_for("another worker may be at work; it shows no sign of life so far")

    def _should_stop(self) -> bool:
        return (
            self._asked_to_stop()
            or self._is_leaving
            or self._sending.is_in_trouble()
            or self._requests.reason() is not None
        )

    def _check_stop(self) -> None:
        if self._should_stop():
            raise Stopped(self._requests.reason() or "stopped; run the command again to finish")

    def _tell_pending(self) -> None:
        """Tells how much of the run is left, where that has changed since it was told."""
        event = Pending(self._worker.id, self._queue.num_left, self._queue.num_items_left)
        if event != self._pending_told:
            self._pending_told = event
            self._tell(event)

    def _see_commit(self, shard: str) -> None:
        sent = self._sending.shard
        if sent is None or sent.name != shard:  # else its own thread tells
            self._tell(CommittedElsewhere(self._worker.id, shard=shard))

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, self._should_stop, self._on_wait)

    def _on_wait(self, reason: str) -> None:
        """Tells why nothing goes on, once for each reason."""
        if reason != self._waits_because:
            self._waits_because = reason
            self._tell(Waiting(self._worker.id, reason=reason))


def _never() -> bool:
    return False
