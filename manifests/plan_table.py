"""The plan as a Parquet file: how it is written, and how one that may be damaged is read.

A plan may hold a million items. Writing and reading need memory for some thousand rows at a time,
and a few numbers for each shard.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq

from manifests.errors import RunFolderError
from manifests.items import ErrorClass, Input, Item, Problem
from manifests.parquet import MAX_FILE_BYTES, check_columns, checked_batches, told_as_damage
from manifests.plan import PlannedShard, generation_of, plan_name
from manifests.plan_rules import MAX_FAILED_SIDE, first_broken_rule

if TYPE_CHECKING:
    from manifests.commits import PlanReference

pc: Any = compute  # its functions are made when it is imported: no checker sees them

WAY_OUT = "restore it, or choose another run folder"

ROWS_PER_GROUP = 1000
"""Number of rows of a row group, or those of one shard where it has more."""

PIECE_BYTES = 1 << 20
"""How much of a file is in memory while it is hashed."""

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

LATER_FIELDS = [
    pa.field("replaces", pa.string()),
    pa.field("first_retry", pa.int32(), nullable=False),
]
"""Columns that plans of the first layout lack: no item of theirs has anything there."""

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
        *LATER_FIELDS,
    ]
)


class PlanFile:
    """A plan in a local file that is checked as a whole when it is opened, and read by shards.

    Attributes:
        reference: what named the plan: `run.json`, or a generation.
        shards: every shard by name, in plan order.
        settings: the different pairs of task and params of the items that can be rendered.
    """

    reference: PlanReference
    shards: Mapping[str, PlannedShard]
    settings: frozenset[tuple[str, str]]

    def __init__(self, file: IO[bytes], reference: PlanReference, *, generation: int = 0) -> None:
        """Opens and checks a plan; the file is closed with this object.

        Args:
            file: the plan; nobody else reads it.
            reference: what the plan must be.
            generation: the number that the names of its shards hold.

        Raises:
            RunFolderError: the bytes are not those that the reference names, or not a plan.
        """
        self._close = weakref.finalize(self, file.close)
        self._file = file
        self.reference = reference
        self._name = reference.plan_name
        self._check_digest(file)
        with told_as_damage(self._name, WAY_OUT):
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
            self._columns = _columns_of(self._parquet.schema_arrow)
            self._check_items(generation)

    @property
    def digest(self) -> str:
        """sha256 of the file, in hex."""
        return self.reference.plan_digest

    @property
    def path(self) -> Path:
        """Where a plan that was written on this machine lies, as long as this object lives."""
        return Path(self._file.name)

    @property
    def num_items(self) -> int:
        """The number of items in all shards."""
        return self.reference.num_items

    def close(self) -> None:
        """Closes the file now, and removes it if it has a name; nothing is read any more."""
        self._close()

    def items(self, shard: str) -> list[Item]:
        """The items of a shard, in plan order; only its row groups are read.

        Raises:
            KeyError: the plan has no such shard.
            RunFolderError: the file was damaged after it had been opened.
        """
        start = self.shards[shard].first_item
        stop = start + self.shards[shard].num_items
        first = self._group_of(start)
        skipped = self._group_starts[first]
        groups = range(first, self._group_of(stop - 1) + 1)
        with told_as_damage(self._name, WAY_OUT):
            batches = self._batches(PLAN_SCHEMA, row_groups=list(groups))
            rows = pa.Table.from_batches(batches, PLAN_SCHEMA).slice(start - skipped, stop - start)
            return list(map(_item, rows.to_pylist()))

    def iter_items(self) -> Iterator[Item]:
        """Every item, in plan order."""
        return map(_item, self._rows(None))

    def problems(self) -> Iterator[Item]:
        """The items that preflight found wanting, in plan order."""
        classes = pa.schema([PLAN_SCHEMA.field("error_class")])
        for number in range(self._parquet.num_row_groups):
            with told_as_damage(self._name, WAY_OUT):
                batches = list(self._batches(classes, row_groups=[number]))
            if any(batch.num_rows > batch.column(0).null_count for batch in batches):
                items = map(_item, self._rows([number]))
                yield from (item for item in items if item.problem is not None)

    def columns(self, *names: str) -> pa.Table:
        """The named columns of all items, in plan order."""
        schema = pa.schema([PLAN_SCHEMA.field(name) for name in names])
        with told_as_damage(self._name, WAY_OUT):
            return pa.Table.from_batches(self._batches(schema), schema)

    def shard_columns(self, *names: str) -> Iterator[tuple[str, pa.Table]]:
        """The named columns of each shard's items, in plan order, with few rows in memory."""
        schema = pa.schema([PLAN_SCHEMA.field(name) for name in names])
        with told_as_damage(self._name, WAY_OUT):
            batches, rows = self._batches(schema), schema.empty_table()
            for name, shard in self.shards.items():
                while rows.num_rows < shard.num_items:
                    rows = pa.concat_tables([rows, pa.Table.from_batches([next(batches)])])
                yield name, rows.slice(0, shard.num_items)
                rows = rows.slice(shard.num_items)

    def _check_digest(self, file: IO[bytes]) -> None:
        found, wanted = _sha256(file), self.digest
        size = file.tell()
        if size > MAX_FILE_BYTES:
            raise RunFolderError(
                f"{self._name} is damaged (it is larger than {MAX_FILE_BYTES} bytes): {WAY_OUT}"
            )
        if found != wanted:
            raise RunFolderError(
                f"{self._name} has sha256 {found[:12]}…, its record says {wanted[:12]}…: the plan "
                f"was changed or damaged; {WAY_OUT}"
            )

    def _check_items(self, generation: int) -> None:
        metadata = self._parquet.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])
        shards: dict[str, PlannedShard] = {}
        settings: set[tuple[str, str]] = set()
        hashes = {name: np.empty(self.num_items, np.int64) for name in ("item_id", "key")}
        start = 0
        for batch in self._batches(PLAN_SCHEMA, num_rows=self.num_items):
            if broken := first_broken_rule(batch):
                row, sentence = broken
                raise ValueError(f"row {start + row + 1}: {sentence}")
            for name, known in hashes.items():
                texts = batch.column(name).to_pylist()
                known[start : start + len(texts)] = list(map(hash, texts))
            settings.update(_sound_settings(batch))
            _add_shards(shards, batch, start)
            start += batch.num_rows
        for name, known in hashes.items():
            if len(np.unique(known)) < len(known):
                _refuse_repeated(name, self.columns(name).column(name).to_pylist())
        if any(generation_of(shard) != generation for shard in shards):
            shard = next(name for name in shards if generation_of(name) != generation)
            raise ValueError(f"shard {shard} is not of generation {generation}")
        if len(shards) != self.reference.num_shards:
            stated = self.reference.num_shards
            raise ValueError(f"it does not have the {stated} shards that its record states")
        self.shards, self.settings = MappingProxyType(shards), frozenset(settings)

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._group_starts, row, side="right")) - 1

    def _rows(self, row_groups: list[int] | None) -> Iterator[dict[str, Any]]:
        with told_as_damage(self._name, WAY_OUT):
            for batch in self._batches(PLAN_SCHEMA, row_groups=row_groups):
                yield from batch.to_pylist()

    def _batches(self, schema: pa.Schema, **chosen: Any) -> Iterator[pa.RecordBatch]:
        """The batches of the file with the columns that it lacks filled in."""
        present = pa.schema([field for field in schema if field.name in self._columns])
        for batch in checked_batches(self._parquet, present, **chosen):
            columns = [_column(batch, field) for field in schema]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def write_plan(file: IO[bytes], tables: Iterable[pa.Table]) -> PlanReference:
    """Writes a plan, a table at a time; the same rows give the same bytes.

    Args:
        file: empty; it stays open.
        tables: the rows in plan order, whole shards in each.

    Returns:
        What the plan is; nothing is stored under that name yet.
    """
    from manifests.commits import PlanReference

    options: dict[str, Any] = {
        "compression": "zstd",
        "write_page_checksum": True,
        "write_statistics": False,
    }
    num_items = num_shards = 0
    with pq.ParquetWriter(file, PLAN_SCHEMA, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, table.num_rows))
            num_items += table.num_rows
            num_shards += len(table["shard"].unique())
    file.flush()
    digest = _sha256(file)
    return PlanReference(
        plan_name=plan_name(digest),
        plan_digest=digest,
        num_items=num_items,
        num_shards=num_shards,
    )


