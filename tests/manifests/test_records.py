"""A record tells whether it is as it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manifests.commits import Commit, Counts, StoredFile, data_name
from manifests.errors import RunFolderError
from manifests.records import fits_its_seal, is_as_written, read_record
from manifests.shard_stats import ShardStats

COMMIT = Commit(
    shard="00000",
    attempt_id="7",
    plan_digest="b" * 64,
    content_digest="c" * 64,
    tar=None,
    parquet=StoredFile(name=data_name("00000", "a" * 64, "parquet"), bytes=7, sha256="a" * 64),
    counts=Counts(planned=2, failed=2),
    stats=ShardStats(render_seconds=1.25, errors={"decode": 2}),
    worker="host:1",
    finished_at="2025-01-01T00:00:00+00:00",
)


def without_checksum(data: bytes, **changes: Any) -> bytes:
    """The record as it was written before there were checksums."""
    content = {**json.loads(data), **changes}
    del content["checksum"]
    return f"{json.dumps(content, sort_keys=True, indent=1)}\n".encode()


def is_damaged(data: bytes) -> bool:
    try:
        read_record(Commit, data, "commit")
    except RunFolderError:
        return True
    return not is_as_written(Commit, data)


@pytest.mark.parametrize("bit", [1, 4, 32, 128])
def test_a_flipped_bit_shows_wherever_it_lies(bit):
    data = COMMIT.to_bytes()
    assert not is_damaged(data)
    assert fits_its_seal(data)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= bit
        assert is_damaged(bytes(flipped)), data[max(0, place - 10) : place + 10]
        assert not fits_its_seal(bytes(flipped))


def test_a_record_without_a_checksum_is_held_to_its_form():
    old = without_checksum(COMMIT.to_bytes())
    assert not is_damaged(old)
    assert is_damaged(old + b"\n")
    assert is_damaged(old.replace(b'"schema_version"', b'"rchema_version"'))
    assert is_damaged(old.replace(b'"encode_seconds"', b'"encode_secondr"'))


def test_a_later_version_may_add_fields():
    content = json.loads(COMMIT.to_bytes())
    del content["checksum"]

    class Later(Commit):
        colour: str = "blue"

    later = Later(**content).to_bytes()
    assert fits_its_seal(later)
    assert not is_damaged(later)
    assert read_record(Commit, later, "commit") == COMMIT
