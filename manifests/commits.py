"""The records of a run: run.json, one commit per shard, and the index that is derived from them.

`counting` makes the index.

Records that are read may be damaged or forged. Names, counts and digests are checked here; whether
a file is what a record says about it is checked where the file is opened (`tasks.runs.committed`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from manifests.errors import NewerVersion, RunFolderError
from manifests.identity import fingerprint as fingerprint_of
from manifests.items import Status
from manifests.outcomes import Outcome
from manifests.plan import PLAN_NAME, SHARD_PATTERN, plan_name, sources_name
from manifests.records import (
    Count,
    Record,
    SealedRecord,
    Sha256,
    Words,
    first_problem,
    read_record,
)
from manifests.shard_stats import ShardStats

RUN_NAME = "run.json"
INDEX_NAME = "index.json"
REPORT_NAME = "report.html"

RUN_SCHEMA_VERSION = 2
"""Of `run.json`. In 1, the first layout, the plan is `plan/plan.parquet`, precision and kind of
device are not resolved, and the identity holds a digest of each source."""

COMMIT_SCHEMA_VERSION = 2

INDEX_SCHEMA_VERSION = 2
"""Of `index.json`. Those of version 1 state no version, and hold neither etags nor commits."""

_MAKE_AGAIN = "'stylefarm report' makes it again from the commits"

MAX_INDEX_BYTES = 1 << 29
"""Maximum size of an index that is read, some 500,000 shards; a larger one is made again."""

ShardName = Annotated[str, Field(pattern=rf"^{SHARD_PATTERN}$")]


class PlanReference(SealedRecord):
    """A frozen plan, and what its sources listed when it was made.

    Attributes:
        plan_name, sources_name: relative to the run folder; each holds its file's hash. A run of
            the first layout names its plan `plan/plan.parquet` and has no table of sources.
        plan_digest, sources_digest: sha256 of the files.
        num_items, num_shards: of the plan.
    """

    plan_name: str
    plan_digest: Sha256
    num_items: Annotated[Count, Field(ge=1)]
    num_shards: Annotated[Count, Field(ge=1)]
    sources_name: str | None = None
    sources_digest: Sha256 | None = None

    @model_validator(mode="after")
    def _refers_to_its_files(self) -> Self:
        if self.plan_name not in (PLAN_NAME, plan_name(self.plan_digest)):
            raise ValueError(f"{self.plan_name[:100]!r} is not the name of its plan")
        digest = self.sources_digest
        if self.sources_name != (None if digest is None else sources_name(digest)):
            raise ValueError("its sources_name is not that of its sources_digest")
        if self.num_shards > self.num_items:
            raise ValueError("it has more shards than items")
        return self


class RunRecord(PlanReference):
    """`run.json`: what this run folder is. Written once; it makes its plan binding.

    Attributes:
        identity: every field that the fingerprint covers, flat.
        job: the resolved job.
        settings: the preset's settings with the job's in them.
        model_id, controlnet_id: as they were named.
        model_config_id: of a single file, the folder with its configuration, or a hub id with its
            commit after an `@`; as it was named in the first layout.
        model_revision: exactly which weights; a ControlNet's revision follows after a `+`.
        dtype: the precision of the networks; None in the first layout, where each worker decided.
        device_type: the kind of device; None in the first layout.
        deterministic: whether kernels are used that give the same bits every time. It stands in the
            identity where it is not the default, which was False once; see
            `identity.with_fast_kernels_as_default`.
        png_strategy: zlib's, by which PNG files are compressed; runs that began before it was
            recorded keep `default`, so that the same pictures stay the same bytes.
        conditional_put: whether the store refused a second conditional write when asked.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = RUN_SCHEMA_VERSION
    fingerprint: Sha256
    identity: dict[str, Any]
    job: dict[str, Any]
    settings: dict[str, Any]
    model_id: Words
    model_config_id: Words | None = None
    controlnet_id: Words | None = None
    model_revision: Words
    plan_name: str = PLAN_NAME
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    device_type: Literal["cpu", "cuda", "mps"] | None = None
    deterministic: Annotated[bool, Field(strict=True)] = False
    png_strategy: Literal["default", "rle"] = "default"
    conditional_put: Annotated[bool, Field(strict=True)]
    versions: dict[Words, Words]
    created_at: Words

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if fingerprint_of(self.identity) != self.fingerprint:
            raise ValueError("its fingerprint is not that of its identity")
        for name in ("model_revision", "dtype", "device_type"):
            if self.identity.get(name) != getattr(self, name):
                raise ValueError(f"its {name} is not that of its identity")
        stated = self.identity.get("backbone.deterministic", self.deterministic)
        if stated is not self.deterministic:
            raise ValueError("its deterministic is not that of its identity")
        if not isinstance(self.identity.get("task"), str):
            raise ValueError("its identity names no task")
        is_first_layout = self.schema_version == 1
        if is_first_layout is not (self.plan_name == PLAN_NAME):
            raise ValueError(f"{self.plan_name!r} is not the name of its plan")
        if is_first_layout is not (self.dtype is None) or is_first_layout is not (
            self.device_type is None
        ):
            raise ValueError("its dtype or its device_type is missing")
        return self

    @property
    def task(self) -> str:
        """The task of the job."""
        return self.identity["task"]

    @property
    def hours_name(self) -> str:
        """What the hours are called that its workers hold their devices."""
        return hours_name(self.device_type)

    @property
    def named_backbone(self) -> dict[str, Any]:
        """The backbone of the job by key, as it was written; empty where only its name was."""
        backbone: Any = self.job.get("backbone")
        return backbone if isinstance(backbone, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def hours_name(device_type: str | None) -> str:
    """What the hours are called that workers hold devices of a kind."""
    return "GPU-hours" if device_type == "cuda" else "worker-hours"


class _AnyVersion(Record):
    schema_version: Any = None


class StoredFile(Record):
    """A file that a record declares; the name is relative to the run folder."""

    name: str
    bytes: Count
    sha256: Sha256


class Counts(Record):
    """How many items became what. `planned == ok + failed + skipped + pending`, always."""

    planned: Count = 0
    ok: Count = 0
    failed: Count = 0
    skipped: Count = 0
    pending: Count = 0

    @model_validator(mode="after")
    def _add_up(self) -> Counts:
        if self.planned != self.ok + self.failed + self.skipped + self.pending:
            raise ValueError("its counts do not add up to planned")
        return self

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in self})


