"""The plan: every item of a generation in one frozen table, cut into shards of about equal cost."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from manifests.identity import canonical_json
from manifests.items import REFERENCE_ROLES, Input, Item

PLAN_NAME = "plan/plan.parquet"
"""The plan of a run folder of the first layout; later ones are named by `plan_name`."""

SHARD_PATTERN = "(?:g[0-9]{4}-)?[0-9]{5,12}"
"""Names of shards, as a regular expression; they stand in file names."""

SIZE = ("width", "height")
"""The params that say how large a result is; the others are its settings."""

_SHARD = re.compile(SHARD_PATTERN)


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard as a plan cuts it: how many items it has, and what rendering them should take.

    Attributes:
        first_item: the number of its first item in the plan, from 0.
    """

    name: str
    num_items: int
    cost_seconds: float
    first_item: int = 0


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
    """The items in plan order, each with its shard; see `shard_numbers`.

    Items of one bucket stand together, those of equal size among them, and those that share
    references among these, in the order of their ids.
    """
    ordered = sorted(items, key=_plan_order)
    numbers = shard_numbers(
        ((_bucket(item), item.cost_seconds) for item in ordered),
        shard_seconds=shard_seconds,
        shard_items=shard_items,
    )
    return [
        replace(item, shard=shard_name(generation, number))
        for item, number in zip(ordered, numbers, strict=True)
    ]


def shard_numbers(
    costs: Iterable[tuple[Hashable, float]], *, shard_seconds: float, shard_items: int
) -> Iterator[int]:
    """The number of each item's shard, from 0.

    A shard is full at `shard_seconds` of estimated rendering time or at `shard_items`.

    Args:
        costs: bucket and seconds of each item, in plan order.
        shard_seconds: of a full shard; an item that takes longer is alone in its own.
        shard_items: of a full shard.
    """
    number, last = -1, None
    room_seconds, room_items = 0.0, 0
    for bucket, seconds in costs:
        if bucket != last or room_items == 0 or seconds > room_seconds:
            number += 1
            room_seconds, room_items = shard_seconds, shard_items
        room_seconds -= seconds
        room_items -= 1
        last = bucket
        yield number


def bucket_of(task: str, params: str, width: int, height: int) -> tuple[str, str, int]:
    """What the items of one shard agree in: task, settings, and the size up to a factor of two.

    A batch has one size, a shard may have several: sizes that differ by a few pixels share it.
    """
    return (task, _settings_of(params), (width * height).bit_length())


def references_of(inputs: Iterable[Input]) -> tuple[str, ...]:
    """What tells the references of an item from those of others."""
    return tuple(
        reference.sha256 or reference.uri
        for reference in inputs
        if reference.role in REFERENCE_ROLES
    )


@lru_cache(maxsize=4096)
def _settings_of(params: str) -> str:
    """The params of an item without its size."""
    kept = {name: value for name, value in json.loads(params).items() if name not in SIZE}
    return canonical_json(kept)


def _bucket(item: Item) -> tuple[str, str, int]:
    return bucket_of(item.task, item.params, item.width, item.height)


def _plan_order(item: Item) -> tuple[Any, ...]:
    size = (item.width, item.height)
    return (_bucket(item), size, references_of(item.inputs), item.item_id)
