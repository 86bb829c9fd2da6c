"""How far is a run, who works on it, how fast is that, and what failed?

Everything is read, nothing is written, and what cannot be read of one attempt or one failed item
takes nothing away from the rest. Times since are told by the clock of this machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Literal

from infra.store import ObjectNotFound, Store
from manifests.attempts import AttemptRecord, Worker, attempt_name, read_attempt
from manifests.budget import SECONDS_PER_HOUR
from manifests.commits import Index, RunRecord
from manifests.counting import superseded_shards
from manifests.errors import RunFolderError
from tasks.keeping.speed import Speed, speed_of
from tasks.runs.committed import Committed, Row, find_index, newer_index
from tasks.runs.run_folder import (
    MAX_NOTE_BYTES,
    READERS,
    ListedAttempt,
    find_generations,
    newest_attempts,
    open_run,
    recorded_job,
)
from tasks.runs.run_plan import open_plan
from tasks.runs.spending import spent_seconds
from tasks.runs.worker_identity import is_gone
from tasks.work.holding import LEASE_SECONDS

MAX_ATTEMPTS = 1000
"""Attempts that are read, those that changed last; a run has as many workers at most, or nearly."""

MAX_SHARDS_LOOKED_AT = 8
"""Shards that are read to find an example of one class of errors."""


State = Literal["working", "silent", "gone", "ended"]
"""Of the newest attempt at a shard without a commit: its worker gives signs of life; has given none
for the lease, so that another one may take the shard; is known to be gone; or the attempt ended."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The newest attempt at a shard that has no commit.

    Attributes:
        record: as it was read.
        state: what is known of it.
        seconds: since it was begun, or since it ended; None where its record has no such time.
        silent_seconds: since its record was written last.
    """

    record: AttemptRecord
    state: State
    seconds: float | None
    silent_seconds: float


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The failed items of one class.

    Attributes:
        error_class: its name, as in `manifests.items.ErrorClass`.
        num_items: how many there are.
        key, message: of one of them; None where none could be read.
    """

    error_class: str
    num_items: int
    key: str | None = None
    message: str | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the commits of a run say at one moment.

    Attributes:
        index: the committed shards and their counts.
        failures: by class, the most frequent first.
    """

    index: Index
    failures: tuple[Failures, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A run at one moment.

    Attributes:
        index: what the commits say.
        num_unpublished: commits that the published `index.json` does not have as they are.
        num_superseded: shards that were planned anew and do not count any more.
        attempts: the newest at each shard without a commit, in the order of shards.
        num_unread: attempts beyond the 1,000 that changed last; they are not read.
        failures: by class, the most frequent first.
        speed: of the workers at work; None where there are none, or none has committed anything.
        device_seconds: that workers held their devices until now, over all runs of the folder.
        price_per_hour: of the machine of one worker; None where the job has none.
    """

    uri: str
    run: RunRecord
    index: Index
    num_unpublished: int
    num_superseded: int
    attempts: tuple[Attempt, ...]
    num_unread: int
    failures: tuple[Failures, ...]
    speed: Speed | None
    device_seconds: float
    price_per_hour: float | None

    @cached_property
    def workers(self) -> list[Attempt]:
        """The attempts that workers are at, as far as is known."""
        return [attempt for attempt in self.attempts if attempt.state == "working"]

    @property
    def num_shards(self) -> int:
        """Planned shards that count."""
        return sum(one.num_shards for one in self.index.generations) - self.num_superseded

    @property
    def num_committed(self) -> int:
        """Committed shards that count."""
        return sum(not shard.superseded for shard in self.index.shards)

    @property
    def cost(self) -> float | None:
        """What was spent, in the money of the price; None where there is no price."""
        if self.price_per_hour is None:
            return None
        return self.device_seconds / SECONDS_PER_HOUR * self.price_per_hour

    @property
    def seconds_left(self) -> float | None:
        """Until the run is complete, with the workers of now; None where that cannot be told."""
        if self.index.complete or self.speed is None:
            return None
        begun = sum(worker.record.finished for worker in self.workers)
        left = max(0, self.index.counts.pending - begun)
        return left / self.speed.items_per_second


def read_figures(uri: str) -> Figures:
    """What the commits of a run say now; less work than an overview, as no attempt is read.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
        StoreError: the store refuses or does not answer.
    """
    store, run = open_run(uri)
    index = newer_index(store, run, find_index(store, run))
    return Figures(index=index, failures=tuple(_failures(store, run, index)))


