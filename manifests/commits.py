"""The records of a run: run.json, one commit per shard, and the index that is derived from them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.errors import RunFolderError
from manifests.items import Status
from manifests.schema import Outcome

RUN_NAME = "run.json"
INDEX_NAME = "index.json"
REPORT_NAME = "report.html"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    def to_bytes(self) -> bytes:
        """The record as JSON text, keys sorted."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)
        return f"{text}\n".encode()


class RunRecord(_Record):
    """`run.json`: what this run folder is. Written once; it makes the plan binding.

    Attributes:
        identity: every field that the fingerprint covers, flat.
        job: the resolved job.
        settings: the preset's settings with the job's in them.
        model_id, model_config_id, controlnet_id: as they were named.
        model_revision: exactly which weights; a ControlNet's revision follows after a `+`.
        num_items, num_shards: of the plan.
        conditional_put: whether the store refused a second conditional write when asked.
    """

    schema_version: int = 1
    fingerprint: str
    identity: dict[str, Any]
    job: dict[str, Any]
    settings: dict[str, Any]
    model_id: str
    model_config_id: str | None = None
    controlnet_id: str | None = None
    model_revision: str
    plan_digest: str
    num_items: int
    num_shards: int
    conditional_put: bool
    versions: dict[str, str]
    created_at: str


class StoredFile(_Record):
    """A file of a shard; the name is relative to the run folder."""

    name: str
    bytes: int
    sha256: str


class Counts(_Record):
    """How many items became what. `planned == ok + failed + skipped + pending`, always."""

    planned: int = 0
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in self})


class ShardStats(_Record):
    """Figures of a shard that add up over shards."""

    render_seconds: float = 0.0
    encode_seconds: float = 0.0
    load_seconds: float = 0.0
    output_bytes: int = 0
    errors: dict[str, int] = Field(default_factory=dict[str, int])

    def __add__(self, other: ShardStats) -> ShardStats:
        return ShardStats(
            render_seconds=self.render_seconds + other.render_seconds,
            encode_seconds=self.encode_seconds + other.encode_seconds,
            load_seconds=self.load_seconds + other.load_seconds,
            output_bytes=self.output_bytes + other.output_bytes,
            errors=dict(Counter(self.errors) + Counter(other.errors)),
        )


class Commit(_Record):
    """`commits/<shard>.json`: the one write that makes a shard exist.

    Attributes:
        attempt_id: unique to the attempt that wrote it.
        content_digest: sha256 over the keys and output hashes of the ok items.
    """

    shard: str
    attempt_id: str
    plan_digest: str
    content_digest: str
    tar: StoredFile
    parquet: StoredFile
    counts: Counts
    stats: ShardStats
    worker: str
    finished_at: str


class IndexedShard(_Record):
    """A committed shard as the index lists it."""

    shard: str
    tar: StoredFile
    parquet: StoredFile
    counts: Counts
    content_digest: str


class Index(_Record):
    """`index.json`: what has been committed so far; can be made again at any time."""

    fingerprint: str
    plan_digest: str
    content_digest: str
    complete: bool
    counts: Counts
    stats: ShardStats
    shards: tuple[IndexedShard, ...]


RecordType = TypeVar("RecordType", bound=_Record)


def commit_name(shard: str) -> str:
    """Where a shard's commit lies in the run folder."""
    return f"commits/{shard}.json"


def content_digest(outcomes: Iterable[Outcome]) -> str:
    """sha256 over (key, output sha256) in key order; equal for runs that made the same files."""
    pairs = sorted(
        (outcome.item.key, output.sha256) for outcome in outcomes for output in outcome.outputs
    )
    return _digest_lines(f"{key} {sha256}" for key, sha256 in pairs)


def count(outcomes: Sequence[Outcome]) -> Counts:
    """The counts of a shard."""
    by_status = Counter(outcome.status for outcome in outcomes)
    return Counts(planned=len(outcomes), ok=by_status[Status.OK], failed=by_status[Status.FAILED])


def build_index(run: RunRecord, commits: Iterable[Commit]) -> Index:
    """Folds the commits of a run into its index.

    Raises:
        RunFolderError: a commit belongs to another plan.
    """
    ordered = sorted(commits, key=lambda commit: commit.shard)
    for commit in ordered:
        if commit.plan_digest != run.plan_digest:
            raise RunFolderError(
                f"commit {commit.shard} belongs to another plan "
                f"({commit.plan_digest[:12]}…, this run has {run.plan_digest[:12]}…)"
            )
    committed = sum((commit.counts for commit in ordered), Counts())
    counts = committed.model_copy(
        update={"planned": run.num_items, "pending": run.num_items - committed.planned}
    )
    assert counts.planned == counts.ok + counts.failed + counts.skipped + counts.pending
    return Index(
        fingerprint=run.fingerprint,
        plan_digest=run.plan_digest,
        content_digest=_digest_lines(f"{one.shard} {one.content_digest}" for one in ordered),
        complete=counts.pending == 0,
        counts=counts,
        stats=sum((commit.stats for commit in ordered), ShardStats()),
        shards=tuple(
            IndexedShard(**{name: getattr(commit, name) for name in IndexedShard.model_fields})
            for commit in ordered
        ),
    )


def read_record(record: type[RecordType], data: bytes, name: str) -> RecordType:
    """A record from its bytes.

    Raises:
        RunFolderError: the bytes are not such a record.
    """
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        raise RunFolderError(f"{name} is damaged: {error.errors()[0]['msg']}") from None


def _digest_lines(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(f"{line}\n".encode())
    return total.hexdigest()
