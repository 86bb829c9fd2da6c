"""How a rendered shard is packed: tar and Parquet are written to scratch and checked.

`tasks.work.offer` takes them to the run folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from manifests.commits import Commit, RunRecord, StoredFile, count, data_name
from manifests.generations import Generation
from manifests.outcomes import Outcome, content_digest
from manifests.schema import Provenance, read_metadata, sample_json, write_metadata
from manifests.shard_stats import ShardStats
from tasks.inputs.tar_headers import TarDamaged, read_members
from tasks.runs.environment import kernels, versions, worker_name
from tasks.runs.faults import ScratchFull
from tasks.runs.scratch import file_sha256

BLOCK_BYTES = 512
"""A tar is made of these: headers are whole ones, and each member is filled up to whole ones."""

TAR_FORMAT = tarfile.PAX_FORMAT
"""A header is one block, as in ustar; of a name longer than ustar's 100 letters, three blocks."""

COMMIT_FILE = "commit.json"
"""What a packed shard's commit is called in scratch."""


@dataclass(frozen=True)
class Attempt:
    """One try at a shard; its id in a commit says which attempt wrote the commit."""

    shard: str
    attempt_id: str


@dataclass(frozen=True)
class PackedShard:
    """A shard whose files lie in scratch, checked, and what will declare them.

    Attributes:
        commit: names the files as they will be called in the run folder.
        folder: holds them, under the last part of those names.
        fingerprint: of the run.
    """

    commit: Commit
    folder: Path
    fingerprint: str

    def path_of(self, file: StoredFile) -> Path:
        """Where a file of the commit lies now."""
        return self.folder / file.name.rpartition("/")[2]


def provenance_of(
    run: RunRecord, attempt_id: str, device_name: str, generation: Generation | None = None
) -> Provenance:
    """What all rows of a shard have in common.

    Args:
        run: the run.
        attempt_id: of this attempt.
        device_name: of the device that rendered it.
        generation: that planned the shard; None is the run's first plan.
    """
    changes = generation.changes if generation is not None else {}
    device_type = changes.get("device_type", run.device_type)
    environment = {**versions(), **kernels(device_type, deterministic=run.deterministic)}
    return Provenance(
        model_id=run.model_id,
        model_revision=run.model_revision,
        fingerprint=run.fingerprint,
        plan_digest=(generation or run).plan_digest,
        generation=generation.number if generation is not None else 0,
        dtype=changes.get("dtype", run.dtype),
        device_type=device_type,
        deterministic=run.deterministic,
        volatile={
            "worker": worker_name(),
            "device_name": device_name,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "attempt_id": attempt_id,
            "versions": json.dumps(environment, sort_keys=True),
        },
    )


def pack_shard(
    attempt: Attempt,
    outcomes: Sequence[Outcome],
    provenance: Provenance,
    scratch: Path,
    stats: ShardStats,
) -> PackedShard:
    """Writes a rendered shard's files and its commit, and checks them; no store is needed.

    Args:
        attempt: this try.
        outcomes: one per planned item of the shard, in plan order.
        provenance: what all rows have in common.
        scratch: where the encoded pictures lie under their names.
        stats: times; counts are added here.

    Raises:
        ScratchFull: the files cannot be written, or not be read back as they were written.
    """
    folder = scratch / "packed"
    try:
        folder.mkdir(mode=0o700)
        tar_path = folder / "shard.tar"
        placed = write_tar(tar_path, outcomes, scratch, provenance)
        parquet = write_metadata(placed, provenance)
        check_shard(tar_path, parquet, placed, provenance.plan_digest)
        return _declared(attempt, placed, provenance, tar_path, parquet, folder, stats)
    except OSError as error:
        raise ScratchFull(f"{folder} cannot be written ({error.strerror})") from error


def _declared(
    attempt: Attempt,
    outcomes: Sequence[Outcome],
    provenance: Provenance,
    tar_path: Path,
    parquet: bytes,
    folder: Path,
    stats: ShardStats,
) -> PackedShard:
    """The files under their names, with the commit that declares them."""
    tar = None
    if tar_path.exists():
        tar = _stored_file(attempt.shard, "tar", tar_path.stat().st_size, file_sha256(tar_path))
    sha256 = hashlib.sha256(parquet).hexdigest()
    part = _stored_file(attempt.shard, "parquet", len(parquet), sha256)
    commit = Commit(
        shard=attempt.shard,
        attempt_id=attempt.attempt_id,
        plan_digest=provenance.plan_digest,
        content_digest=content_digest(outcomes),
        tar=tar,
        parquet=part,
        counts=count(outcomes),
        stats=stats.model_copy(update=_counted(outcomes)),
        worker=provenance.volatile["worker"],
        finished_at=provenance.volatile["finished_at"],
    )
    packed = PackedShard(commit, folder, provenance.fingerprint)
    if tar is not None:
        tar_path.rename(packed.path_of(tar))
    packed.path_of(part).write_bytes(parquet)
    (folder / COMMIT_FILE).write_bytes(commit.to_bytes())
    return packed


