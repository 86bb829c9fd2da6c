"""Which rows does a Parquet file hold?

Sizes are bounded before and while it is unpacked: a few kilobytes may stand for gigabytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import JobError
from manifests.limits import MAX_ITEMS, MAX_TABLE_BYTES
from tasks.inputs.rows import Row, refuse_repeated

ROWS_AT_ONCE = 2048

MAX_COLUMNS = 10_000

BYTES_PER_VALUE = 4
"""Bytes that a value takes in memory at least, as its footer may state next to none."""


def parquet_rows(data: bytes, what: str) -> Iterator[Row]:
    """The rows of a Parquet table, with its columns as JSON has them.

    Decimals, dates, times and durations become text, bytes become base64, maps lists of pairs.
    A row with a value that has no text is a row with a fault.

    Args:
        data: the whole file.
        what: the table, as a message names it.

    Raises:
        JobError: the file is damaged, unpacks to too much, or names a column twice.
    """
    number = 0
    for batch in _batches(data, what):
        columns = [_Column(column) for column in batch.columns]
        for index in range(batch.num_rows):
            number += 1
            yield _row(number, batch.schema.names, columns, index)


def _batches(data: bytes, what: str) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            texts = _checked_columns(file.metadata, file.schema_arrow, what)
        # As a dictionary, a text that stands in many rows is in memory once.
        options: dict[str, Any] = {"page_checksum_verification": True, "read_dictionary": texts}
        with pq.ParquetFile(pa.BufferReader(data), **options) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                _refuse_large(batch.nbytes, what)
                batch.validate()
                yield batch
    except JobError:
        raise
    except Exception as error:  # a damaged file shows as nearly any kind of exception
        raise JobError(
            f"{what} cannot be read, it is damaged or no Parquet file: write it again"
        ) from error


def _checked_columns(footer: pq.FileMetaData, schema: pa.Schema, what: str) -> list[str]:
    """The paths of the columns of texts and bytes, once the footer states nothing too large."""
    if footer.num_rows > MAX_ITEMS:
        raise JobError(
            f"{what} has {footer.num_rows:,} rows, at most {MAX_ITEMS:,} are read: split it into "
            "several jobs"
        )
    if footer.num_columns > MAX_COLUMNS:
        raise JobError(f"{what} has more than {MAX_COLUMNS:,} columns: drop some")
    refuse_repeated(schema.names, what)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    values = sum(chunk.num_values for chunk in chunks)
    stated = sum(chunk.total_uncompressed_size for chunk in chunks)
    _refuse_large(max(stated, BYTES_PER_VALUE * values), what)
    leaves = [footer.schema.column(number) for number in range(footer.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _refuse_large(num_bytes: int, what: str) -> None:
    if num_bytes > MAX_TABLE_BYTES:
        raise JobError(
            f"{what} unpacks to more than {MAX_TABLE_BYTES >> 20} MiB: drop columns that need not "
            "come along, or split it into several jobs"
        )


def _row(number: int, names: list[str], columns: list[_Column], index: int) -> Row:
    cells: dict[str, Any] = {}
    for name, column in zip(names, columns, strict=True):
        try:
            cells[name] = column.value(index)
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            reason = "it is no UTF-8 text" if isinstance(error, UnicodeError) else str(error)
            return Row(number, fault=f"its column {name[:80]!r} cannot be read: {reason}")
    return Row(number, cells)


class _Column:
    """The values of one column of a batch; those of a dictionary are turned into Python once."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array
        self._known: dict[int, Any] = {}
        kind = array.type
        if pa.types.is_dictionary(kind):
            self._places: list[int | None] = array.indices.to_pylist()
            self._array = array.dictionary
        elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            self._places = list(range(len(array)))
            self._known = dict(enumerate(array.to_pylist()))
        else:
            self._places = list(range(len(array)))

    def value(self, row: int) -> Any:
        place = self._places[row]
        if place is not None and place not in self._known:
            self._known[place] = _value(self._array[place])
        return None if place is None else self._known[place]


def _value(scalar: pa.Scalar) -> Any:
    """A value as JSON has it, floats that are no numbers included."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        return _value(scalar.value)
    if pa.types.is_map(kind):
        return [[_value(pair[0]), _value(pair[1])] for pair in scalar.values]
    if pa.types.is_struct(kind):
        pairs = [(kind.field(n).name, _value(scalar[n])) for n in range(kind.num_fields)]
        return dict(pairs) if len(dict(pairs)) == len(pairs) else [list(pair) for pair in pairs]
    if pa.types.is_nested(kind):
        return [_value(inner) for inner in scalar.values]
    return _plain(scalar)


def _plain(scalar: pa.Scalar) -> Any:
    kind = scalar.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_string(kind):
        return scalar.as_py()
    if pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return scalar.as_py()
    if pa.types.is_floating(kind):
        return float(scalar.as_py())
    if pa.types.is_temporal(kind):
        return _moment(scalar)
    value = scalar.as_py()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _moment(scalar: pa.Scalar) -> str:
    """A date, time or duration as text, those that Python's own types cannot hold included."""
    try:
        return str(scalar.as_py())
    except (ValueError, OverflowError, pa.ArrowException):
        try:
            return scalar.cast(pa.string()).as_py()
        except pa.ArrowException:
            return f"{scalar.value} ({scalar.type})"
