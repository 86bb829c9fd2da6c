from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.errors import RunFolderError
from manifests.identity import seed_of
from manifests.items import ErrorClass, Problem, Status
from manifests.outcomes import Outcome, OutputFile
from manifests.quality import METRIC_COLUMNS, RENDER_COLUMNS
from manifests.schema import (
    METADATA_SCHEMA,
    VOLATILE_COLUMNS,
    Provenance,
    deterministic_row,
    read_metadata,
    sample_json,
    write_metadata,
)
from tests.manifests.builders import make_input, make_item

ITEM = replace(
    make_item([make_input("content", "c", license="CC0"), make_input("style", "s")]), shard="00000"
)
FILE = OutputFile(f"{ITEM.key}.png", "ab" * 32, 100, 64, 64, offset=2048)
FAILED = replace(ITEM, key="other", item_id="0" * 32, user='{"note":"é"}')
OUTCOMES = [
    Outcome(
        ITEM,
        outputs=(FILE,),
        metrics={"style_loss_first": 2.0, "style_loss": 1.5, "content_loss": 0.5},
        seconds=1.0,
        encode_seconds=0.1,
        peak_memory_bytes=1000,
    ),
    Outcome(FAILED, problem=Problem(ErrorClass.DECODE, "c.png: damaged")),
]
NEW_COLUMNS = ["generation", "dtype", "device_type", "deterministic"]
PROVENANCE = Provenance(
    model_id="tiny",
    model_revision="r",
    fingerprint="f" * 64,
    plan_digest="d" * 64,
    volatile={
        "worker": "a:1",
        "device_name": "cpu",
        "finished_at": "2025-01-01T00:00:00+00:00",
        "attempt_id": "1",
        "versions": "{}",
    },
)


def another_run() -> bytes:
    outcomes = [
        replace(one, seconds=9.0, synthesis_seconds=9.0, encode_seconds=9.0, peak_memory_bytes=9)
        for one in OUTCOMES
    ]
    volatile = dict.fromkeys(PROVENANCE.volatile, "other")
    return write_metadata(outcomes, replace(PROVENANCE, volatile=volatile))


def read_back(data: bytes, outcomes: Sequence[Outcome] = OUTCOMES) -> list[dict[str, Any]]:
    items = [outcome.item for outcome in outcomes]
    return read_metadata(data, "part", items, plan_digest="d" * 64, way_out="restore it")


