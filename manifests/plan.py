"""The plan: every item of a run in one frozen table, cut into shards of about equal cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from manifests.items import REFERENCE_ROLES, Item

PLAN_NAME = "plan/plan.parquet"

SHARD_PATTERN = "[0-9]{5,12}"
"""Names of shards, as a regular expression; they stand in file names."""


@dataclass(frozen=True)
class Plan:
    """The items of a run, in shard order, and the sha256 of the file that holds them."""

    items: tuple[Item, ...]
    digest: str

    def shards(self) -> dict[str, list[Item]]:
        """The items by shard."""
        return {shard: list(items) for shard, items in groupby(self.items, lambda item: item.shard)}

    def problems(self) -> list[Item]:
        """The items that preflight found wanting."""
        return [item for item in self.items if item.problem is not None]


def cut_into_shards(items: Iterable[Item], *, shard_seconds: float, shard_items: int) -> list[Item]:
    """The items in plan order, each with its shard.

    Items of one shard agree in task, settings and size. Within such a bucket items that share
    references stay together, in hash order; a shard is full at `shard_seconds` of estimated
    rendering time or at `shard_items`.
    """
    cut: list[Item] = []
    number = -1
    for _, bucket in groupby(sorted(items, key=_plan_order), key=_bucket):
        room_seconds, room_items = 0.0, 0
        for item in bucket:
            if room_items == 0 or item.cost_seconds > room_seconds:
                number += 1
                room_seconds, room_items = shard_seconds, shard_items
            room_seconds -= item.cost_seconds
            room_items -= 1
            cut.append(replace(item, shard=f"{number:05d}"))
    return cut


def _bucket(item: Item) -> tuple[Any, ...]:
    return (item.task, item.width, item.height, item.params)


def _plan_order(item: Item) -> tuple[Any, ...]:
    references = [
        reference.sha256 or reference.uri
        for reference in item.inputs
        if reference.role in REFERENCE_ROLES
    ]
    return (_bucket(item), references, item.item_id)
