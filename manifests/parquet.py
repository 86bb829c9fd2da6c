"""How the rows of a Parquet file that may be damaged are read, in bounded memory.

Whatever the file holds, the answer is rows of exactly the expected columns, or a RunFolderError.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RunFolderError

MAX_FILE_BYTES = 1 << 30
"""Maximum size of a Parquet file of a run folder."""

MAX_UNPACKED_BYTES = 8 << 30
"""Maximum size of all columns after decompression, as the footer of the file states it."""

MAX_BATCH_BYTES = 256 << 20
"""Maximum memory for a column of the rows that are unpacked together."""

MAX_BATCH_ROWS = 8192
"""Maximum number of rows that are unpacked together."""


def parquet_rows(
    data: bytes, schema: pa.Schema, name: str, *, num_rows: int, way_out: str
) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, with the columns of the schema; see `parquet_batches`."""
    for batch in parquet_batches(data, schema, name, num_rows=num_rows, way_out=way_out):
        with told_as_damage(name, way_out):
            rows = batch.to_pylist()
        yield from rows


def parquet_batches(
    data: bytes, schema: pa.Schema, name: str, *, num_rows: int, way_out: str
) -> Iterator[pa.RecordBatch]:
    """A Parquet file, a few rows at a time, with the columns of the schema; others are left out.

    Args:
        data: the file's bytes.
        schema: the columns that must be there, with their types; null only where it allows that.
        name: of the file, relative to the run folder.
        num_rows: how many rows must be there.
        way_out: what the user can do about a damaged file.

    Raises:
        RunFolderError: the file is damaged, or does not hold such rows.
    """
    with told_as_damage(name, way_out):
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            check_columns(file.schema_arrow, schema)
            yield from checked_batches(file, schema, num_rows=num_rows)


@contextmanager
def told_as_damage(name: str, way_out: str) -> Iterator[None]:
    """Whatever goes wrong in the block becomes a RunFolderError that names the file."""
    try:
        yield
    except RunFolderError:
        raise
    except Exception as error:  # pyarrow raises nearly every built-in error on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RunFolderError(f"{name} is damaged ({reason[:300]}): {way_out}") from error


def parquet_footer(data: bytes) -> dict[str, str]:
    """The keys and values of the footer of a file whose rows have been read."""
    footer = pq.read_schema(pa.BufferReader(data)).metadata or {}
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in footer.items()
    }


def checked_batches(
    file: pq.ParquetFile,
    schema: pa.Schema,
    *,
    num_rows: int | None = None,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The columns of the schema, which the file has, a few rows at a time.

    Args:
        file: as it was opened.
        schema: the columns that are read; null only where it allows that.
        num_rows: how many rows the whole file must have.
        row_groups: those that are read; all of them unless given.

    Raises:
        ValueError: there is an empty value where none may be, or another number of rows; pyarrow
            raises nearly every other error where the file is damaged.
    """
    if num_rows is not None and file.metadata.num_rows != num_rows:
        raise ValueError(f"it has {file.metadata.num_rows} rows, but {num_rows} were planned")
    found = 0
    for batch in file.iter_batches(
        _batch_rows(file.metadata),
        row_groups=row_groups,
        columns=schema.names,
        use_threads=False,  # most files are small, and many are read side by side
    ):
        for field in schema:
            if not field.nullable and batch.column(field.name).null_count:
                raise ValueError(f"the column {field.name} has an empty value")
        found += batch.num_rows
        yield batch.select(schema.names)
    if num_rows is not None and found != num_rows:
        raise ValueError(f"it says {num_rows} rows and holds {found}")


def check_columns(found: pa.Schema, wanted: pa.Schema) -> None:
    """Refuses columns that lack one of the schema's, or have it twice or with another type.

    Raises:
        ValueError: they do.
    """
    for field in wanted:
        if found.names.count(field.name) != 1:
            raise ValueError(
                f"it has no column {field.name}, or has it twice: was it made by another version?"
            )
        if found.field(field.name).type != field.type:
            raise ValueError(
                f"its column {field.name} is {found.field(field.name).type}, not {field.type}"
            )


def _batch_rows(metadata: Any) -> int:
    """How many rows may be unpacked together.

    A file may store a long value once and repeat it in every row, so a small file can need much
    memory. A value is never larger than its whole column in the file, which gives the bound.
    """
    sizes = [
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    if sum(sizes) > MAX_UNPACKED_BYTES or min(sizes, default=0) < 0:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // max(1, *sizes, 1)))
