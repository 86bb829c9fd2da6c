"""What the sources of a generation listed: how that is written, and how a damaged file is read.

The same files give the same bytes, in whatever order they were listed; each stands there once.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.errors import RunFolderError
from manifests.parquet import MAX_FILE_BYTES, check_columns, checked_batches, told_as_damage

WAY_OUT = "restore it, or choose another run folder"

ROWS_AT_ONCE = 8192
"""Number of rows that are converted to Arrow columns together, which bounds the memory."""

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, order=True)
class SourceRow:
    """A file that a source listed: a picture, a tar, or the table with its name `table` for a role.

    Attributes:
        name: within the source, so that a moved source lists the same names; of a file that a table
            names, its URI.
        size: bytes; None where a named file was not there, or could not be asked for.
        etag: changes when the bytes change; None as `size` is.
    """

    role: str
    name: str
    uri: str
    size: int | None = None
    etag: str | None = None


def write_sources(rows: Iterable[SourceRow]) -> bytes:
    """The bytes of a table of sources."""
    ordered = sorted(set(rows), key=_order)
    file = io.BytesIO()
    with pq.ParquetWriter(
        file,
        SOURCE_SCHEMA,
        compression="zstd",
        write_page_checksum=True,
        write_statistics=False,  # type: ignore[arg-type]
    ) as writer:
        for start in range(0, len(ordered), ROWS_AT_ONCE):
            some = [asdict(row) for row in ordered[start : start + ROWS_AT_ONCE]]
            writer.write_table(pa.Table.from_pylist(some, SOURCE_SCHEMA))
    return file.getvalue()


def sources_digest(data: bytes) -> str:
    """sha256 of a table of sources, in hex."""
    return hashlib.sha256(data).hexdigest()


def read_sources(data: bytes, name: str, expected_digest: str) -> Iterator[SourceRow]:
    """The rows of a table of sources.

    Args:
        data: the file's bytes.
        name: of the file, relative to the run folder.
        expected_digest: its sha256, as `run.json` or the generation has it.

    Raises:
        RunFolderError: the bytes are not those that the record names, or no such table.
    """
    with told_as_damage(name, WAY_OUT):
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_FILE_BYTES} bytes")
        found = sources_digest(data)
        if found != expected_digest:
            raise RunFolderError(
                f"{name} has sha256 {found[:12]}…, its record says {expected_digest[:12]}…: it was "
                f"changed or damaged; {WAY_OUT}"
            )
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            check_columns(file.schema_arrow, SOURCE_SCHEMA)
            for batch in checked_batches(file, SOURCE_SCHEMA):
                yield from (_row(fields) for fields in batch.to_pylist())


def _row(fields: dict[str, Any]) -> SourceRow:
    row = SourceRow(**fields)
    if row.size is not None and row.size < 0:
        raise ValueError(f"{row.uri[:100]!r} has the size {row.size}")
    return row


def _order(row: SourceRow) -> tuple[str, ...]:
    """Rows that differ have another place, whatever they lack."""
    return tuple(repr(value) for value in astuple(row))
