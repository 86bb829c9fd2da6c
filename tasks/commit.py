"""How a shard is committed: tar and Parquet are written, checked and stored, then declared."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from webdataset.writer import TarWriter

from infra.store import Store
from manifests.commits import (
    AttemptNote,
    Commit,
    RunRecord,
    ShardStats,
    StoredFile,
    commit_name,
    count,
    data_name,
)
from manifests.errors import RunFolderError
from manifests.outcomes import Outcome, content_digest
from manifests.schema import Provenance, read_metadata, sample_json, write_metadata
from manifests.wording import safe_text
from tasks.environment import versions, worker_name
from tasks.run_folder import find_commit, refuse_linked_folders
from tasks.tar_headers import TarDamaged, read_members


class ScratchError(RuntimeError):
    """A file in the temporary folder does not hold what was written into it.

    The disk of the temporary folder is full or broken: free some room, or set TMPDIR to another
    one, and run the job again.
    """

    def __init__(self, finding: str) -> None:
        super().__init__(
            f"{finding}: free some room on the disk of the temporary folder, or set TMPDIR to "
            "another one, and run the job again"
        )


@dataclass(frozen=True)
class Attempt:
    """One try at a shard; its id in a commit says which attempt wrote the commit."""

    shard: str
    attempt_id: str


def commit_shard(
    store: Store,
    run: RunRecord,
    attempt: Attempt,
    outcomes: Sequence[Outcome],
    scratch: Path,
    stats: ShardStats,
    device: str,
) -> tuple[Commit, bool]:
    """Stores a rendered shard and declares it.

    Args:
        store: of the run folder.
        run: the run.
        attempt: this try.
        outcomes: one per planned item of the shard, in plan order.
        scratch: where the encoded pictures lie under their names.
        stats: times; counts are added here.
        device: what rendered it.

    Returns:
        The commit of the shard, and whether this attempt wrote it. Where another attempt was first,
        the work of this one is discarded.
    """
    finished_at = datetime.now(UTC).isoformat(timespec="seconds")
    provenance = Provenance(
        model_id=run.model_id,
        model_revision=run.model_revision,
        fingerprint=run.fingerprint,
        plan_digest=run.plan_digest,
        volatile={
            "worker": worker_name(),
            "device_name": device,
            "finished_at": finished_at,
            "attempt_id": attempt.attempt_id,
            "versions": json.dumps(versions(), sort_keys=True),
        },
    )
    tar_path = write_tar(scratch / f"{attempt.shard}.tar", outcomes, scratch, provenance)
    parquet = write_metadata(outcomes, provenance)
    check_shard(tar_path, parquet, outcomes, run.plan_digest)

    tar = None
    if tar_path is not None:
        tar = _stored_file(attempt.shard, "tar", tar_path.stat().st_size, _file_sha256(tar_path))
        store.put(tar.name, tar_path)
    sha256 = hashlib.sha256(parquet).hexdigest()
    part = _stored_file(attempt.shard, "parquet", len(parquet), sha256)
    store.put(part.name, parquet)
    commit = Commit(
        shard=attempt.shard,
        attempt_id=attempt.attempt_id,
        plan_digest=run.plan_digest,
        content_digest=content_digest(outcomes),
        tar=tar,
        parquet=part,
        counts=count(outcomes),
        stats=stats.model_copy(update=_counted(outcomes)),
        worker=worker_name(),
        finished_at=finished_at,
    )
    if store.put_if_absent(commit_name(attempt.shard), commit.to_bytes()):
        return commit, True
    winner = find_commit(store, attempt.shard)
    if winner is None:
        raise RunFolderError(
            f"{commit_name(attempt.shard)} was refused by the store and is not there: does another "
            "program delete files of this run folder? Run the job again"
        )
    return winner, False


def write_tar(
    path: Path, outcomes: Sequence[Outcome], scratch: Path, provenance: Provenance
) -> Path | None:
    """A WebDataset tar of the ok items; None, and no file, where there is no such item.

    The same outcomes give the same bytes.
    """
    made = [outcome for outcome in outcomes if outcome.problem is None]
    if not made:
        return None
    with path.open("wb") as file:
        # Plain bytes in, so no encoder; no times and no users, so that bytes repeat.
        writer = TarWriter(file, encoder=False, mtime=0, user="", group="")
        for outcome in sorted(made, key=lambda outcome: outcome.item.key):
            sample: dict[str, str | bytes] = {"__key__": outcome.item.key}
            sample["json"] = sample_json(outcome, provenance)
            for output in outcome.outputs:
                extension = output.name.removeprefix(f"{outcome.item.key}.")
                sample[extension] = (scratch / output.name).read_bytes()
            writer.write(sample)
        writer.close()
    return path


def check_shard(
    tar_path: Path | None, parquet: bytes, outcomes: Sequence[Outcome], plan_digest: str
) -> None:
    """Reads both files back and holds them to the plan and to what was rendered.

    Raises:
        ScratchError: what was read back is not what was written.
        RunFolderError: the metadata is not that of the planned items.
    """
    found = _member_hashes(tar_path) if tar_path is not None else {}
    images = {name: sha256 for name, sha256 in found.items() if not name.endswith(".json")}
    outputs = [output for outcome in outcomes for output in outcome.outputs]
    samples = {f"{outcome.item.key}.json" for outcome in outcomes if outcome.problem is None}
    if images != {output.name: output.sha256 for output in outputs}:
        raise ScratchError(f"{tar_path} does not hold the pictures that were rendered")
    if found.keys() - images.keys() != samples:
        raise ScratchError(f"{tar_path} does not hold one JSON file for each picture")
    items = [outcome.item for outcome in outcomes]
    name = "the metadata of the shard"
    read_metadata(parquet, name, items, plan_digest=plan_digest, way_out="run the job again")


def record_failure(store: Store, attempt: Attempt, error: str) -> None:
    """Leaves a note of a failed attempt in the run folder, beside earlier ones.

    Raises:
        RunFolderError: the place of the notes is a link that leads out of the run folder.
        StoreError: the store refuses or does not answer.
    """
    refuse_linked_folders(store, f"attempts/{attempt.shard}")
    note = AttemptNote(
        shard=attempt.shard,
        attempt_id=attempt.attempt_id,
        worker=worker_name(),
        error=safe_text(error.strip()),
        failed_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    data = note.to_bytes()
    number = 1 + sum(1 for _ in store.list(f"attempts/{attempt.shard}/"))
    while not store.put_if_absent(f"attempts/{attempt.shard}/{number}.json", data):
        number += 1


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


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _member_hashes(tar_path: Path) -> dict[str, str]:
    """The sha256 of every member, read back from the disk."""
    hashes: dict[str, str] = {}
    with tar_path.open("rb") as file:
        try:
            members = list(read_members(file, tar_path.stat().st_size))
        except TarDamaged as error:
            raise ScratchError(f"{tar_path} cannot be read back ({error})") from None
        for member in members:
            file.seek(member.offset)
            hashes[member.name] = hashlib.sha256(file.read(member.size)).hexdigest()
    return hashes