def table_of(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def test_every_planned_item_has_a_row_in_plan_order_failed_ones_included():
    rows = read_back(write_metadata(OUTCOMES, PROVENANCE))
    assert [row["key"] for row in rows] == [ITEM.key, "other"]
    assert [row["status"] for row in rows] == [Status.OK, Status.FAILED]
    assert rows[1]["error_class"] == "decode"
    assert rows[1]["error_message"] == "c.png: damaged"
    assert rows[1]["outputs"] == []
    assert rows[0]["seed"] == ITEM.seed


def test_two_runs_of_a_job_differ_in_the_volatile_columns_and_nowhere_else():
    first, second = table_of(write_metadata(OUTCOMES, PROVENANCE)), table_of(another_run())
    differing = {name for name in first.column_names if first[name] != second[name]}
    assert differing == set(VOLATILE_COLUMNS)
    assert first.schema.equals(second.schema, check_metadata=True)


def test_the_same_rows_give_the_same_bytes():
    assert write_metadata(OUTCOMES, PROVENANCE) == write_metadata(OUTCOMES, PROVENANCE)


def test_the_types_of_columns_do_not_depend_on_what_they_hold():
    for outcomes in (OUTCOMES, OUTCOMES[:1], OUTCOMES[1:]):
        found = table_of(write_metadata(outcomes, PROVENANCE)).schema
        assert found.equals(METADATA_SCHEMA)


def test_the_footer_says_which_run_and_plan_and_schema_it_is():
    footer = table_of(write_metadata(OUTCOMES, PROVENANCE)).schema.metadata
    assert footer[b"fingerprint"] == b"f" * 64
    assert footer[b"plan_digest"] == b"d" * 64
    assert footer[b"schema_version"] == b"4"


def test_a_samples_json_is_the_deterministic_part_of_its_row():
    told = json.loads(sample_json(OUTCOMES[0], PROVENANCE))
    assert not told.keys() & set(VOLATILE_COLUMNS)
    (row, _) = read_back(write_metadata(OUTCOMES, PROVENANCE))
    for name, value in told.items():
        assert value == (json.loads(row[name]) if name in ("params", "user") else row[name])


def test_a_samples_json_repeats_byte_by_byte_in_another_run():
    other = replace(PROVENANCE, volatile=dict.fromkeys(PROVENANCE.volatile, "other"))
    slower = replace(OUTCOMES[0], seconds=9.0, encode_seconds=9.0)
    assert sample_json(slower, other) == sample_json(OUTCOMES[0], PROVENANCE)


def test_every_column_is_deterministic_or_volatile_or_a_metric():
    deterministic = deterministic_row(OUTCOMES[0], PROVENANCE).keys()
    measured = {*RENDER_COLUMNS, *METRIC_COLUMNS, "phash"}
    assert {*deterministic, *measured, *VOLATILE_COLUMNS} == set(METADATA_SCHEMA.names)
    assert not deterministic & set(VOLATILE_COLUMNS)


def test_a_row_has_the_seed_of_the_try_that_it_tells_of():
    outcomes = [OUTCOMES[0], replace(OUTCOMES[0], retries=2)]
    rows = read_back(write_metadata(outcomes, PROVENANCE), outcomes)
    assert [row["retries"] for row in rows] == [0, 2]
    assert [row["seed"] for row in rows] == [ITEM.seed, seed_of(ITEM.item_id, 2)]


def test_rows_of_the_earlier_version_are_read_with_what_they_lack():
    table = table_of(write_metadata(OUTCOMES, PROVENANCE))
    old = [
        {
            **row,
            "outputs": [
                {name: value for name, value in output.items() if name not in ("kind", "offset")}
                for output in row["outputs"]
            ],
        }
        for row in table.drop_columns(NEW_COLUMNS).to_pylist()
    ]
    schema = table.schema
    for name in NEW_COLUMNS:
        schema = schema.remove(schema.get_field_index(name))
    output = [field for field in schema.field("outputs").type.value_type]
    output = pa.struct([field for field in output if field.name not in ("kind", "offset")])
    outputs = pa.field("outputs", pa.list_(output), nullable=False)
    schema = schema.set(schema.get_field_index("outputs"), outputs)
    schema = schema.with_metadata({**table.schema.metadata, b"schema_version": b"2"})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(old, schema=schema), file, write_page_checksum=True)

    now, before = read_back(write_metadata(OUTCOMES, PROVENANCE)), read_back(file.getvalue())
    for row, found in zip(now, before, strict=True):
        outputs = [{**output, "offset": None} for output in row["outputs"]]
        assert found == {**row, **dict.fromkeys(NEW_COLUMNS), "outputs": outputs}


def test_rows_of_a_later_version_are_not_guessed_at():
    table = table_of(write_metadata(OUTCOMES, PROVENANCE))
    metadata = {**table.schema.metadata, b"schema_version": b"5"}
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(RunFolderError, match=r"newer stylefarm .* 5, .* reads 4\): update"):
        read_back(file.getvalue())


@pytest.mark.parametrize(
    "change",
    [
        {"offset": None},
        {"offset": -1},
        {"kind": "An Image"},
        {"name": "other.png"},
        {"sha256": "x"},
        {"bytes": -1},
    ],
)
def test_an_output_that_cannot_be_is_refused(change):
    outcomes = [replace(OUTCOMES[0], outputs=(replace(FILE, **change),))]
    with pytest.raises(RunFolderError, match="part is damaged"):
        read_back(write_metadata(outcomes, PROVENANCE), outcomes)


def test_a_row_is_of_the_generation_of_its_shard():
    with pytest.raises(RunFolderError, match="generation is not as planned"):
        read_back(write_metadata(OUTCOMES, replace(PROVENANCE, generation=1)))


def test_damaged_metadata_is_not_read():
    data = bytearray(write_metadata(OUTCOMES, PROVENANCE))
    data[5] ^= 0xFF
    with pytest.raises(RunFolderError, match=r"^part is damaged \(.+\): restore it$"):
        read_back(bytes(data))
