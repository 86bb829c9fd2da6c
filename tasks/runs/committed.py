"""What do the committed shards of a run hold, is it what their commits say, and what of it counts?

Where a file is missing or damaged, a RunFolderError names it and says how its shard can be rendered
again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from infra.store import ObjectNotFound, ObjectUnreadable, Store
from manifests.commits import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    MEND,
    Commit,
    Index,
    IndexedShard,
    RunRecord,
    read_index,
)
from manifests.counting import (
    Counted,
    build_index,
    count_items,
    indexed,
    is_current,
    refuse_foreign_commits,
    superseded_shards,
)
from manifests.errors import RunFolderError
from manifests.items import Item, Status
from manifests.outcomes import content_digest_of, lines_digest_of
from manifests.schema import read_metadata
from tasks.runs.run_folder import READERS, find_commit, find_generations, listed_commits, read_file
from tasks.runs.run_plan import RunPlan, open_plan

Row = dict[str, Any]


@dataclass(frozen=True)
class Committed:
    """The committed shards of a run, and which of their rows count; made by `open_committed`.

    Attributes:
        plan: what is planned.
        commits: every commit, by shard.
    """

    plan: RunPlan
    commits: Mapping[str, IndexedShard]

    @cached_property
    def live(self) -> dict[str, IndexedShard]:
        """The commits of shards that are not superseded, in plan order."""
        return {shard: self.commits[shard] for shard in self.plan.shards if shard in self.commits}

    @cached_property
    def counted(self) -> Counted:
        """The items of the run, each counted once."""
        gone = superseded_shards(self.plan.generations)
        return count_items(
            self.commits.values(), self.plan.contested, gone, self._rows, with_digest=False
        )

    def counting_rows(self, shard: str) -> Iterator[tuple[Row, Item]]:
        """The rows of a live shard that count, each with its item, in plan order.

        Raises:
            RunFolderError: its Parquet part is damaged, or does not say what its commit says.
        """
        items = self.plan.items(shard)
        rows = shard_rows(self.plan.store, self.commits[shard], items)
        for row, item in zip(rows, items, strict=True):
            if self.counts_in(item.item_id, shard):
                yield row, item

    def counts_in(self, item_id: str, shard: str) -> bool:
        """Whether the row of an item in this live shard is the one that counts."""
        is_contested = item_id in self.plan.contested
        return not is_contested or self.counted.row_in.get(item_id) == shard

    def index(self) -> Index:
        """The index as the commits say now, whatever `index.json` says.

        Raises:
            RunFolderError: a commit is damaged, or not of this run.
        """
        generations, contested = self.plan.generations, self.plan.contested
        return build_index(
            self.plan.run,
            self.commits.values(),
            self._rows,
            generations=generations,
            contested=contested,
        )

    def _rows(self, commit: Commit) -> list[Row]:
        return shard_rows(self.plan.store, commit, self.plan.items(commit.shard))


def open_committed(store: Store, run: RunRecord) -> Committed:
    """The committed shards of a run, after the sizes of all their files were compared.

    Raises:
        RunFolderError: a record or a file of the run is damaged, missing, or not of this run.
    """
    plan = open_plan(store, run)
    return Committed(plan, sound_commits(plan))


def current_index(store: Store, run: RunRecord) -> Index:
    """The index as the commits say now, whatever `index.json` says.

    Plans and rows are read only where commits do not add up, in runs of several generations and of
    the first layout, and not where the published index lists these very commits.

    Raises:
        RunFolderError: a commit is damaged, or not of this run.
    """
    return newer_index(store, run, find_index(store, run))


def newer_index(store: Store, run: RunRecord, published: Index | None) -> Index:
    """The index as the commits say now: the one that was published, where it is current.

    Raises:
        RunFolderError: a commit is damaged, or not of this run.
    """
    generations = find_generations(store, run)
    superseded = superseded_shards(generations)
    commits = read_commits(store, superseded=superseded, index=published)
    if published is not None and is_current(published, run, generations, commits.values()):
        return published
    if not generations and all(commit.schema_version > 1 for commit in commits.values()):
        return build_index(run, commits.values(), lambda commit: [])
    live = (commit for shard, commit in commits.items() if shard not in superseded)
    refuse_foreign_commits(run, generations, live)
    return planned_commits(open_plan(store, run), commits).index()


def planned_commits(plan: RunPlan, commits: Mapping[str, IndexedShard]) -> Committed:
    """Commits that were read, held to the plan.

    Raises:
        RunFolderError: one is of no planned shard, or counts other items.
    """
    _refuse_unplanned(plan, commits)
    return Committed(plan, commits)


def sound_commits(plan: RunPlan) -> dict[str, IndexedShard]:
    """Every commit of a run, by shard, after the sizes of all committed files were compared.

    Raises:
        RunFolderError: a commit or a file is damaged, missing, or not of this plan.
    """
    commits = read_commits(plan.store, superseded=superseded_shards(plan.generations))
    _refuse_unplanned(plan, commits)
    check_sizes(plan.store, [commit for shard, commit in commits.items() if shard in plan.shards])
    return commits


def check_sizes(store: Store, commits: Sequence[Commit]) -> None:
    """Compares the sizes of committed files; one listing of `data/`, and no file is read.

    Raises:
        RunFolderError: a file is missing, or of another size than its commit says.
    """
    sizes = {found.key: found.size for found in store.list("data/")} if commits else {}
    for commit in commits:
        for file in commit.files:
            _check_size(commit.shard, file.name, file.bytes, sizes)


def read_commits(
    store: Store, *, superseded: Collection[str] = frozenset(), index: Index | None = None
) -> dict[str, IndexedShard]:
    """Every commit of a run, by shard; those that the index has are taken from there.

    Args:
        store: of the run folder.
        superseded: shards whose commits do not count; damaged ones of them are left out.
        index: as it was published last; it is looked for unless given.

    Raises:
        RunFolderError: a commit of another shard is damaged.
    """
    listed = listed_commits(store)
    index = find_index(store) if listed and index is None else index
    commits = {
        commit.shard: commit
        for commit in (() if index is None else index.shards)
        if commit.shard in listed and commit.etag == listed[commit.shard].etag
    }
    unknown = [shard for shard in listed if shard not in commits]

    def read(shard: str) -> Commit | None:
        try:
            return find_commit(store, shard)
        except (RunFolderError, ObjectUnreadable):
            if shard in superseded:
                return None
            raise

    with ThreadPoolExecutor(READERS) as pool:
        for shard, commit in zip(unknown, pool.map(read, unknown), strict=True):
            if commit is not None:
                commits[shard] = indexed(commit, etag=listed[shard].etag)
    return {shard: commits[shard] for shard in listed if shard in commits}


def find_index(store: Store, run: RunRecord | None = None) -> Index | None:
    """The index as it was published last.

    Args:
        store: of the run folder.
        run: whose index it must be, where that is known.

    Returns:
        None where there is none that can be used: it is damaged, or of another version or run.
    """
    try:
        index = read_index(store.get_range(INDEX_NAME, 0, MAX_INDEX_BYTES))
    except (ObjectNotFound, ObjectUnreadable, RunFolderError):
        return None
    if index is None or run is None or index.fingerprint == run.fingerprint:
        return index
    return None


def _refuse_unplanned(plan: RunPlan, commits: Mapping[str, Commit]) -> None:
    """Refuses commits of no planned shard, or of too many items; superseded ones may say anything.

    Raises:
        RunFolderError: there is one.
    """
    superseded = superseded_shards(plan.generations)
    for shard, commit in commits.items():
        if shard in superseded:
            continue
        planned = plan.every_shard.get(shard)
        if planned is None or commit.plan_digest != plan.reference(shard).plan_digest:
            raise RunFolderError(
                f"commits/{shard}.json does not belong to this run, which has no such shard in its "
                "plan: call 'stylefarm verify', which moves it away or plans its shard anew"
            )
        if commit.counts.planned != planned.num_items:
            raise RunFolderError(
                f"commits/{shard}.json is damaged (it counts {commit.counts.planned} items, "
                f"{planned.num_items} were planned): {MEND}"
            )


def _check_size(shard: str, name: str, wanted: int, sizes: Mapping[str, int]) -> None:
    if name not in sizes:
        raise RunFolderError(f"{name} is missing: {MEND}")
    if sizes[name] != wanted:
        raise RunFolderError(
            f"{name} is damaged (it has {sizes[name]} bytes, its commit says {wanted}): {MEND}"
        )


def shard_rows(store: Store, commit: Commit, items: list[Item]) -> list[Row]:
    """The rows of a committed shard, one per planned item, in plan order.

    Raises:
        RunFolderError: its Parquet part is damaged, or does not say what its commit says.
    """
    return rows_of(read_part(store, commit), commit, items)


def read_part(store: Store, commit: Commit) -> bytes:
    """The bytes of a committed Parquet part.

    Raises:
        RunFolderError: it is missing, or not what its commit says.
    """
    data = read_file(store, commit.parquet.name, MEND, commit.parquet.bytes)
    _check_sha256(data, commit)
    return data


def rows_of(data: bytes, commit: Commit, items: list[Item]) -> list[Row]:
    """The rows in the bytes of a committed Parquet part; see `shard_rows`."""
    name, way_out = commit.parquet.name, MEND
    _check_sha256(data, commit)
    rows = read_metadata(data, name, items, plan_digest=commit.plan_digest, way_out=way_out)
    counts = Counter(row["status"] for row in rows)
    told = {status: getattr(commit.counts, status) for status in (Status.OK, Status.FAILED)}
    made = [(row["key"], output["sha256"]) for row in rows for output in row["outputs"]]
    if any(counts[status] != number for status, number in told.items()):
        raise RunFolderError(f"{name} is damaged (its counts are not its commit's): {way_out}")
    digest_of = lines_digest_of if commit.schema_version == 1 else content_digest_of
    if digest_of(made) != commit.content_digest:
        raise RunFolderError(
            f"{name} is damaged (its content_digest is not its commit's): {way_out}"
        )
    return rows


def _check_sha256(data: bytes, commit: Commit) -> None:
    if hashlib.sha256(data).hexdigest() != commit.parquet.sha256:
        name = commit.parquet.name
        raise RunFolderError(f"{name} is damaged (its sha256 is not its commit's): {MEND}")
