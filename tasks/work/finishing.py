"""How does a shard that this worker holds become a commit, whatever dies on the way?

Its items are rendered by a renderer that may be another process. Outcomes outlive it: after a death
the next attempt begins with those that were in hand, each alone, and goes on with the rest. What is
finished is packed, offered to the store, and declared by the commit; another thread may do that,
while the renderer works on another shard.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from infra.store import StoreError
from manifests.attempts import FOREIGN_DEATHS, AttemptRecord, Ending, Suspicion, suspicion
from manifests.commits import Commit
from manifests.items import ErrorClass, Item
from manifests.outcomes import Outcome
from manifests.shard_stats import ShardStats
from tasks.plans.source_changes import missing_sources
from tasks.runs.environment import num_oom_kills
from tasks.runs.faults import (
    BreakerTripped,
    ChildDied,
    ChildHung,
    FreshDeviceNeeded,
    ScratchFull,
    SourcesGone,
    Stopped,
    WorkerFault,
)
from tasks.runs.run_plan import RunPlan
from tasks.runs.scratch import scratch_folder
from tasks.work.commit import Attempt, PackedShard, pack_shard, provenance_of
from tasks.work.events import Restarted, Waiting
from tasks.work.holding import Holding, take
from tasks.work.offer import find_kept, keep, offer
from tasks.work.patience import Patience, patiently
from tasks.work.watching import ShardWatch
from tasks.work.workplace import Workplace, hang_seconds

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TakenAway(RuntimeError):
    """Another worker has taken the shard, as this one seemed to be gone."""


class ShardInWork:
    """One shard, from the moment it is held until it is committed or given up.

    `render` comes first; then `store`, which another thread may call, or `keep`. Each ends the
    attempt where the shard does not go on.

    Args:
        place: what the worker works with.
        plan: what is planned now.
        holding: the first attempt.
        batch_size: items that are rendered together at most.
        load_seconds: that the model took to load for this shard, before it was taken.
    """

    def __init__(
        self,
        place: Workplace,
        plan: RunPlan,
        holding: Holding,
        batch_size: int,
        load_seconds: float = 0.0,
    ) -> None:
        self._place, self._plan, self._shard = place, plan, holding.shard
        self._batch_size = batch_size
        self._started = time.monotonic()
        self._num_oom_kills = num_oom_kills()
        self._attempts: list[AttemptRecord] = []
        self._scratch = ExitStack()
        self._packed: Callable[[], PackedShard]
        self._watch = ShardWatch(
            holding,
            worker=place.worker.id,
            breaker=place.breaker,
            should_stop=place.should_stop,
            tell=place.tell,
            on_tick=place.publisher.publish_if_due,
        )
        self._watch.load_seconds = self._loaded_before = load_seconds
        holding.charge(load_seconds)

    @property
    def name(self) -> str:
        """The shard's."""
        return self._shard

    @property
    def batch_size(self) -> int:
        """What the next shard had better begin with."""
        return self._watch.batch_size or self._batch_size

    @property
    def seconds(self) -> float:
        """Since the shard was taken."""
        return time.monotonic() - self._started

    def render(self) -> None:
        """Renders the shard, unless an earlier worker here has done that.

        Raises:
            Stopped: somebody asked to stop.
            WorkerFault, StoreTrouble, BreakerTripped: see `runs.faults`; nothing is committed.
            TakenAway: another worker has the shard now.
            ManifestError, BackboneError: the plan or the model is not what it should be.
        """
        with self._ending_where_it_fails():
            items = self._plan.items(self._shard)
            if kept := self._kept():
                self._packed = lambda: kept
                return
            scratch = self._scratch.enter_context(scratch_folder())
            self._render(items, scratch)
            outcomes = [self._watch.outcomes[item.item_id] for item in items]
            self._refuse_missing_sources(outcomes)
            self._packed = lambda: self._pack(outcomes, scratch)

    def store(self, waited: float = 0.0) -> tuple[Commit, bool]:
        """Commits what is rendered; ends the attempt in any case.

        Args:
            waited: seconds that the worker waited until the shard before was stored.

        Returns:
            The shard's commit, and whether it is this worker's.

        Raises:
            Stopped: somebody asked to stop while the store was away; the shard is kept.
            StoreTrouble: the store is given up; the shard is kept.
            WorkerFault: of this machine; nothing is committed.
        """
        self._watch.waited(0.0, waited)
        self._holding.leave_device()
        with self._ending_where_it_fails(), self._scratch:
            commit, won = self._offer(self._packed())
        self._holding.end("committed" if won else "lost", in_hand=(), alone=False)
        return commit, won

    def keep(self, reason: BaseException) -> None:
        """Leaves what is rendered where the next worker of this machine finds it.

        Args:
            reason: why it is not stored now; ends the attempt.
        """
        self._holding.leave_device()
        try:
            with self._scratch:
                keep(self._place.store, self._packed())
        except ScratchFull as error:
            logger.warning("shard %s cannot be kept: %s", self._shard, error)
        self._holding.end(_ending_of(reason), str(reason) or type(reason).__name__)

    @contextmanager
    def _ending_where_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._scratch.close()
            self._watch.lose()
            self._holding.end(_ending_of(error), str(error) or type(error).__name__)
            raise

    @property
    def _holding(self) -> Holding:
        return self._watch.holding

    def _render(self, items: Sequence[Item], scratch: Path) -> None:
        """Renders until every item has its outcome; what is lost with a renderer is begun again."""
        self._attempts = self._patiently(
            lambda: self._place.queue.attempts(self._shard, below=self._holding.record.number)
        )
        self._watch.writes_every_batch = any(one.ending is None for one in self._attempts)
        patience = Patience(self._watch.should_stop, self._on_wait)
        alone = self._judge(items)
        while rest := self._watch.rest_of(items):
            num_finished = len(self._watch.outcomes)
            try:
                self._render_once(rest, alone, scratch)
                if len(self._watch.rest_of(items)) == len(rest):
                    raise WorkerFault("the renderer ended without a result for any item")
            except FreshDeviceNeeded as needed:
                if needed.item_ids == alone and len(self._watch.outcomes) == num_finished:
                    raise WorkerFault(f"no device is fresh enough: {needed}") from needed
                self._place.renderer.close()
                alone = needed.item_ids
            except (ChildDied, ChildHung) as death:
                self._begin_anew(death)
                alone = self._judge(items)
            except StoreError as error:  # of an input; the run folder's are waited for elsewhere
                self._watch.lose()
                if len(self._watch.outcomes) > num_finished:
                    patience.renew()
                patience.wait(error)
            except Stopped as stopped:
                if finding := self._place.breaker.finding():
                    raise BreakerTripped(finding) from stopped
                raise
        if finding := self._place.breaker.finding():
            raise BreakerTripped(finding)

    def _render_once(self, items: Sequence[Item], alone: Sequence[str], scratch: Path) -> None:
        waiting = {item.item_id for item in items}
        work = self._place.shard_work(
            self._plan.changes(self._shard),
            items=items,
            alone=[item_id for item_id in alone if item_id in waiting],
            batch_size=self.batch_size,
            scratch=scratch,
        )
        limit = hang_seconds(self._place.compute, items, self._place.device)
        self._place.renderer.render(work, self._watch, hang_seconds=limit)

    def _begin_anew(self, death: ChildDied | ChildHung) -> None:
        """Ends the attempt in which a renderer died, and begins the next one.

        The next one is there before this one ends: nobody else finds the shard free in between.

        Raises:
            WorkerFault: the renderer died before it had begun with anything.
        """
        ended, in_hand = self._holding, self._watch.lose()
        ending = "hung" if isinstance(death, ChildHung) else "died"
        found = self._found(death, in_hand)
        if not in_hand and not ended.record.finished:
            ended.end(ending, str(death), **found)
            raise WorkerFault(f"{death}, before it had begun with any item")
        place, number = self._place, ended.record.number + 1
        following = self._patiently(
            lambda: take(place.store, self._shard, number, place.worker, took_over=number - 1)
        )
        self._attempts.append(ended.end(ending, str(death), **found))
        if following is None:
            raise TakenAway(f"another worker has taken shard {self._shard}")
        self._watch.next_attempt(following)
        logger.warning("shard %s: %s; %d items were in hand", self._shard, death, len(in_hand))
        place.tell(Restarted(place.worker.id, shard=self._shard, reason=str(death)))

    def _found(self, death: ChildDied | ChildHung, in_hand: tuple[str, ...]) -> dict[str, Any]:
        """How a renderer died, as the attempt records it."""
        before, self._num_oom_kills = self._num_oom_kills, num_oom_kills()
        return {
            "in_hand": in_hand,
            "alone": len(in_hand) == 1,
            "signal": death.signal if isinstance(death, ChildDied) else None,
            "exit_code": death.exit_code if isinstance(death, ChildDied) else None,
            "out_of_memory": before != self._num_oom_kills,
        }

    def _judge(self, items: Sequence[Item]) -> tuple[str, ...]:
        """Gives the convicted items their rows; returns the suspects, to be tried alone."""
        found = self._suspicion()
        convicted = {item.item_id: item for item in self._watch.rest_of(items)}
        for item_id, problem in found.convicted.items():
            if item := convicted.get(item_id):
                self._watch.settle(Outcome(item, problem=problem))
        if found.convicted:
            self._holding.update(convicted=tuple(found.convicted))
        return found.suspects

    def _suspicion(self) -> Suspicion:
        known = [*self._attempts, self._holding.record]
        if len(known) <= FOREIGN_DEATHS:
            return suspicion(known)
        background = self._patiently(lambda: self._place.queue.background(self._shard))
        return suspicion(known, background)

    def _refuse_missing_sources(self, outcomes: Sequence[Outcome]) -> None:
        """Refuses to write down as the items' fault that the sources themselves are gone."""
        vanished = sum(
            1
            for outcome in outcomes
            if outcome.item.problem is None
            and outcome.problem is not None
            and outcome.problem.error_class == ErrorClass.INPUT_MISSING
        )
        if 2 * vanished > len(outcomes):
            finding = self._patiently(lambda: missing_sources(self._place.store, self._place.run))
            if finding is not None:
                raise SourcesGone(finding)

    def _pack(self, outcomes: Sequence[Outcome], scratch: Path) -> PackedShard:
        attempt = Attempt(self._shard, self._holding.record.attempt_id)
        stats = ShardStats(
            load_seconds=self._watch.load_seconds,
            render_seconds=sum(outcome.seconds or 0.0 for outcome in outcomes),
            encode_seconds=sum(outcome.encode_seconds or 0.0 for outcome in outcomes),
            seconds_wait_for_input=self._watch.seconds_for_input,
            seconds_wait_for_output=self._watch.seconds_for_output,
            largest_batch=self._watch.largest_batch or None,
            peak_memory_bytes=self._watch.peak_memory_bytes,
            seconds_worked=self.seconds - (self._watch.load_seconds - self._loaded_before),
        )
        provenance = provenance_of(
            self._place.run,
            attempt.attempt_id,
            self._watch.device_name,
            self._plan.generation(self._shard),
        )
        return pack_shard(attempt, outcomes, provenance, scratch, stats)

    def _kept(self) -> PackedShard | None:
        """The shard, where an earlier worker here rendered it and could not store it."""
        run = self._place.run
        digest = self._plan.reference(self._shard).plan_digest
        return find_kept(self._place.store.uri, run.fingerprint, digest, self._shard)

    def _offer(self, packed: PackedShard) -> tuple[Commit, bool]:
        return offer(self._place.store, packed, self._place.should_stop, self._on_wait)

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, self._place.should_stop, self._on_wait)

    def _on_wait(self, reason: str) -> None:
        self._place.tell(Waiting(self._place.worker.id, reason=reason))


def _ending_of(error: BaseException) -> Ending:
    asked = (Stopped, BreakerTripped, KeyboardInterrupt)
    return "stopped" if isinstance(error, asked) else "infra"