def write_tar(
    path: Path, outcomes: Sequence[Outcome], scratch: Path, provenance: Provenance
) -> list[Outcome]:
    """Writes a WebDataset tar of the ok items; no file where there is no such item.

    The same outcomes give the same bytes.

    Returns:
        The outcomes in their order; their outputs know their places in the tar.
    """
    made = sorted((one for one in outcomes if one.problem is None), key=lambda one: one.item.key)
    if not made:
        return list(outcomes)
    placed: dict[str, Outcome] = {}
    with tarfile.open(path, "w", format=TAR_FORMAT) as tar:
        for outcome in made:
            outcome = _placed(outcome, tar.offset, provenance)
            sample = {f"{outcome.item.key}.json": sample_json(outcome, provenance)}
            for output in outcome.outputs:
                sample[output.name] = (scratch / output.name).read_bytes()
            for name, data in sorted(sample.items()):
                tar.addfile(_member(name, len(data)), io.BytesIO(data))
            placed[outcome.item.item_id] = outcome
    return [placed.get(outcome.item.item_id, outcome) for outcome in outcomes]


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A member without times and users, so that its bytes repeat."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o444, 0
    return member


def _placed(outcome: Outcome, start: int, provenance: Provenance) -> Outcome:
    """The outcome with the offsets of its files in a tar where its sample begins at `start`.

    The sample's JSON holds these offsets and stands before some of the files, so that longer
    numbers may move them. Offsets only grow, in whole blocks, until nothing moves.
    """
    offsets = {output.name: 0 for output in outcome.outputs}
    while True:
        outputs = [replace(output, offset=offsets[output.name]) for output in outcome.outputs]
        outcome = replace(outcome, outputs=tuple(outputs))
        sizes = {output.name: output.bytes for output in outputs}
        sizes[f"{outcome.item.key}.json"] = len(sample_json(outcome, provenance))
        found, end = {}, start
        for name, size in sorted(sizes.items()):
            found[name] = end + len(_member(name, size).tobuf(TAR_FORMAT))
            end = found[name] + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if all(found[name] == offset for name, offset in offsets.items()):
            return outcome
        offsets = {name: found[name] for name in offsets}


def check_shard(
    tar_path: Path, parquet: bytes, outcomes: Sequence[Outcome], plan_digest: str
) -> None:
    """Reads both files back and holds them to the plan and to what was rendered.

    Raises:
        ScratchFull: what was read back is not what was written.
        RunFolderError: the metadata is not that of the planned items.
    """
    found = _members(tar_path) if tar_path.exists() else {}
    images = {name: one for name, one in found.items() if not name.endswith(".json")}
    outputs = [output for outcome in outcomes for output in outcome.outputs]
    samples = {f"{outcome.item.key}.json" for outcome in outcomes if outcome.problem is None}
    if images != {one.name: (one.sha256, one.offset, one.bytes) for one in outputs}:
        raise ScratchFull(f"{tar_path} does not hold the pictures that were rendered")
    if found.keys() - images.keys() != samples:
        raise ScratchFull(f"{tar_path} does not hold one JSON file for each picture")
    items = [outcome.item for outcome in outcomes]
    name = "the metadata of the shard"
    read_metadata(parquet, name, items, plan_digest=plan_digest, way_out="run the job again")


def _counted(outcomes: Sequence[Outcome]) -> dict[str, object]:
    errors = Counter(
        outcome.problem.error_class.value for outcome in outcomes if outcome.problem is not None
    )
    return {
        "output_bytes": sum(output.bytes for outcome in outcomes for output in outcome.outputs),
        "errors": dict(errors),
    }


def _stored_file(shard: str, extension: str, num_bytes: int, sha256: str) -> StoredFile:
    return StoredFile(name=data_name(shard, sha256, extension), bytes=num_bytes, sha256=sha256)


def _members(tar_path: Path) -> dict[str, tuple[str, int, int]]:
    """The sha256, the offset and the size of every member, read back from the disk."""
    members: dict[str, tuple[str, int, int]] = {}
    with tar_path.open("rb") as file:
        try:
            for member in list(read_members(file, tar_path.stat().st_size)):
                file.seek(member.offset)
                sha256 = hashlib.sha256(file.read(member.size)).hexdigest()
                members[member.name] = (sha256, member.offset, member.size)
        except TarDamaged as error:
            raise ScratchFull(f"{tar_path} cannot be read back ({error})") from None
    return members