def item_tables(items: Iterable[Item]) -> Iterator[pa.Table]:
    """Items in plan order, each with its shard, as tables of whole shards."""
    group: list[dict[str, Any]] = []
    for item in items:
        if len(group) >= ROWS_PER_GROUP and item.shard != group[-1]["shard"]:
            yield pa.Table.from_pylist(group, PLAN_SCHEMA)
            group = []
        group.append(_row(item))
    if group:
        yield pa.Table.from_pylist(group, PLAN_SCHEMA)


def open_plan(path: Path, reference: PlanReference, *, generation: int = 0) -> PlanFile:
    """The plan in a file of this machine.

    Raises:
        RunFolderError: it is not the plan that the reference names.
    """
    return PlanFile(path.open("rb"), reference, generation=generation)


def input_row(item_input: Input) -> dict[str, Any]:
    """An input as the struct that the plan and the metadata hold."""
    return {name: getattr(item_input, name) for name, _ in INPUT_FIELDS}


def _sha256(file: IO[bytes]) -> str:
    """sha256 of all bytes, in hex; the file is at its end then."""
    total = hashlib.sha256()
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        total.update(piece)
    return total.hexdigest()


def _columns_of(found: pa.Schema) -> frozenset[str]:
    """The columns of the schema that a file has.

    Raises:
        ValueError: it lacks one that every plan has, or one has another type.
    """
    absent = {field.name for field in LATER_FIELDS} - set(found.names)
    names = [name for name in PLAN_SCHEMA.names if name not in absent]
    check_columns(found, pa.schema([PLAN_SCHEMA.field(name) for name in names]))
    return frozenset(names)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name in batch.schema.names:
        return batch.column(field.name)
    absent = pa.nulls(batch.num_rows, field.type)
    return absent if field.nullable else pc.fill_null(absent, 0)


