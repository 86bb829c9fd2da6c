"""The metadata of a shard: one Parquet row per planned item, failed ones included."""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.identity import canonical_json, seed_of
from manifests.items import Item, Problem, Status
from manifests.plan import input_row
from manifests.quality import LOSS_COLUMNS, METRIC_COLUMNS

SCHEMA_VERSION = 2

VOLATILE_COLUMNS = (
    "seconds",
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
        ("name", pa.string()),
        ("sha256", pa.string()),
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
        pa.field("inputs", pa.list_(_INPUT), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        pa.field("outputs", pa.list_(_OUTPUT), nullable=False),
        *(pa.field(name, pa.float32()) for name in (*LOSS_COLUMNS, *METRIC_COLUMNS)),
        pa.field("phash", pa.string()),
        pa.field("user", pa.string(), nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("encode_seconds", pa.float64()),
        pa.field("peak_memory_bytes", pa.int64()),
        pa.field("worker", pa.string()),
        pa.field("device_name", pa.string()),
        pa.field("finished_at", pa.string()),
        pa.field("attempt_id", pa.string(), nullable=False),
        pa.field("versions", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One member of a shard's tar that an item produced."""

    name: str
    sha256: str
    bytes: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one planned item.

    Attributes:
        item: as planned.
        problem: why it failed; None where it is ok.
        outputs: its files in the tar; none where it failed.
        metrics: figures by column name, deterministic up to rounding.
        phash: 64 bits of what it looks like, in hex; near pictures differ in few of them.
        retries: how often it was made again, each time with the next seed.
        seconds, encode_seconds: of rendering, every retry included, and of encoding.
        peak_memory_bytes: what its batch held on the accelerator at most.
    """

    item: Item
    problem: Problem | None = None
    degraded: bool = False
    outputs: tuple[OutputFile, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    phash: str | None = None
    retries: int = 0
    seconds: float | None = None
    encode_seconds: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def seed(self) -> int:
        """The seed of the picture that was kept, or of the last one that was tried."""
        return seed_of(self.item.item_id, self.retries) if self.retries else self.item.seed

    @property
    def status(self) -> Status:
        """`ok` or `failed`."""
        return Status.FAILED if self.problem else Status.OK


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is the same for every row of a shard.

    Attributes:
        model_id, model_revision: of the backbone.
        fingerprint, plan_digest: of the run.
        volatile: `worker`, `device_name`, `finished_at`, `attempt_id`, `versions`.
    """

    model_id: str
    model_revision: str
    fingerprint: str
    plan_digest: str
    volatile: Mapping[str, str]


def deterministic_row(outcome: Outcome, provenance: Provenance) -> dict[str, Any]:
    """The part of a row that a second run of the same job repeats."""
    item = outcome.item
    inputs = [{**input_row(one), "uri": one.full_uri} for one in item.inputs]
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
        "inputs": [{name: one[name] for name in _INPUT.names} for one in inputs],
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


def read_metadata(data: bytes) -> list[dict[str, Any]]:
    """The rows of a shard's Parquet part."""
    table = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
    return table.to_pylist()