class Commit(SealedRecord):
    """`commits/<shard>.json`: the one write that makes a shard exist.

    Attributes:
        schema_version: 1 where a commit of the first layout says nothing.
        attempt_id: unique to the attempt that wrote it.
        plan_digest: of the generation that planned the shard.
        content_digest: over the keys and output hashes of the ok items: their sum, which adds up
            over shards; in the first layout a sha256 over lines, which does not.
        tar: None where no item is ok; there is no tar then.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = COMMIT_SCHEMA_VERSION
    shard: ShardName
    attempt_id: Words
    plan_digest: Sha256
    content_digest: Sha256
    tar: StoredFile | None
    parquet: StoredFile
    counts: Counts
    stats: ShardStats
    worker: Words
    finished_at: Words

    @model_validator(mode="after")
    def _is_consistent(self) -> Commit:
        for file, extension in ((self.tar, "tar"), (self.parquet, "parquet")):
            if file is not None and file.name != data_name(self.shard, file.sha256, extension):
                raise ValueError(f"{file.name[:100]!r} is not the name of its {extension}")
        if self.tar is None and self.counts.ok:
            raise ValueError(f"it counts {self.counts.ok} items as ok and names no tar")
        if not self.counts.planned or self.counts.pending:
            raise ValueError("a committed shard has items, and none of them is pending")
        return self

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """The files that this commit declares."""
        return tuple(file for file in (self.tar, self.parquet) if file is not None)


class IndexedShard(Commit):
    """A committed shard as the index lists it: its whole commit, so that nobody reads it again.

    Attributes:
        etag: of the commit file in the store's listing as it was read; empty where nobody knows.
        superseded: planned anew by a later generation; its rows do not count.
    """

    etag: str = ""
    superseded: bool = False


class IndexedGeneration(Record):
    """A generation as the index lists it; number 0 is the run's own plan."""

    number: Count
    kind: str
    plan_digest: str
    num_items: Count
    num_shards: Count


