"""Checks a run folder as a stranger would: with pyarrow, tarfile, json and hashlib alone.

Nothing here imports the code under test; what is checked stands in ARCHITECTURE.md under "What a
stranger can check without our code", and in FARM.md. Run folders of the first layout are checked by
the same rules, as far as they say so much.

    python -m tests.audit RUN_FOLDER
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
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
ENDINGS = {None, "committed", "lost", "stopped", "infra", "died", "hung"}
KINDS = {"extend", "retry", "repair"}
DTYPES = {"float32", "bfloat16", "float16"}
DEVICE_TYPES = {"cpu", "cuda", "mps"}
INPUT_FIELDS = {"role", "uri", "sha256", "width", "height", "license", "attribution"}
TOLD_FIELDS = {"item_id", "key", "seed", "task", "params", "inputs", "outputs"}
NEW_COLUMNS = {"generation", "dtype", "device_type", "deterministic"}
"""What rows of schema 3 have, and schema 2 had not."""
NEWEST_COLUMNS = {"match_uncertainty", "synthesis_seconds"}
"""What rows of schema 4 have, and schema 3 had not."""


@dataclass(frozen=True)
class Generation:
    """A frozen plan of the run: number 0 is that of `run.json`."""

    number: int
    record: Row
    shards: Mapping[str, list[Row]]


@dataclass(frozen=True)
class Audit:
    """What a run folder holds, as its files say.

    Attributes:
        generations: in order.
        items: the newest plan row of each item that counts: that nothing replaces.
        rows: of each of them the row that counts, where there is one, in the order of shards.
        all_rows: those of every committed shard that is not superseded.
        commits: by shard, of the same shards.
        attempts: by shard, in order.
        superseded: shards whose rows do not count.
        content_digest: the sum over the (key, output sha256) of the rows that count.
        orphans: files of `data/` that no commit names.
    """

    generations: list[Generation]
    items: dict[str, Row]
    rows: list[Row]
    all_rows: list[Row]
    commits: dict[str, Row]
    attempts: dict[str, list[Row]]
    superseded: frozenset[str]
    content_digest: str
    orphans: list[str]

    @property
    def planned(self) -> list[Row]:
        """The plan rows of all generations."""
        shards = (rows for one in self.generations for rows in one.shards.values())
        return [row for rows in shards for row in rows]

    @property
    def counts(self) -> dict[str, int]:
        """How many planned items became what."""
        found = Counter(row["status"] for row in self.rows)
        known = {status: found[status] for status in STATUSES}
        pending = len(self.items) - len(self.rows)
        return {"planned": len(self.items), **known, "pending": pending}

    @property
    def uncommitted(self) -> set[str]:
        """The planned shards that have no commit, and that nothing supersedes."""
        planned = {shard for one in self.generations for shard in one.shards}
        return planned - self.superseded - self.commits.keys()

    def by_key(self) -> dict[str, Row]:
        """The rows that count, by key."""
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
    _check_run(run)
    generations = [_generation(folder, number, one, run) for number, one in _records(folder, run)]
    superseded = frozenset(
        shard for one in generations for shard in one.record.get("superseded", ())
    )
    planned_in = {shard: one for one in generations for shard in one.shards}
    assert superseded <= planned_in.keys(), "what no plan has cannot be superseded"

    paths = [path for path in sorted(folder.glob("commits/*.json")) if path.stem not in superseded]
    commits = {path.stem: _json(path) for path in paths}
    assert commits.keys() <= planned_in.keys(), "a commit that nothing planned"
    all_rows: list[Row] = []
    for shard, commit in commits.items():
        all_rows += _check_shard(folder, run, shard, commit, planned_in[shard])
    items = _items_that_count(generations)
    rows = _rows_that_count(all_rows, items, superseded)
    named = {commit[kind]["name"] for commit in commits.values() for kind in _kinds(commit)}
    named |= set(_superseded_files(folder, superseded))
    lying = sorted(path.relative_to(folder).as_posix() for path in folder.glob("data/*"))
    found = Audit(
        generations=generations,
        items=items,
        rows=rows,
        all_rows=all_rows,
        commits=commits,
        attempts=_attempts(folder, planned_in, commits),
        superseded=superseded,
        content_digest=sum_digest(rows),
        orphans=[name for name in lying if name not in named],
    )
    if complete:
        assert not found.uncommitted, "a planned shard has no commit"
        assert found.counts["pending"] == 0
    if published:
        index = _json(folder / "index.json")
        _check_index(index, run, found)
        _check_metadata(folder, index, found)
    return found


def _superseded_files(folder: Path, superseded: frozenset[str]) -> Iterator[str]:
    """What commits of superseded shards name; any of them may be damaged or gone."""
    for shard in superseded:
        with suppress(ValueError, OSError, KeyError, TypeError):
            commit = _json(folder / f"commits/{shard}.json")
            yield from [commit[kind]["name"] for kind in _kinds(commit)]


# ------------------------------------------------------------------------------------- records


def _check_run(run: Row) -> None:
    assert run["fingerprint"] == _sha256(_canonical(run["identity"]).encode())
    assert run["schema_version"] in (1, 2)
    if run["schema_version"] == 1:
        return
    assert run["dtype"] in DTYPES
    assert run["device_type"] in DEVICE_TYPES
    assert isinstance(run["deterministic"], bool)
    assert run["identity"]["dtype"] == run["dtype"]
    assert run["identity"]["device_type"] == run["device_type"]
    assert not [name for name in run["identity"] if name.startswith("sources")]


def _records(folder: Path, run: Row) -> list[tuple[int, Row]]:
    """`run.json` and the records of the later generations, numbered without gaps."""
    paths = sorted(folder.glob("generations/*.json"))
    assert [path.name for path in paths] == [f"{n + 1:04d}.json" for n in range(len(paths))]
    return [(0, run), *((n, _json(path)) for n, path in enumerate(paths, start=1))]


def _generation(folder: Path, number: int, record: Row, run: Row) -> Generation:
    if number:
        assert record["number"] == number
        assert record["kind"] in KINDS
        assert record["fingerprint"] == run["fingerprint"]
        assert record["changes"].keys() <= {"dtype", "device_type", "deterministic"}
    name = record.get("plan_name", "plan/plan.parquet")
    data = (folder / name).read_bytes()
    digest = record["plan_digest"]
    assert _sha256(data) == digest, f"{name} is not what its record says"
    if number or record["schema_version"] > 1:
        assert name == f"plan/{digest[:12]}.parquet"
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    shards: dict[str, list[Row]] = {}
    for row in rows:
        assert re.fullmatch(r"[a-z0-9_-]+", row["key"])
        shards.setdefault(row["shard"], []).append(row)
    assert (len(rows), len(shards)) == (record["num_items"], record["num_shards"])
    assert rows, "a plan without items"
    assert len({row["item_id"] for row in rows}) == len(rows), "an item stands twice in a plan"
    prefix = f"g{number:04d}-" if number else ""
    assert all(re.fullmatch(rf"{prefix}[0-9]{{5,12}}", shard) for shard in shards)
    assert [shard for shard, _ in groupby(rows, key=lambda row: row["shard"])] == list(shards)
    if record.get("sources_name"):
        _check_sources(folder, record)
    return Generation(number, record, shards)


def _check_sources(folder: Path, record: Row) -> None:
    name, digest = record["sources_name"], record["sources_digest"]
    data = (folder / name).read_bytes()
    assert _sha256(data) == digest
    assert name == f"sources/{digest[:12]}.parquet"
    columns = pq.read_schema(pa.BufferReader(data)).names
    assert {"role", "name", "uri", "size", "etag"} <= set(columns)


def _attempts(
    folder: Path, planned_in: Mapping[str, Generation], commits: Mapping[str, Row]
) -> dict[str, list[Row]]:
    """The attempts at each shard; they are numbered from 1, and name items of their shard."""
    found: dict[str, list[Row]] = {}
    for place in sorted(folder.glob("attempts/*")):
        shard = place.name
        assert shard in planned_in, f"an attempt at {shard}, which no plan has"
        numbers = sorted(int(path.stem) for path in place.glob("*.json"))
        assert numbers == list(range(1, len(numbers) + 1)), f"{place} lacks an attempt"
        found[shard] = [_json(place / f"{number}.json") for number in numbers]
        ids = {row["item_id"] for row in planned_in[shard].shards[shard]}
        for number, attempt in enumerate(found[shard], start=1):
            _check_attempt(attempt, shard, number, ids)
        if shard in commits and all("ending" in one for one in found[shard]):
            attempt_ids = [one["attempt_id"] for one in found[shard]]
            assert commits[shard]["attempt_id"] in attempt_ids, f"nobody held {shard}"
    return found


def _check_attempt(attempt: Row, shard: str, number: int, item_ids: set[str]) -> None:
    if "schema_version" not in attempt:  # a note of the first layout
        assert attempt["error"]
        return
    assert (attempt["shard"], attempt["number"]) == (shard, number)
    assert attempt["attempt_id"]
    assert attempt["ending"] in ENDINGS
    assert {*attempt["in_hand"], *attempt["cleared"]} <= item_ids
    assert isinstance(attempt["progress"], int)
    assert {"id", "host", "pid"} <= attempt["worker"].keys()
    assert attempt["took_over"] is None or 1 <= attempt["took_over"] < number


# ---------------------------------------------------------------------------------- what counts


def _items_that_count(generations: list[Generation]) -> dict[str, Row]:
    """The newest plan row of each item, without those that a later plan row replaces."""
    newest: dict[str, tuple[int, Row]] = {}
    replaced: dict[str, int] = {}
    for generation in generations:
        for row in (row for rows in generation.shards.values() for row in rows):
            newest[row["item_id"]] = (generation.number, row)
            if row.get("replaces"):
                assert row["replaces"] != row["item_id"]
                replaced[row["replaces"]] = generation.number
    counting = {
        item_id: row
        for item_id, (number, row) in newest.items()
        if replaced.get(item_id, -1) < number
    }
    keys = Counter(row["key"] for row in counting.values())
    assert not [key for key, times in keys.items() if times > 1], "a key stands twice"
    return counting


def _rows_that_count(
    all_rows: list[Row], items: Mapping[str, Row], superseded: frozenset[str]
) -> list[Row]:
    """Of each item its `ok` row (of two, the earlier generation's), else its latest."""
    found: dict[str, Row] = {}
    live = [row for row in all_rows if row["shard"] not in superseded]
    for row in sorted(live, key=lambda row: _number_of(row["shard"])):
        before = found.get(row["item_id"])
        if row["item_id"] in items and (before is None or before["status"] != "ok"):
            found[row["item_id"]] = row
    return sorted(found.values(), key=lambda row: row["shard"])


def _number_of(shard: str) -> int:
    return int(shard[1:5]) if shard.startswith("g") else 0


# --------------------------------------------------------------------------------------- shards


def _kinds(commit: Row) -> list[str]:
    return [kind for kind in ("tar", "parquet") if commit[kind] is not None]


def _check_shard(
    folder: Path, run: Row, shard: str, commit: Row, generation: Generation
) -> list[Row]:
    planned = generation.shards[shard]
    assert commit["shard"] == shard
    assert commit["plan_digest"] == generation.record["plan_digest"]
    assert (commit["tar"] is None) == (commit["counts"]["ok"] == 0), "a tar has a member"
    for kind in _kinds(commit):
        named = commit[kind]
        assert named["name"] == f"data/{shard}-{named['sha256'][:12]}.{kind}"
        data = (folder / named["name"]).read_bytes()
        assert (len(data), _sha256(data)) == (named["bytes"], named["sha256"]), named["name"]

    table = pq.read_table(folder / commit["parquet"]["name"], partitioning=None)
    footer = {name.decode(): text.decode() for name, text in table.schema.metadata.items()}
    assert footer["fingerprint"] == run["fingerprint"]
    assert footer["plan_digest"] == generation.record["plan_digest"]
    version = int(footer["schema_version"])
    assert version in (2, 3, 4)
    rows = table.to_pylist()
    assert [row["item_id"] for row in rows] == [row["item_id"] for row in planned]
    for row, wanted in zip(rows, planned, strict=True):
        _check_row(row, wanted, run)
        assert row["attempt_id"] == commit["attempt_id"]
        if version >= 3:
            _check_new_columns(row, run, generation)

    if commit["tar"] is not None:
        _check_tar(folder / commit["tar"]["name"], rows, version)
    counts = Counter(row["status"] for row in rows)
    assert {name: commit["counts"][name] for name in STATUSES} == {
        name: counts[name] for name in STATUSES
    }
    assert commit["counts"]["planned"] == len(rows) == sum(counts.values())
    assert commit["counts"].get("pending", 0) == 0
    digest = lines_digest if commit.get("schema_version", 1) == 1 else sum_digest
    assert commit["content_digest"] == digest(rows)
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
    if row["status"] == "ok":
        assert row["retries"] >= (planned.get("first_retry") or 0)
    assert row["status"] in STATUSES
    assert row["params"] == _canonical(json.loads(row["params"]))
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


def _check_new_columns(row: Row, run: Row, generation: Generation) -> None:
    assert row["generation"] == generation.number
    changes = generation.record.get("changes", {})
    for name in ("dtype", "device_type", "deterministic"):
        if run["schema_version"] > 1:
            assert row[name] == changes.get(name, run[name]), f"{row['key']}: {name}"


def _seed(item_id: str, retries: int) -> int:
    """64 bits of a hash of the item's id, and of the number of the retry where there was one."""
    text = f"{item_id}seed{retries or ''}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _check_tar(path: Path, rows: list[Row], version: int) -> None:
    with tarfile.open(path, "r:") as tar:
        members = tar.getmembers()
        held = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore
    assert len(held) == len(members), "a member stands twice"
    keys = [name.partition(".")[0] for name in held]
    assert keys == sorted(keys), "the samples are not in key order"
    for member in members:
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert member.uname == member.gname == ""
    ok = [row for row in rows if row["status"] == "ok"]
    wanted = {output["name"] for row in ok for output in row["outputs"]}
    assert held.keys() == wanted | {f"{row['key']}.json" for row in ok}
    whole = path.read_bytes()
    for row in ok:
        for output in row["outputs"]:
            assert output["name"].startswith(f"{row['key']}.")
            assert len(held[output["name"]]) == output["bytes"]
            assert _sha256(held[output["name"]]) == output["sha256"]
            if version >= 3:
                place = output["offset"]
                assert _sha256(whole[place : place + output["bytes"]]) == output["sha256"]
                assert output["kind"]
        told = json.loads(held[f"{row['key']}.json"])
        assert told.keys() >= TOLD_FIELDS
        assert version < 3 or told.keys() >= NEW_COLUMNS
        for name, value in told.items():
            stored = json.loads(row[name]) if name in ("params", "user") else row[name]
            assert stored == value, f"{row['key']}.json and its row differ in {name}"


# ---------------------------------------------------------------------------------------- index


def _check_index(index: Row, run: Row, found: Audit) -> None:
    counts = index["counts"]
    assert counts == found.counts
    assert counts["planned"] == sum(counts[name] for name in (*STATUSES, "pending"))
    assert index["complete"] == (not found.uncommitted and counts["pending"] == 0)
    assert index["fingerprint"] == run["fingerprint"]
    assert index["plan_digest"] == run["plan_digest"]
    shards = {one["shard"]: one for one in index["shards"]}
    gone = {shard for shard, one in shards.items() if one.get("superseded", False)}
    assert len(shards) == len(index["shards"])
    assert gone <= found.superseded
    assert shards.keys() - gone == found.commits.keys()
    for one in (shards[shard] for shard in found.commits):
        commit = found.commits[one["shard"]]
        for name in ("tar", "parquet", "counts", "content_digest"):
            assert one[name] == commit[name]
    errors = Counter(row["error_class"] for row in found.rows if row["error_class"])
    assert index["stats"]["errors"] == errors
    if "generations" not in index:  # published by the first layout's code
        return
    assert index["content_digest"] == found.content_digest
    for told, generation in zip(index["generations"], found.generations, strict=True):
        assert told["number"] == generation.number
        assert generation.number == 0 or told["kind"] == generation.record["kind"]
        for name in ("plan_digest", "num_items", "num_shards"):
            assert told[name] == generation.record[name]


def _check_metadata(folder: Path, index: Row, found: Audit) -> None:
    """One final row per planned item of a complete run, in plan order, as it stands in `data/`."""
    if "metadata" not in index or not index["complete"]:
        assert not index.get("metadata")
        return
    lines = [one["plan_digest"] for one in index["generations"]]
    live = [one for one in index["shards"] if not one["superseded"]]
    lines += [f"{one['shard']} {one['parquet']['sha256']}" for one in live]
    digest = _sha256("\n".join(lines).encode())
    rows: list[Row] = []
    for number, part in enumerate(index["metadata"]):
        assert part["name"] == f"metadata/{digest[:12]}/part-{number:05d}.parquet"
        data = (folder / part["name"]).read_bytes()
        assert (len(data), _sha256(data)) == (part["bytes"], part["sha256"]), part["name"]
        rows += pq.read_table(pa.BufferReader(data)).to_pylist()
    assert len(rows) == index["counts"]["planned"]
    counting = {id(row) for row in found.rows}
    wanted = [row for row in found.all_rows if id(row) in counting]
    wanted.sort(key=lambda row: (_number_of(row["shard"]), len(row["shard"]), row["shard"]))
    assert [_of_the_newest_schema(row) for row in rows] == [
        _of_the_newest_schema(row) for row in wanted
    ]


def _of_the_newest_schema(row: Row) -> Row:
    outputs = [{"kind": "image", "offset": None, **output} for output in row["outputs"]]
    return {**dict.fromkeys(NEW_COLUMNS | NEWEST_COLUMNS), **row, "outputs": outputs}


def sum_digest(rows: Iterable[Row]) -> str:
    """The sum modulo 2^256 of sha256("key sha256") over all outputs of the rows."""
    digests = (
        hashlib.sha256(f"{row['key']} {output['sha256']}".encode()).digest()
        for row in rows
        for output in row["outputs"]
    )
    return f"{sum(int.from_bytes(one, 'big') for one in digests) % (1 << 256):064x}"


def lines_digest(rows: Iterable[Row]) -> str:
    """What commits of the first layout say: sha256 over the lines "key sha256", sorted."""
    pairs = sorted((row["key"], output["sha256"]) for row in rows for output in row["outputs"])
    return _sha256("".join(f"{key} {sha256}\n" for key, sha256 in pairs).encode())


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _json(path: Path) -> Row:
    return json.loads(path.read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    told = audit(sys.argv[1])
    counts = ", ".join(f"{number} {name}" for name, number in told.counts.items())
    sys.stdout.write(f"{counts}; {len(told.orphans)} files that no commit names\n")
