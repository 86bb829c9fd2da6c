"""The metadata of a shard: one Parquet row per planned item, failed ones included.

What changed, by `schema_version` of the footer:

4. Rows say `match_uncertainty` and `synthesis_seconds`.
3. An output has a `kind`, and the `offset` of its bytes in the tar, so that it can be read by
   range. Rows say their `generation`, and `dtype`, `device_type` and `deterministic`.
2. Rows say `label`, `phash` and `peak_memory_bytes`; inputs say their `key`.

Earlier files are read as rows of this version in which these are None, and every `kind` `image`.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import NewerVersion, RunFolderError
from manifests.identity import canonical_json
from manifests.items import ErrorClass, Item, Status
from manifests.outcomes import Outcome
from manifests.parquet import parquet_batches, parquet_footer, parquet_rows, told_as_damage
from manifests.plan import generation_of
from manifests.plan_table import input_row
from manifests.quality import METRIC_COLUMNS, RENDER_COLUMNS

SCHEMA_VERSION = 4

VOLATILE_COLUMNS = (
    "seconds",
    "synthesis_seconds",
    "encode_seconds",
    "peak_memory_bytes",
    "worker",
    "device_name",
    "finished_at",
    "attempt_id",
    "versions",
)
"""Columns that differ between two runs of the same job; nothing that is hashed reads them."""

_INPUT = pa.struct(
    [
        ("role", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("license", pa.string()),
        ("attribution", pa.string()),
        ("key", pa.string()),
    ]
)
_OUTPUT = pa.struct(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)

METADATA_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_class", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("degraded", pa.bool_(), nullable=False),
        pa.field("seed", pa.uint64(), nullable=False),
        pa.field("retries", pa.int32(), nullable=False),
        pa.field("variant", pa.int32(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
        pa.field("model_id", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("dtype", pa.string()),
        pa.field("device_type", pa.string()),
        pa.field("deterministic", pa.bool_(), nullable=False),
        pa.field("inputs", pa.list_(_INPUT), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        pa.field("outputs", pa.list_(_OUTPUT), nullable=False),
        *(pa.field(name, pa.float32()) for name in (*RENDER_COLUMNS, *METRIC_COLUMNS)),
        pa.field("phash", pa.string()),
        pa.field("user", pa.string(), nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("synthesis_seconds", pa.float64()),
        pa.field("encode_seconds", pa.float64()),
        pa.field("peak_memory_bytes", pa.int64()),
        pa.field("worker", pa.string()),
        pa.field("device_name", pa.string()),
        pa.field("finished_at", pa.string()),
        pa.field("attempt_id", pa.string(), nullable=False),
        pa.field("versions", pa.string()),
    ]
)

PLANNED_COLUMNS = ("item_id", "key", "shard", "task", "params", "label")
"""Columns that say the same as the plan."""

_NEW_COLUMNS = ("generation", "dtype", "device_type", "deterministic")
"""Of version 3."""
_NEWEST_COLUMNS = ("match_uncertainty", "synthesis_seconds")
"""Of version 4."""
_NEW_OUTPUT_FIELDS: dict[str, Any] = {"kind": "image", "offset": None}


def _schema_3() -> pa.Schema:
    """The columns of files of version 3."""
    return pa.schema([field for field in METADATA_SCHEMA if field.name not in _NEWEST_COLUMNS])


def _schema_2() -> pa.Schema:
    """The columns of files of version 2."""
    old = pa.struct([field for field in _OUTPUT if field.name not in _NEW_OUTPUT_FIELDS])
    fields = [field for field in _schema_3() if field.name not in _NEW_COLUMNS]
    outputs = pa.field("outputs", pa.list_(old), nullable=False)
    return pa.schema([outputs if field.name == "outputs" else field for field in fields])


_SCHEMAS = {2: _schema_2(), 3: _schema_3(), 4: METADATA_SCHEMA}

FINAL_SCHEMA = pa.schema(
    [
        field.with_nullable(True) if field.name in _NEW_COLUMNS else field
        for field in METADATA_SCHEMA
    ]
)
"""The columns of `metadata/`, where rows of all versions lie together."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is the same for every row of a shard.

    Attributes:
        model_id, model_revision: of the backbone.
        fingerprint: of the run.
        plan_digest, generation: of the plan that the shard is of.
        dtype, device_type: of rendering; None in run folders of the first layout.
        deterministic: whether only kernels were used that repeat their results.
        volatile: `worker`, `device_name`, `finished_at`, `attempt_id`, `versions`.
    """

    model_id: str
    model_revision: str
    fingerprint: str
    plan_digest: str
    volatile: Mapping[str, str]
    generation: int = 0
    dtype: str | None = None
    device_type: str | None = None
    deterministic: bool = False


def deterministic_row(outcome: Outcome, provenance: Provenance) -> dict[str, Any]:
    """The part of a row that a second run of the same job repeats."""
    item = outcome.item
    inputs = [{**input_row(item_input), "uri": item_input.full_uri} for item_input in item.inputs]
    return {
        "item_id": item.item_id,
        "key": item.key,
        "shard": item.shard,
        "status": outcome.status.value,
        "error_class": outcome.problem.error_class.value if outcome.problem else None,
        "error_message": outcome.problem.message if outcome.problem else None,
        "degraded": outcome.degraded,
        "seed": outcome.seed,
        "retries": outcome.retries,
        "variant": item.variant,
        "label": item.label,
        "task": item.task,
        "params": item.params,
        "model_id": provenance.model_id,
        "model_revision": provenance.model_revision,
        **{name: getattr(provenance, name) for name in _NEW_COLUMNS},
        "inputs": [{name: fields[name] for name in _INPUT.names} for fields in inputs],
        "outputs": [
            {name: getattr(output, name) for name in _OUTPUT.names} for output in outcome.outputs
        ],
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "user": item.user,
    }


def sample_json(outcome: Outcome, provenance: Provenance) -> bytes:
    """The bytes of `<key>.json`: the deterministic part of the row."""
    row = deterministic_row(outcome, provenance)
    row.update({name: json.loads(row[name]) for name in ("params", "user")})
    return canonical_json(row).encode()


def write_metadata(outcomes: Sequence[Outcome], provenance: Provenance) -> bytes:
    """The bytes of a shard's Parquet part, rows in plan order."""
    rows = [
        {
            **deterministic_row(outcome, provenance),
            **outcome.metrics,
            **provenance.volatile,
            "phash": outcome.phash,
            "peak_memory_bytes": outcome.peak_memory_bytes,
            "seconds": outcome.seconds,
            "synthesis_seconds": outcome.synthesis_seconds,
            "encode_seconds": outcome.encode_seconds,
        }
        for outcome in outcomes
    ]
    footer = {
        "schema_version": str(SCHEMA_VERSION),
        "fingerprint": provenance.fingerprint,
        "plan_digest": provenance.plan_digest,
    }
    table = pa.Table.from_pylist(rows, schema=METADATA_SCHEMA.with_metadata(footer))
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def read_metadata(
    data: bytes, name: str, items: Sequence[Item], *, plan_digest: str, way_out: str
) -> list[dict[str, Any]]:
    """The rows of a shard's Parquet part: one per planned item, in plan order.

    Args:
        data: the file's bytes.
        name: of the file, relative to the run folder.
        items: of the shard, as planned.
        plan_digest: of the run.
        way_out: what the user can do about a damaged file.

    Raises:
        RunFolderError: the file is damaged, or does not tell of these items.
    """
    schema = _schema_of(data, name)
    found = parquet_rows(data, schema, name, num_rows=len(items), way_out=way_out)
    rows = [_of_this_version(row) for row in found]
    broken = None
    if parquet_footer(data).get("plan_digest") != plan_digest:
        broken = "it belongs to another plan"
    for number, (row, item) in enumerate(zip(rows, items, strict=True), start=1):
        if broken is None and (rule := _broken_rule(row, item)):
            broken = f"row {number}: {rule}"
    if broken is not None:
        raise RunFolderError(f"{name} is damaged ({broken}): {way_out}")
    return rows