def _add_shards(shards: dict[str, PlannedShard], batch: pa.RecordBatch, start: int) -> None:
    """Counts the rows of a batch, which starts at that row, to their shards.

    Raises:
        ValueError: the shards are not in order.
    """
    names = batch.column("shard").to_pylist()
    costs = batch.column("cost_seconds").to_pylist()
    last = next(reversed(shards), "")
    row = 0
    for name, of_shard in groupby(names):
        if (len(name), name) < (len(last), last):
            raise ValueError(f"row {start + row + 1}: shard {name} comes after shard {last}")
        stop = row + sum(1 for _ in of_shard)
        known = shards.get(name, PlannedShard(name, 0, 0.0, start + row))
        num_items = known.num_items + stop - row
        cost_seconds = sum(costs[row:stop], known.cost_seconds)
        shards[name] = PlannedShard(name, num_items, cost_seconds, known.first_item)
        last, row = name, stop


def _sound_settings(batch: pa.RecordBatch) -> set[tuple[str, str]]:
    columns = [batch.column(name) for name in ("task", "params")]
    sound = pa.Table.from_arrays(columns, ["task", "params"]).filter(
        pc.is_null(batch.column("error_class"))
    )
    different = sound.group_by(["task", "params"]).aggregate([]).to_pylist()
    return {(row["task"], row["params"]) for row in different}


def _refuse_repeated(name: str, texts: list[str]) -> None:
    """Refuses a text that stands twice in a column.

    Raises:
        ValueError: one does.
    """
    seen: set[str] = set()
    for row, text in enumerate(texts, start=1):
        if text in seen:
            raise ValueError(f"row {row}: the {name} {text} stands twice")
        seen.add(text)


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
        "replaces": item.replaces,
        "first_retry": item.first_retry,
    }


def _item(row: dict[str, Any]) -> Item:
    """The item of a row that keeps the rules."""
    inputs = tuple(Input(**fields) for fields in row.pop("inputs"))
    error_class, message = row.pop("error_class"), row.pop("error_message")
    problem = Problem(ErrorClass(error_class), message) if error_class is not None else None
    return Item(**row, inputs=inputs, problem=problem)
