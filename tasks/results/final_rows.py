"""How do the rows that count become the files of `metadata/`, one row per planned item?

They stand in plan order, with the columns of `data/*.parquet`. The same rows give the same bytes
under the same names, so that two who write them at once do no harm.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import Store
from manifests.commits import MEND, Index, StoredFile, part_name
from manifests.schema import (
    FINAL_SCHEMA,
    PLANNED_COLUMNS,
    SCHEMA_VERSION,
    read_final_rows,
)
from tasks.runs.committed import Committed, read_part
from tasks.runs.run_folder import READERS
from tasks.runs.scratch import file_sha256, scratch_errors, scratch_folder

ROWS_PER_GROUP = 10_000
GROUP_BYTES = 64 << 20
"""A row group is written once it has so many rows, or takes so much memory."""

TABLES_WAITING = 64
"""So many are joined at once: a table of a few rows takes a hundred times their bytes."""

ROWS_PER_PART = 200_000
PART_BYTES = 256 << 20
"""A file ends once it has so many rows, or is so large."""

NUM_AHEAD = 2 * READERS
"""Shards whose rows are in memory before they are written."""


def write_final_rows(committed: Committed, index: Index) -> tuple[StoredFile, ...]:
    """Stores the files of `metadata/` of a complete run.

    Args:
        committed: the committed shards.
        index: what they add up to.

    Returns:
        What the index says of them.

    Raises:
        RunFolderError: a committed Parquet part is missing or damaged.
        ScratchFull: there is no room for a temporary file.
    """
    footer = {"schema_version": str(SCHEMA_VERSION), "fingerprint": index.fingerprint}
    schema = FINAL_SCHEMA.with_metadata({**footer, "content_digest": index.content_digest})
    if committed.plan.contested.shards:
        _ = committed.counted  # once, before many threads ask for it
    groups, stored = _grouped(_tables(committed)), list[StoredFile]()
    with scratch_folder() as scratch:
        group = next(groups, None)
        while group is not None:
            path = scratch / "part.parquet"
            group = _write_part(path, schema, group, groups)
            name = part_name(index.metadata_folder, len(stored))
            stored.append(_store(committed.plan.store, name, path))
    return tuple(stored)


def _write_part(
    path: Path, schema: pa.Schema, first: pa.Table, others: Iterator[pa.Table]
) -> pa.Table | None:
    """Writes row groups until the file is full; the one that had no more room, if there was one."""
    group, num_rows = first, 0
    with (
        scratch_errors(),
        path.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        while group is not None and num_rows < ROWS_PER_PART and file.tell() < PART_BYTES:
            writer.write_table(group, row_group_size=group.num_rows)
            num_rows += group.num_rows
            group = next(others, None)
    return group


def _store(store: Store, name: str, path: Path) -> StoredFile:
    file = StoredFile(name=name, bytes=path.stat().st_size, sha256=file_sha256(path))
    store.put(name, path)
    return file


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Joins small tables to row groups of a useful size."""
    waiting: list[pa.Table] = []
    num_rows = num_bytes = 0
    for table in tables:
        if table.num_rows:
            waiting.append(table)
            num_rows, num_bytes = num_rows + table.num_rows, num_bytes + table.nbytes
        if num_rows >= ROWS_PER_GROUP or num_bytes >= GROUP_BYTES:
            yield _joined(waiting)
            waiting, num_rows, num_bytes = [], 0, 0
        elif len(waiting) == TABLES_WAITING:
            waiting = [_joined(waiting)]
    if waiting:
        yield _joined(waiting)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).combine_chunks()


def _tables(committed: Committed) -> Iterator[pa.Table]:
    """The counting rows of each live shard, in plan order; a few shards are read ahead."""
    ahead: deque[Future[pa.Table]] = deque()
    plans = (plan.shard_columns(*PLANNED_COLUMNS) for plan in committed.plan.plans)
    with ThreadPoolExecutor(READERS) as pool:
        try:
            for shard, planned in chain.from_iterable(plans):
                if shard in committed.live:
                    ahead.append(pool.submit(_counting_rows, committed, shard, planned))
                if len(ahead) >= NUM_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _counting_rows(committed: Committed, shard: str, planned: pa.Table) -> pa.Table:
    commit = committed.commits[shard]
    data = read_part(committed.plan.store, commit)
    rows = read_final_rows(data, commit.parquet.name, planned, way_out=MEND)
    if shard not in committed.plan.contested.shards:
        return rows
    item_ids = planned["item_id"].to_pylist()
    return rows.filter(pa.array([committed.counts_in(one, shard) for one in item_ids], pa.bool_()))