def read_final_rows(data: bytes, name: str, planned: pa.Table, *, way_out: str) -> pa.Table:
    """The rows of a shard's Parquet part, one per planned item in plan order, as a table.

    Args:
        data: the file's bytes, which are those that its commit names.
        name: of the file, relative to the run folder.
        planned: the `PLANNED_COLUMNS` of the shard's items.
        way_out: what the user can do about a damaged file.

    Raises:
        RunFolderError: the file does not tell of these items.
    """
    schema, num_rows = _schema_of(data, name), planned.num_rows
    if schema.field("outputs").equals(METADATA_SCHEMA.field("outputs")):
        batches = parquet_batches(data, schema, name, num_rows=num_rows, way_out=way_out)
        with told_as_damage(name, way_out):
            table = _with_newest_columns(pa.Table.from_batches(list(batches)))
    else:
        rows = parquet_rows(data, schema, name, num_rows=num_rows, way_out=way_out)
        table = pa.Table.from_pylist([_of_this_version(row) for row in rows], FINAL_SCHEMA)
    for column in PLANNED_COLUMNS:
        if not table[column].equals(planned[column]):
            raise RunFolderError(f"{name} is damaged (its {column} is not as planned): {way_out}")
    return table


def _schema_of(data: bytes, name: str) -> pa.Schema:
    """The columns that a file of its version has.

    Raises:
        RunFolderError: a later version of stylefarm made it.
    """
    version = _version(data)
    if version is not None and version > SCHEMA_VERSION:
        raise NewerVersion(
            f"{name} was made by a newer stylefarm (its schema_version is {version}, this one "
            f"reads {SCHEMA_VERSION}): update stylefarm"
        )
    return _SCHEMAS.get(version or SCHEMA_VERSION, METADATA_SCHEMA)


