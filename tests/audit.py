"""Checks a run folder as a stranger would: with pyarrow, tarfile, json and hashlib alone.

Nothing here imports the code under test; what is checked stands in ARCHITECTURE.md under "What a
stranger can check without our code".
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
STATUSES = ("ok", "failed", "skipped")
ERROR_CLASSES = {
    *("input_missing", "decode", "unsupported", "oom", "numerics", "timeout", "crash"),
    *("license_denied", "infra", "rejected"),
}
INPUT_FIELDS = {"role", "uri", "sha256", "width", "height", "license", "attribution"}


@dataclass(frozen=True)
class Audit:
    """What a run folder holds, as its files say.

    Attributes:
        planned: the plan's rows.
        rows: the metadata of the committed shards, in shard order.
        commits: by shard.
        content_digest: over the (key, output sha256) of all rows, in key order.
    """

    planned: list[Row]
    rows: list[Row]
    commits: dict[str, Row]
    content_digest: str

    @property
    def counts(self) -> dict[str, int]:
        """How many planned items became what."""
        found = Counter(row["status"] for row in self.rows)
        known = {status: found[status] for status in STATUSES}
        pending = len(self.planned) - len(self.rows)
        return {"planned": len(self.planned), **known, "pending": pending}

    def by_key(self) -> dict[str, Row]:
        """The rows by key."""
        return {row["key"]: row for row in self.rows}


def audit(run_folder: str | Path, *, published: bool = True, complete: bool = True) -> Audit:
    """Holds a run folder to its contract.

    Args:
        run_folder: a local folder.
        published: the index must be there and say what the commits say.
        complete: every planned shard must be committed.

    Raises:
        AssertionError: the folder breaks the contract.
    """
    folder = Path(run_folder)
    run = _json(folder / "run.json")
    plan_file = (folder / run.get("plan_name", "plan/plan.parquet")).read_bytes()
    assert _sha256(plan_file) == run["plan_digest"]
    planned = pq.read_table(pa.BufferReader(plan_file)).to_pylist()
    assert planned, "a run without items"
    for name in ("item_id", "key"):
        assert len({row[name] for row in planned}) == len(planned), f"{name} stands twice"
    assert all(re.fullmatch(r"[a-z0-9_-]+", row["key"]) for row in planned)

    commits = {path.stem: _json(path) for path in sorted(folder.glob("commits/*.json"))}
    shards: dict[str, list[Row]] = {}
    for row in planned:
        shards.setdefault(row["shard"], []).append(row)
    assert commits.keys() <= shards.keys()
    rows: list[Row] = []
    for shard, commit in commits.items():
        rows += _check_shard(folder, run, shard, commit, shards[shard])
    found = Audit(planned, rows, commits, _content_digest(rows))
    if complete:
        assert commits.keys() == shards.keys(), "a planned shard has no commit"
        assert found.counts["pending"] == 0
    if published:
        _check_index(_json(folder / "index.json"), run, found)
    return found


def _check_shard(folder: Path, run: Row, shard: str, commit: Row, planned: list[Row]) -> list[Row]:
    assert commit["shard"] == shard
    assert commit["plan_digest"] == run["plan_digest"]
    assert (commit["tar"] is None) == (commit["counts"]["ok"] == 0), "a tar has a member"
    for kind in ("tar", "parquet"):
        named = commit[kind]
        if named is None:
            continue
        assert named["name"] == f"data/{shard}-{named['sha256'][:12]}.{kind}"
        data = (folder / named["name"]).read_bytes()
        assert (len(data), _sha256(data)) == (named["bytes"], named["sha256"]), named["name"]

    table = pq.read_table(folder / commit["parquet"]["name"], partitioning=None)
    footer = table.schema.metadata
    assert footer[b"fingerprint"].decode() == run["fingerprint"]
    assert footer[b"plan_digest"].decode() == run["plan_digest"]
    assert footer[b"schema_version"]
    rows = table.to_pylist()
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in planned]
    for row, wanted in zip(rows, planned, strict=True):
        _check_row(row, wanted, run)
        assert row["attempt_id"] == commit["attempt_id"]

    if commit["tar"] is not None:
        _check_tar(folder / commit["tar"]["name"], rows)
    counts = Counter(row["status"] for row in rows)
    assert {name: commit["counts"][name] for name in STATUSES} == {
        name: counts[name] for name in STATUSES
    }
    assert commit["counts"]["planned"] == len(rows) == sum(counts.values())
    assert commit["counts"].get("pending", 0) == 0
    assert commit["content_digest"] == _content_digest(rows)
    sizes = sum(output["bytes"] for row in rows for output in row["outputs"])
    assert commit["stats"]["output_bytes"] == sizes
    errors = Counter(row["error_class"] for row in rows if row["error_class"])
    assert commit["stats"]["errors"] == errors
    return rows


def _check_row(row: Row, planned: Row, run: Row) -> None:
    fixed = ("item_id", "key", "shard", "task", "params", "variant", "label", "prompt")
    for name in (*fixed, "negative_prompt"):
        assert row[name] == planned[name], f"{row['key']}: {name} is not as planned"
    if not row["label"]:  # the columns of a sweep share a seed
        assert planned["seed"] == _seed(row["item_id"], 0)
    expected = _seed(row["item_id"], row["retries"]) if row["retries"] else planned["seed"]
    assert row["seed"] == expected
    assert row["status"] in STATUSES
    assert row["params"] == json.dumps(
        json.loads(row["params"]), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    assert row["model_id"] == run["model_id"]
    assert row["model_revision"] == run["model_revision"]
    assert all(set(one) >= INPUT_FIELDS for one in row["inputs"])
    if row["status"] == "ok":
        assert row["error_class"] is None
        assert row["error_message"] is None
        assert row["outputs"]
        assert all(one["sha256"] for one in row["inputs"])
    else:
        assert row["error_class"] in ERROR_CLASSES
        assert row["error_message"]
        assert "\n" not in row["error_message"]
        assert row["outputs"] == []


def _seed(item_id: str, retries: int) -> int:
    """64 bits of a hash of the item's id, and of the number of the retry where there was one."""
    text = f"{item_id}seed{retries or ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _check_tar(path: Path, rows: list[Row]) -> None:
    with tarfile.open(path, "r:") as tar:
        members = tar.getmembers()
        held = {member.name: tar.extractfile(member).read() for member in members}
    assert len(held) == len(members), "a member stands twice"
    keys = [name.partition(".")[0] for name in held]
    assert keys == sorted(keys), "the samples are not in key order"
    for member in members:
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert member.uname == member.gname == ""
    ok = [row for row in rows if row["status"] == "ok"]
    wanted = {output["name"] for row in ok for output in row["outputs"]}
    assert held.keys() == wanted | {f"{row['key']}.json" for row in ok}
    for row in ok:
        for output in row["outputs"]:
            assert output["name"].startswith(f"{row['key']}.")
            assert len(held[output["name"]]) == output["bytes"]
            assert _sha256(held[output["name"]]) == output["sha256"]
        told = json.loads(held[f"{row['key']}.json"])
        for name, value in told.items():
            stored = json.loads(row[name]) if name in ("params", "user") else row[name]
            assert stored == value, f"{row['key']}.json and its row differ in {name}"
        assert {"item_id", "key", "seed", "task", "params", "inputs", "outputs"} <= told.keys()


def _check_index(index: Row, run: Row, found: Audit) -> None:
    counts = index["counts"]
    assert counts == found.counts
    assert (
        counts["planned"]
        == counts["ok"] + counts["failed"] + counts["skipped"] + (counts["pending"])
    )
    assert index["complete"] == (counts["pending"] == 0)
    assert index["fingerprint"] == run["fingerprint"]
    assert index["plan_digest"] == run["plan_digest"]
    assert [one["shard"] for one in index["shards"]] == sorted(found.commits)
    for one in index["shards"]:
        commit = found.commits[one["shard"]]
        for name in ("tar", "parquet", "counts", "content_digest"):
            assert one[name] == commit[name]


def _content_digest(rows: list[Row]) -> str:
    pairs = sorted((row["key"], output["sha256"]) for row in rows for output in row["outputs"])
    return _sha256("".join(f"{key} {sha256}\n" for key, sha256 in pairs).encode())


def _json(path: Path) -> Row:
    return json.loads(path.read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
