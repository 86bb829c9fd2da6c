"""May this worker take another shard, as far as the run's budget goes?

What was spent, what is in hand by its estimate, and the next shard must fit together. While there
is room for much more, the view of others may be as old as the queue's; where the budget is nearly
spent it is renewed before each shard. So each worker overshoots by what the shard in its hand takes
longer than expected, or by one shard where two take the last room at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from infra.store import Store
from manifests.amounts import money, plain_number
from manifests.budget import SECONDS_PER_HOUR, Bounds
from manifests.commits import Commit, Index, RunRecord
from manifests.plan import PlannedShard
from tasks.runs.spending import Spending, spent_seconds, tried_in_vain
from tasks.work.queue import ShardQueue

AMPLE_ROUNDS = 2
"""There is ample room where every worker may take so many shards more."""

UNREAD_FACTOR = 2.0
"""While there is ample room, what is not read yet is taken to have cost so much more than usual."""


class Allowance:
    """What a run's budget allows one worker.

    Args:
        store: of the run folder.
        bounds: the budget.
        queue: this worker's view of the run.
        now: this machine's clock.
    """

    def __init__(
        self,
        store: Store,
        bounds: Bounds,
        queue: ShardQueue,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.bounds = bounds
        self._queue, self._now = queue, now
        self._spending = Spending(store)
        self._own: list[str] = []
        self._loading = 0.0
        self._spent = 0.0
        self._in_hand: dict[str, float] = {}
        self._pace: float | None = None

    def note(self, commit: Commit, *, is_own: bool) -> None:
        """Takes in the commit of a shard that this worker has rendered."""
        self._spending.note(commit)
        if is_own:
            self._own.append(commit.shard)

    def note_loading(self, seconds: float) -> None:
        """Takes in how long the model took to load, until a shard is charged for it."""
        self._loading = seconds

    def is_ample(self) -> bool:
        """Whether nobody need look closely before this worker takes a shard.

        That is so only once it has committed one, so that its own speed is known.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        if not self.bounds.is_limited:
            return True
        self._look(roughly=True)
        if self._has_ample_room():
            return True
        self._look()
        return self._has_ample_room()

    def covers_any(self) -> bool:
        """Whether a shard that nobody holds fits into what is left; else one that is held.

        So it is where no shard is left: then the budget ends nobody.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        if any(self._queue.free()):
            self._queue.look()
            self._look()
        return not self._queue.num_left or any(map(self.covers, self._next()))

    def covers(self, shard: PlannedShard) -> bool:
        """Whether a shard fits into what is left, as of the last look."""
        return not self.bounds.is_limited or self._estimate(shard) <= self._room(shard.name)

    def shortest(self) -> float:
        """Seconds that the shortest of the next shards would take, with what loading has taken."""
        return self._loading + min(map(self._estimate, self._next()), default=0.0)

    def _has_ample_room(self) -> bool:
        longest = max(map(self._estimate, self._queue.left()), default=0.0)
        rounds = AMPLE_ROUNDS * (longest + self._queue.seconds_since_listing)
        return bool(self._own) and self._room(None) >= rounds * (1 + len(self._in_hand))

    def _next(self) -> list[PlannedShard]:
        return list(self._queue.free()) or list(self._queue.left())

    def _look(self, *, roughly: bool = False) -> None:
        """Learns what was spent since the last look, and what is in hand.

        Args:
            roughly: read nothing while more has been read of the run than has not.
        """
        queue, spending = self._queue, self._spending
        queue.refresh()
        if self.bounds.max_seconds is None and self._own:
            self._pace = spending.pace(queue.plan.every_shard, self._own)
            return  # what others do changes nothing
        in_hand = queue.in_hand
        ended = {shard: number - (shard in in_hand) for shard, number in queue.tried.items()}
        tried = tried_in_vain(ended, queue.committed)
        planned = queue.plan.every_shard

        def cost(shard: str) -> float:
            return planned[shard].cost_seconds if shard in planned else 0.0

        unread = spending.unread(queue.committed, tried)
        if not roughly or sum(map(cost, unread)) > sum(map(cost, spending.committed)):
            spending.look(queue.committed, tried)
            unread = []
        usual = spending.pace(planned, spending.committed)
        self._pace = spending.pace(planned, self._own) or usual
        unknown = sum(map(cost, spending.damaged)) + UNREAD_FACTOR * sum(map(cost, unread))
        self._spent = spending.seconds + (usual or 1.0) * unknown
        self._in_hand = {
            shard: max((usual or 1.0) * cost(shard), (record and record.device_seconds) or 0.0)
            for shard, record in in_hand.items()
        }

    def _estimate(self, shard: PlannedShard) -> float:
        """Seconds that a shard will take this worker; the planner's before any is committed."""
        return shard.cost_seconds * (self._pace or 1.0)

    def _room(self, shard: str | None) -> float:
        """Seconds that are left, where a shard is not counted that may be in hand."""
        rooms: list[float] = []
        if (most := self.bounds.max_seconds) is not None:
            others = sum(self._in_hand.values()) - self._in_hand.get(shard or "", 0.0)
            rooms.append(most - self._spent - self._loading - others)
        if self.bounds.deadline is not None:
            until = (self.bounds.deadline - self._now()).total_seconds()
            rooms.append(until - self._spending.longest_upload)
        return min(rooms)


def budget_end(store: Store, run: RunRecord, index: Index, bounds: Bounds, shortest: float) -> str:
    """Why a run ended before it was complete, in one sentence, and how it goes on.

    Args:
        store: of the run folder.
        run: what is there.
        index: what its commits say.
        bounds: its budget.
        shortest: seconds that the shortest shard left would take.
    """
    spent = _spent_of(bounds, spent_seconds(store, index.shards) / SECONDS_PER_HOUR, run.hours_name)
    measures = f"'stylefarm work {store.uri} --max-shards 1' measures one"
    next_one = _length(shortest) if index.shards else f"{_length(shortest)} ({measures})"
    ways = ["raise the bound"] if bounds.max_seconds is not None else []
    ways += ["give it more time"] if bounds.deadline is not None else []
    return (
        f"stopped by the budget: {', '.join(spent)}, and the next shard would take about "
        f"{next_one}; {index.counts.pending} of {index.counts.planned} items are pending: "
        f"{' or '.join(ways)}, and run the same command again"
    )


def _spent_of(bounds: Bounds, hours: float, unit: str) -> Iterator[str]:
    """What was spent of what, for each of the bounds."""
    taken = plain_number(hours)
    if bounds.max_gpu_hours is not None:
        yield f"{taken} of {plain_number(bounds.max_gpu_hours)} {unit} are spent"
    if bounds.max_cost is not None and (price := bounds.price_per_hour):
        cost = f"{money(hours * price)} of {money(bounds.max_cost)} are spent"
        yield f"{cost} ({taken} {unit} at {plain_number(price)} each)"
    if bounds.deadline is not None:
        yield f"the deadline is {bounds.deadline.astimezone():%Y-%m-%d %H:%M %Z}"


def _length(seconds: float) -> str:
    if seconds < 120:
        return f"{plain_number(seconds)} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{plain_number(minutes / 60)} h"
