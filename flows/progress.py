"""How far a run is, put together from what its workers tell.

One instance follows the workers of one process. Its counts are the run's: shards that workers
elsewhere commit count as soon as a listing shows them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from flows.terminal import counted
from manifests.commits import Counts, Index
from manifests.job import Limits
from tasks.work.events import (
    Committed,
    CommittedElsewhere,
    Ended,
    ItemDone,
    Phase,
    Progress,
    WorkEvent,
)

PACE_SECONDS = 5.0
"""After so long the steps that are done tell how long the others will take."""

STARTING, PUBLISHING = "starting workers", "publishing"

STOPPED = "Cancelled"
"""The name of the end of a run that somebody stopped."""

PHASES = {
    "rendering": "rendering",
    "committing": "committing",
    "loading": "loading",
    "waiting": "waiting for other workers",
    "starting": STARTING,
}
"""What a worker tells of itself, and how that is shown; in this order where workers differ."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """How far something is at one moment.

    Attributes:
        phase: what is being done.
        done, total: how much of it; what is begun counts as a fraction.
        milestones: pieces that are finished for good, such as shards.
        figures: counts and speed in a few words.
        seconds_left: None until that can be told.
    """

    phase: str
    done: float
    total: float
    milestones: int = 0
    figures: str
    seconds_left: float | None = None

    @property
    def eta(self) -> str:
        """The time that is left, as hours, minutes and seconds."""
        if self.seconds_left is None:
            return "not known yet"
        return str(timedelta(seconds=round(self.seconds_left)))


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How a command's part of a run has ended.

    Attributes:
        is_good: whether nothing is the matter: the run is complete, with no more failed items than
            the job allows, or this part of it did what it was asked to.
        message: counts, or what ended it.
        counts: of the published run; None where it was not published.
        errors: its failed items by class.
        device_seconds: that workers held their devices, over the whole run.
        digest: of the rows of a complete run, by which two who see the same end know it; empty
            where it is not complete.
        is_part: whether the run goes on with others, or later, and nothing is the matter: somebody
            asked for this end, or this part did what it was asked to.
        name: of Prefect's state, where it is not the usual one.
    """

    is_good: bool
    message: str
    counts: Counts | None = None
    errors: Mapping[str, int] = field(default_factory=dict[str, int])
    device_seconds: float | None = None
    digest: str = ""
    is_part: bool = False
    name: str | None = None

    @staticmethod
    def of(index: Index, limits: Limits) -> RunEnd:
        """That of a run that was published."""
        counts = index.counts
        is_allowed = limits.allows(counts.failed, counts.planned)
        words = counted_words(counts, index.stats.errors)
        ending = "" if is_allowed else f", more than limits.max_failed allows ({limits.max_failed})"
        return RunEnd(
            is_good=index.complete and is_allowed,
            message=f"{'complete' if index.complete else 'incomplete'}: {words}{ending}",
            counts=counts,
            errors=dict(index.stats.errors),
            device_seconds=index.stats.device_seconds,
            digest=index.rows_digest if index.complete else "",
            is_part=not index.complete,
            name="FailedItems" if index.complete and not is_allowed else None,
        )

    @staticmethod
    def of_part(num_committed: int, num_left: int) -> RunEnd:
        """That of the part of one worker, in shards, which leaves the rest to others."""
        done, left = counted(num_committed, "shard"), counted(num_left, "shard")
        message = f"{done} committed; of the run {left} are left"
        return RunEnd(is_good=True, message=message, is_part=True)


def counted_words(counts: Counts, errors: Mapping[str, int]) -> str:
    """Counts for people, such as `4 ok, 2 failed (2 decode) of 6 items`; zeros are left out."""
    parts = [f"{counts.ok} ok"]
    if counts.failed:
        classes = ", ".join(f"{number} {name}" for name, number in sorted(errors.items()))
        parts.append(f"{counts.failed} failed" + (f" ({classes})" if classes else ""))
    rest = {"skipped": counts.skipped, "pending": counts.pending}
    parts += [f"{number} {status}" for status, number in rest.items() if number]
    items = "1 item" if counts.planned == 1 else f"{counts.planned} items"
    return f"{', '.join(parts)} of {items}"


class Readable(Protocol):
    """Something that can be asked at any moment how far it is."""

    def read(self) -> Snapshot:
        """How far it is now."""
        ...


class PictureProgress:
    """How far one picture is: the model loads, then each step counts."""

    def __init__(self) -> None:
        self._num_done, self._num_steps = 0, 0
        self._began = 0.0

    def begin(self) -> None:
        """The model is loaded."""
        self._began = time.monotonic()

    @property
    def expected_seconds(self) -> float | None:
        """Of all steps, by those that are done; None until these took so long that it shows."""
        seconds = time.monotonic() - self._began
        if not self._num_done or seconds < PACE_SECONDS:
            return None
        return seconds / self._num_done * self._num_steps

    def step(self, num_done: int, num_steps: int) -> None:
        """Some more of so many steps are done."""
        self._num_done, self._num_steps = self._num_done + num_done, num_steps

    def read(self) -> Snapshot:
        """How far the picture is now."""
        done, total = self._num_done, max(1, self._num_steps)
        seconds = time.monotonic() - self._began
        return Snapshot(
            phase="rendering" if self._began else "loading",
            done=done,
            total=total,
            figures=f"{done}/{total} steps" if self._num_steps else "",
            seconds_left=seconds / done * (total - done) if done else None,
        )