class Index(Record):
    """`index.json`: what has been committed so far; can be made again at any time.

    Attributes:
        schema_version: an index of another version is made again from the commits.
        plan_digest: of the run's own plan; `generations` has those of the others.
        content_digest: over the ok items that count, whatever shards they lie in.
        complete: every planned shard that is not superseded is committed, and no item is pending.
        counts, stats.errors: of items, each counted once; the other figures are of all shards that
            are not superseded.
        shards: in plan order; damaged commits of superseded shards are left out.
        metadata: the files with one final row per planned item; none until the run is complete.
    """

    schema_version: int = INDEX_SCHEMA_VERSION
    fingerprint: str
    plan_digest: str
    content_digest: str
    complete: bool
    counts: Counts
    stats: ShardStats
    generations: tuple[IndexedGeneration, ...] = ()
    shards: tuple[IndexedShard, ...]
    metadata: tuple[StoredFile, ...] = ()

    @model_validator(mode="after")
    def _names_its_metadata(self) -> Index:
        parts = enumerate(self.metadata)
        if any(file.name != part_name(self.metadata_folder, number) for number, file in parts):
            raise ValueError("its metadata has not the names of its rows")
        return self

    @property
    def rows_digest(self) -> str:
        """sha256 over what rows there are: the plans, and the Parquet parts that count, in hex."""
        lines = [one.plan_digest for one in self.generations]
        lines += [f"{one.shard} {one.parquet.sha256}" for one in self.shards if not one.superseded]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def metadata_folder(self) -> str:
        """Where the final rows lie in the run folder, with a slash at its end."""
        return f"metadata/{self.rows_digest[:12]}/"

    def to_bytes(self) -> bytes:
        """The index as JSON text, a line per shard; the first line holds the sha256 of the rest."""
        told = self.model_dump(mode="json")
        lines = ",\n".join(json.dumps(shard, sort_keys=True) for shard in told.pop("shards"))
        values = {name: json.dumps(value, sort_keys=True) for name, value in told.items()}
        values["shards"] = f"[\n{lines}\n]"
        rest = ",\n".join(f'"{name}": {value}' for name, value in sorted(values.items()))
        data = f"{rest}}}\n".encode()
        return _checksum_line(data) + data


def read_index(data: bytes) -> Index | None:
    """The index that the bytes are; None where another version of stylefarm wrote it.

    Raises:
        RunFolderError: it is damaged.
    """
    first, newline, rest = data.partition(b"\n")
    if first + newline != _checksum_line(rest):
        version = read_record(_AnyVersion, data, INDEX_NAME, way_out=_MAKE_AGAIN).schema_version
        if version is None:  # version 1 stated none, and had no checksum
            return None
        raise RunFolderError(
            f"{INDEX_NAME} is damaged (its checksum is not that of its bytes): {_MAKE_AGAIN}"
        )
    try:
        index = Index.model_validate_json(data)
    except ValidationError as error:
        reason = first_problem(error)[:300]
        raise RunFolderError(f"{INDEX_NAME} is damaged ({reason}): {_MAKE_AGAIN}") from None
    return index if index.schema_version == INDEX_SCHEMA_VERSION else None


def _checksum_line(rest: bytes) -> bytes:
    return b'{"checksum": "%s",\n' % hashlib.sha256(rest).hexdigest().encode()


def commit_name(shard: str) -> str:
    """Where a shard's commit lies in the run folder."""
    return f"commits/{shard}.json"


def data_name(shard: str, sha256: str, extension: str) -> str:
    """Where a shard's tar or Parquet part lies in the run folder."""
    return f"data/{shard}-{sha256[:12]}.{extension}"


def part_name(folder: str, number: int) -> str:
    """Where a file of final rows lies in the run folder."""
    return f"{folder}part-{number:05d}.parquet"


MEND = "restore it, or call 'stylefarm verify', which names all that is damaged and plans it anew"
"""What the user can do where a file of a committed shard is damaged or missing."""


def count(outcomes: Sequence[Outcome]) -> Counts:
    """The counts of a shard."""
    by_status = Counter(outcome.status for outcome in outcomes)
    return Counts(planned=len(outcomes), ok=by_status[Status.OK], failed=by_status[Status.FAILED])


def read_run(data: bytes) -> RunRecord:
    """The run that `run.json` describes.

    Raises:
        RunFolderError: it is damaged, or of a later version of stylefarm.
    """
    way_out = "restore it, or choose another run folder"
    version = read_record(_AnyVersion, data, RUN_NAME, way_out=way_out).schema_version
    if isinstance(version, int) and version > RUN_SCHEMA_VERSION:
        raise NewerVersion(
            f"{RUN_NAME} was made by a newer stylefarm (its schema_version is {version}, this one "
            f"reads {RUN_SCHEMA_VERSION}): update stylefarm, or choose another run folder"
        )
    return read_record(RunRecord, data, RUN_NAME, way_out=way_out)


def read_commit(data: bytes, shard: str) -> Commit:
    """The commit of a shard.

    Raises:
        RunFolderError: it is damaged, another shard's, or of a later version of stylefarm.
    """
    name = commit_name(shard)
    version = read_record(_AnyVersion, data, name, way_out=MEND).schema_version
    if isinstance(version, int) and version > COMMIT_SCHEMA_VERSION:
        raise NewerVersion(
            f"{name} was made by a newer stylefarm (its schema_version is {version}, this one "
            f"reads {COMMIT_SCHEMA_VERSION}): update stylefarm"
        )
    commit = read_record(Commit, data, name, way_out=MEND)
    if version is None:
        commit = commit.model_copy(update={"schema_version": 1})
    if commit.shard != shard:
        raise RunFolderError(f"{name} is the commit of shard {commit.shard}: {MEND}")
    return commit
