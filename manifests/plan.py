"""The plan: every item of a generation in one frozen table, cut into shards of about equal cost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from manifests.items import REFERENCE_ROLES, Item

PLAN_NAME = "plan/plan.parquet"
"""The plan of a run folder of the first layout; later ones are named by `plan_name`."""

SHARD_PATTERN = "(?:g[0-9]{4}-)?[0-9]{5,12}"
"""Names of shards, as a regular expression; they stand in file names."""

MAX_GENERATION = 9999

_SHARD = re.compile(SHARD_PATTERN)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard as a plan cuts it: how many items it has, and what rendering them should take."""

    name: str
    num_items: int
    cost_seconds: float


def plan_name(digest: str) -> str:
    """Where a plan lies in the run folder: its name holds the beginning of its sha256."""
    return f"plan/{digest[:12]}.parquet"


def sources_name(digest: str) -> str:
    """Where what a plan's sources listed lies in the run folder."""
    return f"sources/{digest[:12]}.parquet"


def shard_name(generation: int, number: int) -> str:
    """The name of a shard: names of later generations sort after all those of earlier ones."""
    return f"g{generation:04d}-{number:05d}" if generation else f"{number:05d}"


def generation_of(shard: str) -> int:
    """The number of the generation that a shard's name tells; 0 is the first plan's.

    Raises:
        ValueError: it is no name of a shard.
    """
    if not _SHARD.fullmatch(shard):
        raise ValueError(f"{shard[:80]!r} is no name of a shard")
    return int(shard[1:5]) if shard.startswith("g") else 0


def cut_into_shards(
    items: Iterable[Item], *, shard_seconds: float, shard_items: int, generation: int = 0
) -> list[Item]:
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
            cut.append(replace(item, shard=shard_name(generation, number)))
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
