"""Which items of a plan are alike, so that what is known of some tells of all?

A bucket is what the items of a shard agree in: task, settings, and the size up to a factor of two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ad_lib.presets import find_preset
from ad_lib.settings import Settings
from manifests.items import Item
from manifests.plan import bucket_of
from manifests.plan_table import PlanFile
from tasks.runs.item_settings import settings_in
from tasks.runs.run_plan import RunPlan

NUM_EXAMPLES = 2

_COLUMNS = ("task", "params", "label", "width", "height", "key", "error_class", "cost_seconds")


@dataclass(kw_only=True)
class Bucket:
    """The items of a plan that agree in task, settings, and the size up to a factor of two.

    Attributes:
        task: the preset's name.
        label: of the sweep entry; empty where there is none.
        params: of its first item.
        smallest, largest: (width, height) in pixels of its results, by their number of pixels.
        shards: names, in plan order.
        num_items: with those that cannot be rendered.
        num_problems: items that planning found wanting.
        cost_seconds: what the planner expects all of them to take.
        examples: keys of a few items that can be rendered.
    """

    task: str
    label: str
    params: str
    smallest: tuple[int, int]
    largest: tuple[int, int]
    shards: list[str] = field(default_factory=list)
    num_items: int = 0
    num_problems: int = 0
    cost_seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """What its items agree in."""
        return settings_in(self.params)

    @property
    def num_sound(self) -> int:
        """Items that can be rendered."""
        return self.num_items - self.num_problems

    @property
    def algorithm(self) -> str:
        """What its task runs."""
        return find_preset(self.task).algorithm

    def add(self, shard: str, table: pa.Table) -> None:
        """Takes in a shard, by the columns of its items."""
        self.shards.append(shard)
        self.num_items += table.num_rows
        problems = table["error_class"]
        self.num_problems += len(problems) - problems.null_count
        self.cost_seconds += sum(table["cost_seconds"].to_pylist())
        for size in set(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)):
            self.smallest = min(self.smallest, size, key=_num_pixels)
            self.largest = max(self.largest, size, key=_num_pixels)
        if len(self.examples) < NUM_EXAMPLES:
            sound = table.filter(problems.is_null())["key"]
            self.examples += sound.slice(0, NUM_EXAMPLES - len(self.examples)).to_pylist()


def largest_shard(plan: PlanFile | RunPlan, bucket: Bucket) -> Sequence[Item]:
    """The items of a shard that has many, one of which can be rendered; empty where none can."""
    by_size = sorted(bucket.shards, key=lambda name: -plan.shards[name].num_items)
    shards = map(plan.items, by_size)
    sound = (items for items in shards if any(one.problem is None for one in items))
    return next(sound, ()) if bucket.num_sound else ()


def _num_pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]


BucketKey = tuple[str, str, int]


def buckets_of(
    plan: PlanFile | RunPlan, done: Collection[str] = frozenset()
) -> tuple[dict[BucketKey, Bucket], dict[BucketKey, Bucket]]:
    """The buckets of a plan: of what is pending, and of what is done, each in plan order.

    Args:
        plan: what is planned; shards that no longer count are left out.
        done: shards that are committed.
    """
    pending: dict[BucketKey, Bucket] = {}
    finished: dict[BucketKey, Bucket] = {}
    for shard, table in _tables(plan):
        task, params, label = (table[name][0].as_py() for name in ("task", "params", "label"))
        size = (table["width"][0].as_py(), table["height"][0].as_py())
        key = bucket_of(task, params, *size)
        found = finished if shard in done else pending
        if key not in found:
            found[key] = Bucket(task=task, label=label, params=params, smallest=size, largest=size)
        found[key].add(shard, table)
    return pending, finished


def _tables(plan: PlanFile | RunPlan) -> Iterator[tuple[str, pa.Table]]:
    for file in plan.plans if isinstance(plan, RunPlan) else (plan,):
        for shard, table in file.shard_columns(*_COLUMNS):
            if shard in plan.shards:
                yield shard, table
