"""Are committed shards what their commits say, and the commits what was planned?

Whatever of a shard is damaged, its items can be planned again, and the same pictures come of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.store import ObjectNotFound, ObjectUnreadable, Store, local_path
from manifests.commits import Commit, commit_name, read_commit
from manifests.errors import NewerVersion, RunFolderError
from manifests.parquet import MAX_FILE_BYTES
from manifests.plan import generation_of
from manifests.records import fits_its_seal, is_as_written
from tasks.keeping.findings import Finding, finding, matter_of, stored_bytes, stored_matter
from tasks.keeping.verified_plans import VerifiedPlans
from tasks.runs.committed import Row, rows_of
from tasks.runs.run_folder import MAX_COMMIT_BYTES


@dataclass
class ReadShard:
    """A committed shard whose commit and files were read; its rows have not been looked at.

    Attributes:
        commit: None where it cannot be read.
        parquet: the bytes of its Parquet part; empty where it is damaged.
        num_bytes: of the files that were read.
    """

    shard: str
    commit: Commit | None = None
    parquet: bytes = b""
    num_bytes: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])

    def find(self, name: str, matter: str) -> None:
        """Notes what is the matter with a file of this shard."""
        self.findings.append(finding(name, matter, "repair", self.shard))


def read_shard(store: Store, plans: VerifiedPlans, shard: str) -> ReadShard:
    """The commit of a shard and its files, held to their hashes; any number of threads may read.

    Raises:
        RunFolderError: a later version of stylefarm wrote the commit.
        StoreError: the store refuses or does not answer.
    """
    read, name = ReadShard(shard), commit_name(shard)
    if plans.is_foreign(shard):
        read.findings.append(finding(name, "is of no shard that the run has", "set aside"))
        return read
    matter = _read_commit(store, plans, read)
    if matter is not None:
        read.find(name, matter)
    elif read.commit is not None:
        _read_files(store, read, read.commit)
    return read


def check_rows(plans: VerifiedPlans, read: ReadShard) -> None:
    """Holds the rows of a shard to its plan and its commit, and lets go of them."""
    plan, parquet, read.parquet = plans.plans.get(generation_of(read.shard)), read.parquet, b""
    if plan is None or read.commit is None or not parquet:
        return
    name = commit_name(read.shard)
    try:
        rows = rows_of(parquet, read.commit, plan.items(read.shard))
    except RunFolderError as error:  # the file has the sha256 that the commit says
        read.find(name, f"does not fit its rows: {matter_of(error, read.commit.parquet.name)}")
    else:
        if differing := _differing(read.commit, rows):
            read.find(name, f"is damaged (its {differing} is not that of its rows)")


def _read_commit(store: Store, plans: VerifiedPlans, read: ReadShard) -> str | None:
    """Reads the commit; what is the matter with it."""
    name = commit_name(read.shard)
    try:
        data = store.get_range(name, 0, MAX_COMMIT_BYTES + 1)
    except ObjectNotFound:
        return "is missing"
    except ObjectUnreadable:
        if local_path(store.uri) is None:
            raise
        return "is no regular file"
    try:
        commit = read_commit(data, read.shard)
    except RunFolderError as error:
        if isinstance(error, NewerVersion) and fits_its_seal(data):
            raise
        return matter_of(error, name)
    if not is_as_written(Commit, data):
        return "is damaged (it is not as stylefarm wrote it)"
    if matter := _unplanned(commit, plans):
        return matter
    read.commit = commit
    return None


def _unplanned(commit: Commit, plans: VerifiedPlans) -> str | None:
    """In what a commit does not fit its plan."""
    reference = plans.references.get(generation_of(commit.shard))
    if reference is not None and commit.plan_digest != reference.plan_digest:
        return "belongs to another plan"
    shard = plans.shards.get(commit.shard)
    if shard is not None and commit.counts.planned != shard.num_items:
        counted = commit.counts.planned
        return f"is damaged (it counts {counted} items, {shard.num_items} were planned)"
    return None


def _read_files(store: Store, read: ReadShard, commit: Commit) -> None:
    if commit.tar is not None and (matter := stored_matter(store, commit.tar)):
        read.find(commit.tar.name, matter)
    if commit.parquet.bytes > MAX_FILE_BYTES:
        read.find(commit_name(commit.shard), "is damaged (no Parquet part is so large)")
        return
    matter, read.parquet = stored_bytes(store, commit.parquet)
    if matter is not None:
        read.find(commit.parquet.name, matter)
    read.num_bytes = sum(file.bytes for file in commit.files)


def _differing(commit: Commit, rows: Iterable[Row]) -> str | None:
    """The first field of a commit that its rows say otherwise; the rest of it they do not say."""
    rows = list(rows)
    errors = Counter(row["error_class"] for row in rows if row["error_class"])
    output_bytes = sum(output["bytes"] for row in rows for output in row["outputs"])
    if commit.stats.errors != errors or commit.stats.output_bytes != output_bytes:
        return "stats"
    told = ("attempt_id", "worker", "finished_at")
    return next(
        (name for name in told if {row[name] for row in rows} != {getattr(commit, name)}), None
    )