@dataclass
class _Worker:
    """One worker's shard so far; `steps` counts items by their steps, `done` those that ended.

    `storing` is a shard before, which is rendered and on its way to the run folder.
    """

    phase: str = "starting"
    shard: str | None = None
    storing: str | None = None
    steps: float = 0.0
    done: int = 0

    def begin(self, shard: str | None) -> None:
        self.shard, self.steps, self.done = shard, 0.0, 0


@dataclass
class RunProgress:
    """Adds up the events of workers; every method may be called by any thread.

    Attributes:
        shards: the number of items of every planned shard, by name.
        committed: those that exist already.
        clock: seconds that only grow.
    """

    shards: Mapping[str, int]
    committed: Iterable[str] = ()
    clock: Callable[[], float] = time.monotonic
    _workers: dict[str, _Worker] = field(default_factory=dict[str, _Worker], init=False)
    _failed: int = field(default=0, init=False)
    _began: float | None = field(default=None, init=False)
    _publishing: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._committed = set(self.committed) & set(self.shards)
        self._num_items = sum(self.shards.values())
        self._num_committed = sum(self.shards[shard] for shard in self._committed)
        self._num_before = self._num_committed

    def tell(self, event: WorkEvent) -> None:
        """Takes in what a worker tells."""
        with self._lock:
            worker = self._workers.setdefault(event.worker, _Worker())
            if isinstance(event, Phase):
                worker.phase = event.name
                if event.name == "committing":
                    worker.storing = event.shard
                if event.shard != worker.shard:
                    worker.begin(event.shard)
            elif isinstance(event, Progress):
                self._begin()
                worker.steps += event.items
            elif isinstance(event, ItemDone):
                self._begin()
                worker.done += 1
                self._failed += event.error_class is not None
            elif isinstance(event, Committed | CommittedElsewhere):
                self._count(event.shard)
            elif isinstance(event, Ended) and len(self._workers) > 1:
                del self._workers[event.worker]  # what it had in hand is begun anew by another

    @property
    def num_shards_left(self) -> int:
        """Planned shards that nobody has committed yet."""
        return len(self.shards) - len(self._committed)

    def follow(self, shards: Mapping[str, int], committed: Iterable[str]) -> None:
        """Takes in a plan that has grown; workers go on."""
        with self._lock:
            self.shards, self._publishing = shards, False
            self._num_items = sum(shards.values())
            for shard in committed:
                self._count(shard)

    def publish(self) -> None:
        """Notes that every worker has ended and the run is being published."""
        with self._lock:
            self._publishing = True

    def read(self) -> Snapshot:
        """How far the run is now."""
        with self._lock:
            items = self._items()
            rate = self._rate(items)
            return Snapshot(
                phase=self._phase(),
                done=items,
                total=self._num_items,
                milestones=len(self._committed),
                figures=self._figures(items, rate),
                seconds_left=(self._num_items - items) / rate if rate else None,
            )

    def _begin(self) -> None:
        if self._began is None:
            self._began = self.clock()

    def _count(self, shard: str) -> None:
        if shard in self.shards and shard not in self._committed:
            self._committed.add(shard)
            self._num_committed += self.shards[shard]

    def _items(self) -> float:
        in_work = {
            shard: min(max(worker.steps, worker.done), self.shards[shard])
            for worker in self._workers.values()
            if (shard := worker.shard or "") in self.shards and shard not in self._committed
        }
        for worker in self._workers.values():
            if (shard := worker.storing or "") in self.shards and shard not in self._committed:
                in_work[shard] = self.shards[shard]
        return self._num_committed + sum(in_work.values())

    def _rate(self, items: float) -> float:
        """Items of the run in a second since the first of this process was begun."""
        if self._began is None:
            return 0.0
        return (items - self._num_before) / max(self.clock() - self._began, 1.0)

    def _figures(self, items: float, rate: float) -> str:
        parts = [
            f"{int(items + 1e-6)}/{self._num_items} items",
            f"{len(self._committed)}/{len(self.shards)} shards",
        ]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if rate:
            parts.append(f"{rate:.2f} images/s")
        return " · ".join(parts)

    def _phase(self) -> str:
        if self._publishing:
            return PUBLISHING
        told = Counter(worker.phase for worker in self._workers.values())
        if not told:
            return STARTING
        if len(told) == 1:
            (name,) = told
            return PHASES.get(name, name)
        order = [*PHASES, *told]
        return ", ".join(
            f"{told[name]} {PHASES.get(name, name)}" for name in sorted(told, key=order.index)
        )