def _with_newest_columns(table: pa.Table) -> pa.Table:
    """The table in this version's columns; those that it lacks hold None."""
    for name in _NEWEST_COLUMNS:
        if name not in table.column_names:
            nothing = pa.nulls(table.num_rows, FINAL_SCHEMA.field(name).type)
            table = table.append_column(name, nothing)
    return table.select(FINAL_SCHEMA.names).cast(FINAL_SCHEMA)


def _version(data: bytes) -> int | None:
    """The schema version that a file states; None where it states none, or cannot be read."""
    try:
        return int(parquet_footer(data).get("schema_version", ""))
    except Exception:  # pyarrow raises nearly every built-in error on damaged files
        return None


def _of_this_version(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the columns that it lacks, as its version was an earlier one."""
    outputs = [output and {**_NEW_OUTPUT_FIELDS, **output} for output in row["outputs"]]
    missing = dict.fromkeys((*_NEW_COLUMNS, *_NEWEST_COLUMNS))
    return {**missing, **row, "outputs": outputs}


def _broken_rule(row: dict[str, Any], item: Item) -> str | None:
    """The first thing in a row that differs from its planned item, or that no row can hold."""
    for column in PLANNED_COLUMNS:
        if row[column] != getattr(item, column):
            return f"its {column} is not as planned"
    if row["status"] not in (Status.OK, Status.FAILED, Status.SKIPPED):
        return f"{row['status'][:80]!r} is no status"
    is_ok = row["status"] == Status.OK
    if is_ok != (row["error_class"] is None) or is_ok != bool(row["outputs"]):
        return f"a row that is {row['status']} cannot have these outputs and this error_class"
    if not is_ok and (row["error_class"] not in set(ErrorClass) or row["error_message"] is None):
        return f"{row['error_class'][:80]!r} is no error_class with a message"
    if row["generation"] is not None and row["generation"] != generation_of(item.shard):
        return "its generation is not as planned"
    for output in row["outputs"]:
        if rule := _broken_output(output, item, has_offset=row["generation"] is not None):
            return rule
    return None


def _broken_output(output: dict[str, Any] | None, item: Item, *, has_offset: bool) -> str | None:
    """The first thing in an output that none can hold."""
    if output is None or any(
        value is None for name, value in output.items() if has_offset or name != "offset"
    ):
        return "an output lacks a value"
    if not re.fullmatch(rf"{item.key}(\.[a-z0-9]{{1,16}}){{1,2}}", output["name"]):
        return f"{output['name'][:80]!r} is not the name of an output of {item.key}"
    if not re.fullmatch("[a-z][a-z_]{0,30}", output["kind"]):
        return f"{output['kind'][:80]!r} is no kind of an output"
    if not re.fullmatch("[0-9a-f]{64}", output["sha256"]) or output["bytes"] < 0:
        return f"{output['name']} has no sha256 or size"
    if (output["offset"] or 0) < 0:
        return f"{output['name']} has no place in its tar"
    return None
