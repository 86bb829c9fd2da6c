"""What will the items of a run take, by what is known of their buckets?"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tasks.estimating.buckets import Bucket
from tasks.estimating.measuring import Tried

Basis = Literal["measured", "commits", "remembered", "job", "rough"]
"""Where figures come from: items that were tried now, commits of the run folder, what this machine
measured earlier, `compute.seconds_per_item` of the job, or the planner's rough estimate."""


@dataclass(kw_only=True)
class Outlook:
    """What the pending items of a bucket will take.

    Attributes:
        bucket: the items.
        basis: where the figures come from.
        seconds: of an item, with how many items take so much.
        shard_seconds: that a worker holds its device for each shard.
        batch_size: items of its largest batch; None where nobody knows.
        peak_memory_bytes, output_bytes: None where nobody knows; the latter of all items.
        tried: what was tried of it; None where nothing was.
    """

    bucket: Bucket
    basis: Basis
    seconds: dict[float, float] = field(default_factory=dict[float, float])
    shard_seconds: list[float] = field(default_factory=list[float])
    batch_size: int | None = None
    peak_memory_bytes: int | None = None
    output_bytes: float | None = None
    tried: Tried | None = None

    @property
    def render_seconds(self) -> float:
        """Of all items together."""
        return sum(seconds * number for seconds, number in self.seconds.items())

    @property
    def device_seconds(self) -> float:
        """That workers hold their devices for its shards, without loading the model."""
        return sum(self.shard_seconds)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take, or what is left of it.

    Attributes:
        outlooks: of its buckets.
        load_seconds: that each worker takes to load the model.
        workers: that the job asks for on this machine.
        price_per_hour: of the machine that one worker takes.
        spent_seconds: that earlier workers of the run folder held their devices.
    """

    outlooks: Sequence[Outlook]
    load_seconds: float
    workers: int
    price_per_hour: float | None
    spent_seconds: float = 0.0

    @property
    def num_items(self) -> int:
        """Those that are pending, with those that cannot be rendered."""
        return sum(one.bucket.num_items for one in self.outlooks)

    @property
    def num_problems(self) -> int:
        """Those that cannot be rendered."""
        return sum(one.bucket.num_problems for one in self.outlooks)

    @property
    def num_shards(self) -> int:
        """Those that are pending."""
        return sum(len(one.bucket.shards) for one in self.outlooks)

    @property
    def seconds(self) -> Mapping[float, float]:
        """Of an item, with how many items take so much."""
        found: dict[float, float] = {}
        for one in self.outlooks:
            for seconds, number in one.seconds.items():
                found[seconds] = found.get(seconds, 0.0) + number
        return found

    @property
    def render_seconds(self) -> float:
        """Of all items together."""
        return sum(one.render_seconds for one in self.outlooks)

    @property
    def output_bytes(self) -> float | None:
        """Of all items; None where of a bucket nobody knows."""
        known = [one.output_bytes for one in self.outlooks]
        return None if None in known or not known else sum(one or 0.0 for one in known)

    @property
    def peak_memory_bytes(self) -> int | None:
        """The most of all buckets; None where nobody knows."""
        known = [one.peak_memory_bytes for one in self.outlooks]
        return max((one for one in known if one is not None), default=None)

    def device_seconds(self, workers: int | None = None) -> float:
        """That so many workers, or the job's, hold their devices together."""
        loading = min(workers or self.workers, max(1, self.num_shards)) * self.load_seconds
        return loading + sum(one.device_seconds for one in self.outlooks)

    def wall_seconds(self, workers: int | None = None) -> float:
        """Until all shards are rendered by so many workers, or the job's, that begin together.

        Each takes the longest shard that is left.
        """
        ends = [self.load_seconds] * min(workers or self.workers, max(1, self.num_shards))
        for seconds in sorted(self._every_shard(), reverse=True):
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)

    def cost(self, seconds: float) -> float | None:
        """What so many seconds of a device cost; None without a price."""
        return None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour

    def _every_shard(self) -> Iterable[float]:
        return (seconds for one in self.outlooks for seconds in one.shard_seconds)


def quantile(seconds: Mapping[float, float], share: float) -> float | None:
    """What that share of the items takes at most; None where there are none.

    Args:
        seconds: of an item, with how many items take so much.
        share: 0 to 1.
    """
    wanted, found = share * sum(seconds.values()), 0.0
    for value, number in sorted(seconds.items()):
        found += number
        if found >= wanted - 1e-9:
            return value
    return None
