"""The plan as a Parquet file: how it is written, and how one that may be damaged is read."""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RunFolderError
from manifests.items import ErrorClass, Input, Item, Problem
from manifests.parquet import parquet_rows
from manifests.plan import PLAN_NAME, Plan
from manifests.plan_rules import MAX_FAILED_SIDE, checked_items

WAY_OUT = "restore it, or choose another run folder"

ROWS_AT_ONCE = 8192
"""Number of rows that are converted to Arrow columns together, which bounds the memory."""

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


def write_plan(items: Sequence[Item]) -> bytes:
    """The plan file's bytes; the same items give the same bytes."""
    file = io.BytesIO()
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(file, PLAN_SCHEMA, **options) as writer:
        for start in range(0, len(items), ROWS_AT_ONCE):
            rows = [_row(item) for item in items[start : start + ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))
    return file.getvalue()


def read_plan(data: bytes, *, expected_digest: str, num_items: int, num_shards: int) -> Plan:
    """The plan of a run folder.

    Args:
        data: the plan file's bytes.
        expected_digest: sha256 of the plan file, as `run.json` has it.
        num_items: of the plan, as `run.json` has it.
        num_shards: of the plan, as `run.json` has it.

    Raises:
        RunFolderError: the bytes are not those that `run.json` names, or not a plan.
    """
    found = plan_digest(data)
    if found != expected_digest:
        raise RunFolderError(
            f"{PLAN_NAME} has sha256 {found[:12]}…, run.json says {expected_digest[:12]}…: the "
            f"plan was changed or damaged; {WAY_OUT}"
        )
    rows = parquet_rows(data, PLAN_SCHEMA, PLAN_NAME, num_rows=num_items, way_out=WAY_OUT)
    try:
        items = tuple(checked_items(map(_item, rows)))
        if len({item.shard for item in items}) != num_shards:
            raise ValueError(f"it does not have the {num_shards} shards that run.json states")
    except RunFolderError:
        raise
    except (ValueError, TypeError) as error:
        raise RunFolderError(f"{PLAN_NAME} is damaged ({error}): {WAY_OUT}") from None
    return Plan(items, found)


def plan_digest(data: bytes) -> str:
    """sha256 of the plan file, in hex."""
    return hashlib.sha256(data).hexdigest()


def input_row(item_input: Input) -> dict[str, Any]:
    """An input as the struct that the plan and the metadata hold."""
    return {name: getattr(item_input, name) for name, _ in INPUT_FIELDS}


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
        "width": min(item.width, MAX_FAILED_SIDE),
        "height": min(item.height, MAX_FAILED_SIDE),
        "cost_seconds": item.cost_seconds,
        "inputs": [input_row(item_input) for item_input in item.inputs],
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "label": item.label,
        "user": item.user,
        "error_class": problem.error_class.value if problem else None,
        "error_message": problem.message if problem else None,
    }


def _item(row: dict[str, Any]) -> Item:
    """The item of a row.

    Raises:
        ValueError, TypeError: an input is empty, or the problem is not one that we know.
    """
    inputs = tuple(Input(**fields) for fields in row.pop("inputs"))
    error_class, message = row.pop("error_class"), row.pop("error_message")
    if (error_class is None) != (message is None):
        raise ValueError(
            f"{row['key'][:80]!r} has an error_class or an error_message without the other"
        )
    if any(found.role is None or found.key is None or found.uri is None for found in inputs):
        raise ValueError(f"an input of {row['key'][:80]!r} has no role, key or URI")
    problem = Problem(ErrorClass(error_class), message) if error_class is not None else None
    return Item(**row, inputs=inputs, problem=problem)