def overview(uri: str) -> Overview:
    """A run as its records say now.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
        StoreError: the store refuses or does not answer.
    """
    store, run = open_run(uri)
    published = find_index(store, run)
    index = newer_index(store, run, published)
    superseded = superseded_shards(find_generations(store, run))
    settled = superseded.union(shard.shard for shard in index.shards)
    newest = newest_attempts(store)
    listed = _held_attempts(newest.values(), settled)
    attempts = _read_attempts(store, listed[:MAX_ATTEMPTS])
    return Overview(
        uri=uri,
        run=run,
        index=index,
        num_unpublished=_num_unpublished(published, index),
        num_superseded=len(superseded),
        attempts=attempts,
        num_unread=len(listed) - len(attempts),
        failures=tuple(_failures(store, run, index)),
        speed=speed_of(index.shards, _processes(attempts)),
        device_seconds=spent_seconds(store, index.shards, newest),
        price_per_hour=_price(run),
    )


def is_worked_on(store: Store, index: Index) -> bool:
    """Whether a worker has a shard in hand that is not in the index, as far as is known.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    settled = {shard.shard for shard in index.shards}
    listed = _held_attempts(newest_attempts(store).values(), settled)
    return any(one.state == "working" for one in _read_attempts(store, listed[:MAX_ATTEMPTS]))


def _price(run: RunRecord) -> float | None:
    try:
        return recorded_job(run).compute.price_per_hour
    except RunFolderError:  # of another version of stylefarm
        return None


def _num_unpublished(published: Index | None, index: Index) -> int:
    known = {(shard.shard, shard.etag) for shard in published.shards} if published else ()
    return sum((shard.shard, shard.etag) not in known for shard in index.shards)


def _held_attempts(
    newest: Iterable[ListedAttempt], settled: Collection[str]
) -> list[ListedAttempt]:
    """The newest attempt at each shard that is not settled, those that changed last first."""
    open_ones = (one for one in newest if one.shard not in settled)
    return sorted(open_ones, key=lambda one: one.modified, reverse=True)


def _read_attempts(store: Store, listed: Sequence[ListedAttempt]) -> tuple[Attempt, ...]:
    """The attempts without those of shards that were committed meanwhile, in order of shards."""
    with ThreadPoolExecutor(READERS) as pool:
        records = list(pool.map(lambda one: _read_attempt(store, one), listed))
    now = datetime.now(UTC)
    attempts = (
        _attempt(record, (now - one.modified).total_seconds(), now)
        for one, record in zip(listed, records, strict=True)
        if record is not None and record.ending not in ("committed", "lost")
    )
    return tuple(sorted(attempts, key=lambda attempt: attempt.record.shard))


def _read_attempt(store: Store, listed: ListedAttempt) -> AttemptRecord | None:
    """An attempt; one whose record cannot be read has ended, with the reason as its error."""
    try:
        name = attempt_name(listed.shard, listed.number)
        data = store.get_range(name, 0, MAX_NOTE_BYTES)
        return read_attempt(data, listed.shard, listed.number)
    except ObjectNotFound:
        return None
    except RunFolderError as error:
        return AttemptRecord(
            shard=listed.shard,
            number=listed.number,
            attempt_id="",
            worker=Worker(id=""),
            ending="infra",
            error=f"its record cannot be read: {error}",
        )


def _attempt(record: AttemptRecord, silent_seconds: float, now: datetime) -> Attempt:
    if record.ending is not None:
        state: State = "ended"
    elif is_gone(record.worker):
        state = "gone"
    else:
        state = "silent" if silent_seconds >= LEASE_SECONDS else "working"
    since = record.begun_at if record.ending is None else record.ended_at
    return Attempt(
        record=record,
        state=state,
        seconds=_seconds_since(since or "", now),
        silent_seconds=max(0.0, silent_seconds),
    )


def _seconds_since(time: str, now: datetime) -> float | None:
    try:
        return max(0.0, (now - datetime.fromisoformat(time)).total_seconds())
    except (ValueError, TypeError):  # no time, or none with a time zone
        return None


def _processes(attempts: Sequence[Attempt]) -> Counter[str]:
    """How many workers each process at work has, by its name as commits have it."""
    workers = (one.record.worker for one in attempts if one.state == "working")
    return Counter(f"{worker.host}:{worker.pid}" for worker in workers)


def _failures(store: Store, run: RunRecord, index: Index) -> Iterator[Failures]:
    """The classes of errors with an example of each, where one can be read."""
    if not index.stats.errors:
        return
    committed = Committed(open_plan(store, run), {shard.shard: shard for shard in index.shards})
    for error_class, num_items in Counter(index.stats.errors).most_common():
        row = _example(committed, error_class)
        key, message = (row["key"], row["error_message"]) if row else (None, None)
        yield Failures(error_class=error_class, num_items=num_items, key=key, message=message)


def _example(committed: Committed, error_class: str) -> Row | None:
    """A row that counts of one class; a shard whose rows cannot be read is passed over."""
    shards = (name for name, one in committed.live.items() if error_class in one.stats.errors)
    for shard in islice(shards, MAX_SHARDS_LOOKED_AT):
        with suppress(RunFolderError):
            for row, _ in committed.counting_rows(shard):
                if row["error_class"] == error_class:
                    return row
    return None
