"""What do the committed shards of a run hold, and is it what their commits say?

Where a file is missing or damaged, a RunFolderError names it and says how its shard can be rendered
again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from infra.store import Store
from manifests.commits import Commit, RunRecord, render_again
from manifests.errors import RunFolderError
from manifests.items import Item, Status
from manifests.outcomes import content_digest_of
from manifests.plan_table import PlanFile
from manifests.schema import read_metadata
from tasks.run_folder import load_plan, read_commits, read_file

Row = dict[str, Any]


def sound_commits(store: Store, run: RunRecord, plan: PlanFile) -> dict[str, Commit]:
    """Every commit of a run, by shard, after the sizes of all committed files were compared.

    This needs one listing of `data/`; the files are not read.

    Raises:
        RunFolderError: a commit or a file is damaged, missing, or not of this plan.
    """
    commits = read_commits(store)
    shards = plan.shards
    sizes = {found.key: found.size for found in store.list("data/")} if commits else {}
    for shard, commit in commits.items():
        if shard not in shards or commit.plan_digest != run.plan_digest:
            raise RunFolderError(
                f"commits/{shard}.json does not belong to this run, which has no such shard in its "
                "plan: move it away"
            )
        if commit.counts.planned != shards[shard].num_items:
            raise RunFolderError(
                f"commits/{shard}.json is damaged (it counts {commit.counts.planned} items, "
                f"{shards[shard].num_items} were planned): {render_again(shard)}"
            )
        for file in commit.files:
            _check_size(shard, file.name, file.bytes, sizes)
    return commits


def _check_size(shard: str, name: str, wanted: int, sizes: Mapping[str, int]) -> None:
    if name not in sizes:
        raise RunFolderError(f"{name} is missing: {render_again(shard)}")
    if sizes[name] != wanted:
        raise RunFolderError(
            f"{name} is damaged (it has {sizes[name]} bytes, its commit says {wanted}): "
            f"{render_again(shard)}"
        )


def shard_rows(store: Store, commit: Commit, items: list[Item]) -> list[Row]:
    """The rows of a committed shard, one per planned item, in plan order.

    Raises:
        RunFolderError: its Parquet part is damaged, or does not say what its commit says.
    """
    name, way_out = commit.parquet.name, render_again(commit.shard)
    data = read_file(store, name, way_out, commit.parquet.bytes)
    if hashlib.sha256(data).hexdigest() != commit.parquet.sha256:
        raise RunFolderError(f"{name} is damaged (its sha256 is not its commit's): {way_out}")
    rows = read_metadata(data, name, items, plan_digest=commit.plan_digest, way_out=way_out)
    counts = Counter(row["status"] for row in rows)
    told = {status: getattr(commit.counts, status) for status in (Status.OK, Status.FAILED)}
    made = [(row["key"], output["sha256"]) for row in rows for output in row["outputs"]]
    if any(counts[status] != number for status, number in told.items()):
        raise RunFolderError(f"{name} is damaged (its counts are not its commit's): {way_out}")
    if content_digest_of(made) != commit.content_digest:
        raise RunFolderError(
            f"{name} is damaged (its content_digest is not its commit's): {way_out}"
        )
    return rows


def failed_rows(store: Store, run: RunRecord, most: int) -> list[Row]:
    """The rows of the first failed items of a run, `most` at most.

    Raises:
        RunFolderError: the plan or a committed file is damaged.
    """
    plan = load_plan(store, run)
    commits = sound_commits(store, run, plan)
    rows: list[Row] = []
    for shard in plan.shards:
        if shard in commits and commits[shard].counts.failed and len(rows) < most:
            found = shard_rows(store, commits[shard], plan.items(shard))
            rows += [row for row in found if row["status"] == Status.FAILED]
    return rows[:most]
