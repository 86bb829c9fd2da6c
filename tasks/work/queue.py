"""Which shard is next? The run folder is the queue; this is one worker's view of it.

The view is refreshed at intervals and may be out of date: what it offers is decided by the one
write that takes a shard. The longest shards come first, by powers of two of their cost, and within
such a class every worker has an order of its own, so that workers rarely meet.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from infra.store import ObjectNotFound, Store, local_path
from manifests.attempts import (
    AttemptRecord,
    Background,
    Worker,
    attempt_name,
    read_attempt,
    unexplained_deaths,
)
from manifests.commits import commit_name
from manifests.errors import RunFolderError
from manifests.plan import SHARD_PATTERN, PlannedShard
from tasks.runs.run_plan import RunPlan
from tasks.runs.worker_identity import is_comparable, is_gone
from tasks.work.holding import LEASE_SECONDS, Holding, take

logger = logging.getLogger(__name__)

MAX_ATTEMPT_BYTES = 1 << 20
MAX_READS = 8
"""Attempts that a busy worker reads at one refresh, to learn which shards were given up."""

MAX_EVIDENCE = 256
"""Attempts that are read at most to learn how often workers die; also of one shard."""

_ATTEMPT = re.compile(rf"attempts/({SHARD_PATTERN})/([1-9][0-9]{{0,8}})\.json")
_COMMIT = re.compile(rf"commits/({SHARD_PATTERN})\.json")


@dataclass
class _Newest:
    """The newest attempt at a shard, as far as this worker has seen.

    Attributes:
        etag: as it was listed; it changes with every beat.
        since: when this etag was first seen, by this worker's own clock.
        record: what it says, where it was read since.
        is_old: an earlier listing showed the same etag.
    """

    number: int
    etag: str
    since: float
    record: AttemptRecord | None = None
    is_old: bool = False

    def is_free(self) -> bool:
        """Whether the next attempt may begin, as far as is known."""
        if self.record is None:
            return False
        return self.record.ending is not None or self.is_lost()

    def is_lost(self) -> bool:
        """Whether its holder is gone, or has shown no sign of life for the lease."""
        stands_still = self.is_old and time.monotonic() - self.since >= LEASE_SECONDS
        return stands_still or (self.record is not None and is_gone(self.record.worker))


class ShardQueue:
    """The shards of a run that still need a worker, as one worker sees them.

    Args:
        store: of the run folder.
        plan: what is planned now.
        worker: whose view this is.
        on_commit: told each shard once whose commit a listing shows.
    """

    def __init__(
        self, store: Store, plan: RunPlan, worker: Worker, on_commit: Callable[[str], None]
    ) -> None:
        self._store, self._worker, self._on_commit = store, worker, on_commit
        is_local = local_path(store.uri) is not None
        self._busy_interval, self._idle_interval = (5.0, 1.0) if is_local else (60.0, 5.0)
        self._committed: set[str] = set()
        self._newest: dict[str, _Newest] = {}  # of shards without a commit
        self._tried_again: dict[str, int] = {}  # how often, of all shards
        self._set_aside: set[str] = set()
        self._listed_at, self._listing_seconds = -math.inf, 0.0
        self.use(plan)

    def use(self, plan: RunPlan) -> None:
        """Follows a plan from now on, such as one that has grown."""
        self._plan = plan
        self._order = sorted(plan.shards.values(), key=self._rank)
        self._find_left()
        self._next: Iterator[str] = iter(())
        self._listed_at = -math.inf

    @property
    def committed(self) -> Collection[str]:
        """The shards with a commit, as of the last listing."""
        return self._committed

    @property
    def num_left(self) -> int:
        """Planned shards without a commit, as of the last listing."""
        return len(self._left)

    @property
    def num_items_left(self) -> int:
        """Items of the shards without a commit."""
        return self._num_items_left

    @property
    def plan(self) -> RunPlan:
        """What is planned, as far as this worker follows it."""
        return self._plan

    @property
    def seconds_since_listing(self) -> float:
        """How old this view is."""
        return time.monotonic() - self._listed_at

    @property
    def in_hand(self) -> dict[str, AttemptRecord | None]:
        """Shards that a worker holds, as far as is known, with its attempt where it was read."""
        return {
            shard: newest.record
            for shard, newest in self._newest.items()
            if shard not in self._committed and not newest.is_free()
        }

    @property
    def tried(self) -> dict[str, int]:
        """The newest attempt at each shard without a commit, or with more than one attempt."""
        return self._tried_again | {shard: one.number for shard, one in self._newest.items()}

    def left(self) -> Collection[PlannedShard]:
        """Planned shards without a commit, whoever holds them."""
        return self._left.values()

    def free(self) -> Iterator[PlannedShard]:
        """Those that could be taken, as far as is known."""
        return (shard for shard in self.left() if self._seems_free(shard.name))

    def look(self) -> None:
        """Looks again, however new the view is.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self._list()
        self._read_all()

    def peek(self) -> str | None:
        """A shard that could be taken, as far as is known; None where there is none.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self.refresh()
        return next((shard for shard in self._candidates() if self._seems_free(shard)), None)

    def take(self, covers: Callable[[PlannedShard], bool]) -> Holding | None:
        """A shard that this worker holds from now on; None where there is none to take now.

        Args:
            covers: whether the run's budget covers a shard.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self.refresh()
        if holding := self._take_next(covers):
            return holding
        if self.seconds_since_listing >= self._interval(self._idle_interval):
            self._list()
        self._read_all()
        self._next = self._candidates()
        return self._take_next(covers)

    def note_commit(self, shard: str) -> None:
        """Notes that a shard is committed."""
        self._committed.add(shard)
        if left := self._left.pop(shard, None):
            self._num_items_left -= left.num_items

    def set_aside(self, shard: str) -> None:
        """Leaves a shard until there is nothing else to do."""
        self._set_aside.add(shard)

    def attempts(self, shard: str, below: int) -> list[AttemptRecord]:
        """The attempts at a shard with lower numbers, the newest 256 at most.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        numbers = range(max(1, below - MAX_EVIDENCE), below)
        found = (self._read(shard, number) for number in numbers)
        return [record for record in found if record is not None]

    def background(self, shard: str) -> Background:
        """What happened at other shards: how many items came through, how many attempts died.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self._list()
        finished = sum(
            planned.num_items
            for name, planned in self._plan.shards.items()
            if name in self._committed and name != shard
        )
        tried_again = {name: number for name, number in self._tried_again.items() if name != shard}
        deaths, num_read = 0, 0
        for name, number in tried_again.items():
            if num_read + number > MAX_EVIDENCE and num_read:
                break
            deaths += unexplained_deaths(self.attempts(name, number + 1))
            num_read += number
        share = num_read / max(1, sum(tried_again.values()))
        return Background(deaths=math.ceil(deaths / max(share, 1e-9)), finished=finished)

    def others_at_work(self) -> Iterator[tuple[AttemptRecord, bool]]:
        """Attempts of other workers that go on, each with whether their process is seen to live.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self._list()
        self._read_all()
        for newest in self._newest.values():
            record = newest.record
            if record is None or newest.is_free():
                continue
            if record.worker.id != self._worker.id:
                yield record, is_comparable(record.worker)

    def _rank(self, shard: PlannedShard) -> tuple[int, bytes]:
        """Longer classes of cost come first; inside one the order is this worker's own."""
        cost_class = math.frexp(max(shard.cost_seconds, 1e-9))[1]
        return -cost_class, hashlib.sha256(f"{self._worker.id} {shard.name}".encode()).digest()

    def _interval(self, seconds: float) -> float:
        """Listings take at most a twentieth of a worker's time, however long they are."""
        return max(seconds, 20 * self._listing_seconds)

    def refresh(self) -> None:
        """Looks again where the view is old.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        if self.seconds_since_listing >= self._interval(self._busy_interval):
            self._list()
            self._read_some()

    def _take_next(self, covers: Callable[[PlannedShard], bool]) -> Holding | None:
        for shard in self._next:
            if covers(self._plan.shards[shard]) and (holding := self._take(shard)):
                return holding
        return None

    def _take(self, shard: str) -> Holding | None:
        if not self._seems_free(shard):
            return None
        newest = self._newest.get(shard)
        if newest is not None and self._store.find(commit_name(shard)) is not None:
            self._see_commit(shard)
            return None
        number = 1 if newest is None else newest.number + 1
        is_lost = newest is not None and newest.record is not None and not newest.record.ending
        took_over = number - 1 if is_lost else None
        holding = take(self._store, shard, number, self._worker, took_over=took_over)
        self._newest[shard] = _Newest(number, "", time.monotonic())
        return holding

    def _seems_free(self, shard: str) -> bool:
        newest = self._newest.get(shard)
        return shard not in self._committed and (newest is None or newest.is_free())

    def _candidates(self) -> Iterator[str]:
        """The shards to try, those last that were set aside."""
        first = [shard for shard in self._left if shard not in self._set_aside]
        return iter(first + [shard for shard in self._left if shard in self._set_aside])

    def _find_left(self) -> None:
        self._left = {one.name: one for one in self._order if one.name not in self._committed}
        self._num_items_left = sum(one.num_items for one in self._left.values())

    def _list(self) -> None:
        """Looks which attempts and commits there are; attempts first, so that no end is missed."""
        started = time.monotonic()
        found: dict[str, tuple[int, str]] = {}
        for listed in self._store.list("attempts/"):
            if name := _ATTEMPT.fullmatch(listed.key):
                shard, number = name[1], int(name[2])
                found[shard] = max(found.get(shard, (0, "")), (number, listed.etag))
        committed = {
            name[1]
            for listed in self._store.list("commits/")
            if (name := _COMMIT.fullmatch(listed.key))
        }
        for shard in sorted(committed - self._committed):
            self._see_commit(shard)
        self._committed = committed
        self._find_left()
        self._tried_again = {shard: number for shard, (number, _) in found.items() if number > 1}
        self._newest = {
            shard: self._seen(shard, number, etag, started)
            for shard, (number, etag) in found.items()
            if shard not in committed
        }
        self._next = self._candidates()
        self._listed_at = time.monotonic()
        self._listing_seconds = self._listed_at - started

    def _seen(self, shard: str, number: int, etag: str, now: float) -> _Newest:
        known = self._newest.get(shard)
        if known is None or (known.number, known.etag) != (number, etag):
            return _Newest(number, etag, now)
        known.is_old = True
        return known

    def _see_commit(self, shard: str) -> None:
        self.note_commit(shard)
        if shard in self._plan.shards:
            self._on_commit(shard)

    def _unread(self) -> list[tuple[str, _Newest]]:
        return [
            (shard, newest)
            for shard, newest in self._newest.items()
            if newest.record is None and shard not in self._committed and shard in self._plan.shards
        ]

    def _read_some(self) -> None:
        """Reads attempts that have stood still since the last listing: they may have ended."""
        old = [(shard, newest) for shard, newest in self._unread() if newest.is_old]
        for shard, newest in old[:MAX_READS]:
            newest.record = self._read(shard, newest.number)

    def _read_all(self) -> None:
        for shard, newest in self._unread():
            newest.record = self._read(shard, newest.number)

    def _read(self, shard: str, number: int) -> AttemptRecord | None:
        """An attempt; a damaged one counts as ended, as it holds nothing but a lease."""
        name = attempt_name(shard, number)
        try:
            data = self._store.get_range(name, 0, MAX_ATTEMPT_BYTES)
            return read_attempt(data, shard, number)
        except ObjectNotFound:
            return None
        except RunFolderError as error:
            logger.warning("%s", error)
            worker = Worker(id="")
            return AttemptRecord(
                shard=shard,
                number=number,
                attempt_id="",
                worker=worker,
                ending="infra",
                error=str(error)[:2000],
            )
