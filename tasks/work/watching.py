"""What does a worker know of the shard that is being rendered?

Outcomes of items that are finished outlive the process that rendered them. What is in hand is
written into the attempt, so that whoever comes after a death knows what to try alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from manifests.items import Item, Problem
from manifests.outcomes import Outcome
from tasks.work.breaker import Breaker
from tasks.work.events import ItemDone, Needs, Phase, Progress, WorkEvent
from tasks.work.holding import Holding
from tasks.work.shard_work import MemoryNeed


class LoadingWatch:
    """Follows a renderer that loads its model before its first shard; no item is in hand.

    Args:
        worker: the id that events carry.
        should_stop: whether somebody asked to stop.
        tell: is told of every phase.

    Attributes:
        load_seconds: of the renderer.
    """

    def __init__(
        self, worker: str, should_stop: Callable[[], bool], tell: Callable[[WorkEvent], None]
    ) -> None:
        self.load_seconds = 0.0
        self._worker, self._asked_to_stop, self._tell = worker, should_stop, tell

    def should_stop(self) -> bool:
        """Whether somebody asked to stop."""
        return self._asked_to_stop()

    def phase(self, name: str) -> None:
        """Passes on that it loads; it does not render yet."""
        if name == "loading":
            self._tell(Phase(self._worker, name=name))

    def loaded(self, seconds: float, device_name: str) -> None:
        """Notes how long loading took."""
        self.load_seconds += seconds

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        """There are no items."""

    def advance(self, items: float) -> None:
        """There are no items."""

    def finish(self, outcome: Outcome) -> None:
        """There are no items."""

    def waited(self, for_input: float, for_output: float) -> None:
        """There are no items."""

    def needs(self, need: MemoryNeed) -> None:
        """There are no items."""

    def held(self, num_bytes: int) -> None:
        """There are no items."""

    def fitted(self, batch_size: int) -> None:
        """There are no items."""

    def tick(self) -> None:
        """Nothing to do."""


class ShardWatch:
    """Follows the rendering of one shard, over all renderers that die on the way.

    Args:
        holding: the attempt; another one takes its place after a death.
        worker: the id that events carry.
        breaker: counts what fails.
        should_stop: whether somebody asked to stop.
        tell: is told of every step.
        on_tick: called now and then while a renderer works; returns at once.

    Attributes:
        outcomes: of the items that are finished, by item id.
        in_hand: item ids, in the order in which they were begun.
        cleared: suspects that came through alone in this attempt.
        batch_size: that fitted after an out of memory; None where nothing was learned.
        largest_batch: items that were begun together, at most.
        peak_memory_bytes: that renderers held at most; None where nothing was rendered.
        device_name, load_seconds: of the renderer.
        seconds_for_input, seconds_for_output: that the renderer waited for pictures to be loaded,
            and to be encoded.
    """

    def __init__(
        self,
        holding: Holding,
        *,
        worker: str,
        breaker: Breaker,
        should_stop: Callable[[], bool],
        tell: Callable[[WorkEvent], None],
        on_tick: Callable[[], None],
    ) -> None:
        self.holding = holding
        self.outcomes: dict[str, Outcome] = {}
        self.in_hand: dict[str, None] = {}
        self.cleared: list[str] = []
        self.batch_size: int | None = None
        self.largest_batch = 0
        self.peak_memory_bytes: int | None = None
        self.device_name, self.load_seconds = "", 0.0
        self.seconds_for_input = self.seconds_for_output = 0.0
        self.writes_every_batch = False
        self._alone = False
        self._num_finished_before = 0
        self._advanced = 0.0
        self._worker, self._breaker, self._tell = worker, breaker, tell
        self._asked_to_stop, self._on_tick = should_stop, on_tick
        self._lock = threading.RLock()

    @property
    def num_finished(self) -> int:
        """Items that were finished in this attempt."""
        return len(self.outcomes) - self._num_finished_before

    def next_attempt(self, holding: Holding) -> None:
        """Goes on in another attempt of the same worker."""
        with self._lock:
            self.holding = holding
            self._num_finished_before = len(self.outcomes)
            self.cleared.clear()

    def lose(self) -> tuple[str, ...]:
        """Forgets what was in hand, as its renderer is gone; returns the item ids."""
        with self._lock:
            lost = tuple(self.in_hand)
            self.in_hand.clear()
            self._alone = False
            if self._advanced:
                self._tell(Progress(worker=self._worker, items=-self._advanced))
            self._advanced = 0.0
            return lost

    def settle(self, outcome: Outcome) -> None:
        """Notes what became of an item."""
        with self._lock:
            self.outcomes[outcome.item.item_id] = outcome
            self._breaker.note(outcome)
            problem, key = outcome.problem, outcome.item.key
            told = {} if problem is None else _told(problem)
            self._tell(ItemDone(self._worker, key=key, shard=self.holding.shard, **told))

    def rest_of(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """The items that have no outcome yet."""
        return tuple(item for item in items if item.item_id not in self.outcomes)

    # What a renderer asks and tells: `tasks.work.shard_work.Watch`.

    def should_stop(self) -> bool:
        """Whether somebody asked to stop, or too many items fail."""
        return self._breaker.finding() is not None or self._asked_to_stop()

    def phase(self, name: str) -> None:
        """Passes on what begins now."""
        self._tell(Phase(self._worker, name=name, shard=self.holding.shard))

    def loaded(self, seconds: float, device_name: str) -> None:
        """Notes what renders, and how long loading took."""
        self.device_name = device_name
        self.load_seconds += seconds

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        """Writes down what is in hand from now on; before an item is tried alone, at once."""
        with self._lock:
            self.in_hand.update(dict.fromkeys(item_ids))
            self.largest_batch = max(self.largest_batch, len(item_ids))
            self._alone = alone
            self._write(at_once=alone or self.writes_every_batch)

    def advance(self, items: float) -> None:
        """Passes a step on."""
        self._advanced += items
        self._tell(Progress(self._worker, items=items))

    def finish(self, outcome: Outcome) -> None:
        """Keeps what became of an item; a suspect that came through alone is cleared."""
        with self._lock:
            item_id = outcome.item.item_id
            self.in_hand.pop(item_id, None)
            self._advanced = max(0.0, self._advanced - 1.0)
            self.settle(outcome)
            was_alone, self._alone = self._alone, self._alone and bool(self.in_hand)
            if was_alone:
                self.cleared.append(item_id)
            self._write(at_once=was_alone)

    def waited(self, for_input: float, for_output: float) -> None:
        """Adds to what was waited for pictures."""
        self.seconds_for_input += for_input
        self.seconds_for_output += for_output

    def needs(self, need: MemoryNeed) -> None:
        """Passes on how much memory a size will take."""
        self._tell(Needs(self._worker, need=need))

    def held(self, num_bytes: int) -> None:
        """Notes the most; a renderer that dies on the way has told what it held until then."""
        self.peak_memory_bytes = max(num_bytes, self.peak_memory_bytes or 0)

    def fitted(self, batch_size: int) -> None:
        """Notes what fitted, for the next shard."""
        self.batch_size = batch_size

    def tick(self) -> None:
        """Passes on that time goes by; the attempt is kept alive by a thread of its own."""
        self._on_tick()

    def _write(self, *, at_once: bool) -> None:
        self.holding.update(
            at_once=at_once,
            in_hand=tuple(self.in_hand),
            alone=self._alone and len(self.in_hand) == 1,
            cleared=tuple(self.cleared),
            finished=self.num_finished,
        )


def _told(problem: Problem) -> dict[str, str]:
    return {"error_class": problem.error_class.value, "message": problem.message}
