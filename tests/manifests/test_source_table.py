from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import RunFolderError
from manifests.source_table import (
    SOURCE_SCHEMA,
    SourceRow,
    read_sources,
    sources_digest,
    write_sources,
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
rows = st.builds(
    SourceRow, words, words, words, st.none() | st.integers(0, 2**62), st.none() | words
)


def read(data: bytes) -> list[SourceRow]:
    return list(read_sources(data, "sources/x.parquet", sources_digest(data)))


@given(st.lists(rows, max_size=20), st.data())
def test_a_table_of_sources_holds_each_row_once_whatever_the_order(found, data):
    stored = write_sources(found)
    assert set(read(stored)) == set(found)
    assert len(read(stored)) == len(set(found))
    assert write_sources(data.draw(st.permutations([*found, *found]))) == stored


def changed(**columns: Any) -> bytes:
    table = pa.Table.from_pylist([{"role": "style", "name": "a", "uri": "/a"}], SOURCE_SCHEMA)
    for name, column in columns.items():
        table = table.drop_columns([name])
        table = table if column is None else table.append_column(name, column)
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no parquet", "is damaged"),
        (changed(etag=None), "has no column etag"),
        (changed(size=pa.array(["1"])), "column size is string, not int64"),
        (changed(size=pa.array([-1])), "has the size -1"),
        (changed(role=pa.array([None], pa.string())), "column role has an empty value"),
    ],
)
def test_what_is_no_table_of_sources_is_told_as_damage(data, reason):
    with pytest.raises(RunFolderError, match=rf"^sources/x.parquet is damaged.*{reason}|{reason}"):
        read(data)


def test_bytes_that_its_record_does_not_name_are_refused():
    data = write_sources([SourceRow("style", "a.png", "/a.png", 3, "e")])
    with pytest.raises(RunFolderError, match=r"^sources/x.parquet has sha256 .* its record says"):
        list(read_sources(data[:-1], "sources/x.parquet", sources_digest(data)))
