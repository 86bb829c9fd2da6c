"""The commit of a shard: tar and Parquet are written, checked, stored; one write declares them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from webdataset.writer import TarWriter

from infra.store import Store
from manifests.commits import (
    Commit,
    RunRecord,
    ShardStats,
    StoredFile,
    commit_name,
    content_digest,
    count,
)
from manifests.schema import Outcome, Provenance, read_metadata, sample_json, write_metadata
from tasks.environment import versions, worker_name
from tasks.run_folder import find_commit


@dataclass(frozen=True)
class Attempt:
    """One try at a shard; the id is what settles who wrote a commit."""

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
        The commit that holds, and whether it is this attempt's: whoever comes second discards its
        work.
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
    tar_path = scratch / f"{attempt.shard}.tar"
    write_tar(tar_path, outcomes, scratch, provenance)
    parquet = write_metadata(outcomes, provenance)
    check_shard(tar_path, parquet, outcomes)

    tar_data = StoredFile(name="", bytes=tar_path.stat().st_size, sha256=_file_sha256(tar_path))
    tar = _named(tar_data, attempt.shard, "tar")
    part = _named(
        StoredFile(name="", bytes=len(parquet), sha256=hashlib.sha256(parquet).hexdigest()),
        attempt.shard,
        "parquet",
    )
    store.put(tar.name, tar_path)
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
    assert winner is not None, "a refused commit means that another one is there"
    return winner, False


def write_tar(
    path: Path, outcomes: Sequence[Outcome], scratch: Path, provenance: Provenance
) -> None:
    """A WebDataset tar of the ok items; the same outcomes give the same bytes."""
    with path.open("wb") as file:
        # Plain bytes in, so no encoder; no times and no users, so that bytes repeat.
        writer = TarWriter(file, encoder=False, mtime=0, user="", group="")
        for outcome in sorted(outcomes, key=lambda outcome: outcome.item.key):
            if outcome.problem is None:
                sample: dict[str, str | bytes] = {"__key__": outcome.item.key}
                sample["json"] = sample_json(outcome, provenance)
                for output in outcome.outputs:
                    extension = output.name.removeprefix(f"{outcome.item.key}.")
                    sample[extension] = (scratch / output.name).read_bytes()
                writer.write(sample)
        writer.close()


def check_shard(tar_path: Path, parquet: bytes, outcomes: Sequence[Outcome]) -> None:
    """Reads both files back and holds them to the plan; a mismatch is our bug, so it is loud."""
    with tarfile.open(tar_path, "r:") as tar:
        found = {member.name: _member_sha256(tar, member) for member in tar}
    images = {name: sha256 for name, sha256 in found.items() if not name.endswith(".json")}
    expected = {output.name: output.sha256 for one in outcomes for output in one.outputs}
    assert images == expected, "the tar does not hold what was rendered"
    ok_keys = {f"{one.item.key}.json" for one in outcomes if one.problem is None}
    assert found.keys() - images.keys() == ok_keys, "the tar lacks a sample's json"
    rows = [row["item_id"] for row in read_metadata(parquet)]
    assert rows == [one.item.item_id for one in outcomes], "the metadata lacks a planned item"


def record_failure(store: Store, attempt: Attempt, error: str) -> None:
    """Leaves a note of a failed attempt in the run folder, beside earlier ones."""
    note = {
        "shard": attempt.shard,
        "attempt_id": attempt.attempt_id,
        "worker": worker_name(),
        "error": error.strip()[:2000],
        "failed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    data = json.dumps(note, sort_keys=True, indent=1).encode()
    number = 1 + sum(1 for _ in store.list(f"attempts/{attempt.shard}/"))
    while not store.put_if_absent(f"attempts/{attempt.shard}/{number}.json", data):
        number += 1


def _counted(outcomes: Sequence[Outcome]) -> dict[str, object]:
    errors = Counter(one.problem.error_class.value for one in outcomes if one.problem)
    return {
        "output_bytes": sum(output.bytes for one in outcomes for output in one.outputs),
        "errors": dict(errors),
    }


def _named(file: StoredFile, shard: str, extension: str) -> StoredFile:
    return file.model_copy(update={"name": f"data/{shard}-{file.sha256[:12]}.{extension}"})


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _member_sha256(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None
    return hashlib.sha256(file.read()).hexdigest()
