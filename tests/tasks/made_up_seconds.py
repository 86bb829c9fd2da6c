"""Shards that take as many seconds as a test says, by the clocks of their workers, and no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from manifests.items import ErrorClass, Problem
from manifests.outcomes import Outcome
from tasks.work.finishing import ShardInWork
from tasks.work.holding import Holding
from tasks.work.shard_work import ShardWork, Watch


def make_up_seconds(patch: pytest.MonkeyPatch, seconds: float | Mapping[str, float]) -> None:
    """From now on a shard takes so long, or as long as its name says.

    An attempt that ends has held its device as long.
    """

    def taken(shard: str) -> float:
        return seconds[shard] if isinstance(seconds, Mapping) else seconds

    patch.setattr(ShardInWork, "seconds", property(lambda shard: taken(shard.name)))
    patch.setattr(Holding, "_device_seconds", lambda holding: taken(holding.shard))


class MadeUp:
    """A renderer that gives every item a row at once.

    Args:
        before: called before the n-th shard, from 0, with the shard and its watch.
        loading: called while the model loads.
        load_seconds: that it takes.

    Attributes:
        num_loaded: how often the model was loaded.
        shards: those that were rendered, in order.
    """

    def __init__(
        self,
        before: Callable[[int, ShardWork, Watch], None] = lambda number, work, watch: None,
        loading: Callable[[], object] = lambda: None,
        load_seconds: float = 0.0,
    ) -> None:
        self._before, self._loading, self._load_seconds = before, loading, load_seconds
        self.num_loaded = 0
        self.shards: list[str] = []

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        if not work.items:
            self.num_loaded += 1
            self._loading()
            watch.loaded(self._load_seconds, "cpu")
            return
        self.shards.append(cast(Any, watch).holding.shard)
        self._before(len(self.shards) - 1, work, watch)
        for item in work.items:
            watch.begin([item.item_id], alone=False)
            watch.finish(Outcome(item, problem=Problem(ErrorClass.DECODE, "made up")))

    def close(self) -> None:
        """There is no process."""
