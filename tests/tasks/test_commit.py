"""A packed shard: every output lies where its row says, and its JSON says the same."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.items import ErrorClass, Problem
from manifests.outcomes import Outcome, OutputFile
from manifests.schema import Provenance, read_metadata
from manifests.shard_stats import ShardStats
from tasks.runs.faults import ScratchFull
from tasks.work.commit import Attempt, PackedShard, check_shard, pack_shard, write_tar
from tests.manifests.builders import make_input, make_item

SHARD = "g0001-00000"
PROVENANCE = Provenance(
    model_id="tiny",
    model_revision="r",
    fingerprint="f" * 64,
    plan_digest="d" * 64,
    volatile={"worker": "a:1", "finished_at": "2025-01-01", "attempt_id": "1"},
    generation=1,
    dtype="float32",
    device_type="cpu",
)


def outcome(folder: Path, key: str, prompt: str, files: dict[str, int]) -> Outcome:
    """An item with files of these sizes by extension; a failed one where there is none."""
    item = replace(make_item([make_input("style", "s")]), key=key, shard=SHARD, prompt=prompt)
    item = replace(item, item_id=hashlib.sha256(key.encode()).hexdigest()[:32])
    if not files:
        return Outcome(item, problem=Problem(ErrorClass.CRASH, "x"))
    outputs = []
    for extension, size in files.items():
        data = hashlib.sha256(f"{key}{extension}".encode()).digest() * (size // 32 + 1)
        path = folder / f"{key}.{extension}"
        path.write_bytes(data[:size])
        sha256 = hashlib.sha256(data[:size]).hexdigest()
        outputs.append(OutputFile(path.name, sha256, size, 64, 64))
    return Outcome(item, outputs=tuple(outputs))


def packed(folder: Path, outcomes: list[Outcome]) -> PackedShard:
    return pack_shard(Attempt(SHARD, "1"), outcomes, PROVENANCE, folder, ShardStats())


KEYS = st.text("ab", min_size=1) | st.text("ab", min_size=90, max_size=240)
FILES = st.dictionaries(
    st.sampled_from(["png", "jpg", "normal.png", "a"]), st.integers(1, 3000), max_size=3
)


@given(
    st.lists(
        st.tuples(KEYS, st.integers(0, 1200), FILES),
        min_size=1,
        max_size=6,
        unique_by=lambda one: one[0],
    )
)
def test_outputs_lie_where_their_rows_say_and_json_and_row_agree(shapes):
    with TemporaryDirectory() as name:
        folder = Path(name)
        outcomes = [outcome(folder, key, "p" * size, files) for key, size, files in shapes]
        shard = packed(folder, outcomes)
        items = [one.item for one in outcomes]
        data = shard.path_of(shard.commit.parquet).read_bytes()
        rows = read_metadata(data, "part", items, plan_digest="d" * 64, way_out="")
        made = [row for row in rows if row["status"] == "ok"]
        if shard.commit.tar is None:
            assert not made
            return
        path = shard.path_of(shard.commit.tar)
        whole = path.read_bytes()
        with tarfile.open(path) as tar:
            names = tar.getnames()
            told = {row["key"]: tar.extractfile(f"{row['key']}.json").read() for row in made}
        assert [one.partition(".")[0] for one in names] == sorted(
            one.partition(".")[0] for one in names
        )
        assert len(names) == len(made) + sum(len(row["outputs"]) for row in made)
        for row in made:
            for output in row["outputs"]:
                found = whole[output["offset"] :][: output["bytes"]]
                assert hashlib.sha256(found).hexdigest() == output["sha256"]
            for column, value in json.loads(told[row["key"]]).items():
                stored = json.loads(row[column]) if column in ("params", "user") else row[column]
                assert stored == value


def test_a_long_shard_stays_at_the_fixed_point_where_offsets_grow_by_a_digit(tmp_path):
    outcomes = [
        outcome(tmp_path, f"k{number:03d}", "p" * number, {"png": 9}) for number in range(600)
    ]
    shard = packed(tmp_path, outcomes)
    assert shard.commit.counts.ok == 600


def test_a_tar_that_is_not_what_was_written_is_the_disks_fault(tmp_path):
    outcomes = [outcome(tmp_path, "a", "", {"png": 100}), outcome(tmp_path, "b", "", {"png": 100})]
    tar_path = tmp_path / "shard.tar"
    placed = write_tar(tar_path, outcomes, tmp_path, PROVENANCE)
    shard = packed(tmp_path, outcomes)
    parquet = shard.path_of(shard.commit.parquet).read_bytes()
    check_shard(tar_path, parquet, placed, "d" * 64)
    moved = [replace(placed[0], outputs=(replace(placed[0].outputs[0], offset=0),)), placed[1]]
    for wrong in (moved, placed[:1], outcomes):
        with pytest.raises(ScratchFull, match="does not hold"):
            check_shard(tar_path, parquet, wrong, "d" * 64)
    tar_path.write_bytes(tar_path.read_bytes()[:700])
    with pytest.raises(ScratchFull, match="read back"):
        check_shard(tar_path, parquet, placed, "d" * 64)
