"""The plan: every item of a run in one frozen table, cut into shards of about equal cost."""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RunFolderError
from manifests.items import REFERENCE_ROLES, ErrorClass, Input, Item, Problem

PLAN_NAME = "plan/plan.parquet"

ROWS_AT_ONCE = 8192
"""Rows that are Python objects and Arrow columns at the same time; it bounds memory."""

INPUT_FIELDS: list[tuple[str, pa.DataType]] = [
    ("role", pa.string()),
    ("key", pa.string()),
    ("uri", pa.string()),
    ("member", pa.string()),
    ("offset", pa.int64()),
    ("num_bytes", pa.int64()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("license", pa.string()),
    ("attribution", pa.string()),
]

PLAN_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("seed", pa.uint64(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("cost_seconds", pa.float64(), nullable=False),
        pa.field("inputs", pa.list_(pa.struct(INPUT_FIELDS)), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("user", pa.string(), nullable=False),
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Plan:
    """The items of a run, in shard order, and the sha256 of the file that holds them."""

    items: tuple[Item, ...]
    digest: str

    def shards(self) -> dict[str, list[Item]]:
        """The items by shard."""
        return {shard: list(items) for shard, items in groupby(self.items, lambda one: one.shard)}

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


def write_plan(items: Sequence[Item]) -> bytes:
    """The plan file's bytes; the same items give the same bytes."""
    file = io.BytesIO()
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(file, PLAN_SCHEMA, **options) as writer:
        for start in range(0, len(items), ROWS_AT_ONCE):
            rows = [_row(item) for item in items[start : start + ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))
    return file.getvalue()


def read_plan(data: bytes, *, expected_digest: str) -> Plan:
    """The plan of a run folder.

    Raises:
        RunFolderError: the bytes are not those that `run.json` names.
    """
    found = plan_digest(data)
    if found != expected_digest:
        raise RunFolderError(
            f"{PLAN_NAME} has sha256 {found[:12]}…, run.json says {expected_digest[:12]}…: the "
            "plan was changed or damaged; restore it, or start a new run folder"
        )
    with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        batches = file.iter_batches(ROWS_AT_ONCE)
        return Plan(tuple(item for batch in batches for item in _items(batch)), found)


def plan_digest(data: bytes) -> str:
    """sha256 of the plan file, in hex."""
    return hashlib.sha256(data).hexdigest()


def input_row(one: Input) -> dict[str, Any]:
    """An input as the struct that the plan and the metadata hold."""
    return {name: getattr(one, name) for name, _ in INPUT_FIELDS}


def _bucket(item: Item) -> tuple[Any, ...]:
    return (item.task, item.width, item.height, item.params)


def _plan_order(item: Item) -> tuple[Any, ...]:
    references = [one.sha256 or one.uri for one in item.inputs if one.role in REFERENCE_ROLES]
    return (_bucket(item), references, item.item_id)


def _row(item: Item) -> dict[str, Any]:
    problem = item.problem
    return {
        "item_id": item.item_id,
        "key": item.key,
        "shard": item.shard,
        "seed": item.seed,
        "task": item.task,
        "params": item.params,
        "variant": item.variant,
        "width": item.width,
        "height": item.height,
        "cost_seconds": item.cost_seconds,
        "inputs": [input_row(one) for one in item.inputs],
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "label": item.label,
        "user": item.user,
        "error_class": problem.error_class.value if problem else None,
        "error_message": problem.message if problem else None,
    }


def _items(rows: pa.RecordBatch) -> Iterator[Item]:
    for row in rows.to_pylist():
        inputs = tuple(Input(**one) for one in row.pop("inputs"))
        error_class, message = row.pop("error_class"), row.pop("error_message")
        problem = Problem(ErrorClass(error_class), message) if error_class else None
        yield Item(**row, inputs=inputs, problem=problem)
