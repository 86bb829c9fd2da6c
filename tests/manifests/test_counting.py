"""What counts over generations, held to the plain definition over all rows."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.commits import Commit, Counts, RunRecord, StoredFile, data_name
from manifests.counting import build_index, contested_items, count_items
from manifests.errors import RunFolderError
from manifests.generations import Generation
from manifests.identity import fingerprint
from manifests.outcomes import content_digest_of, lines_digest_of
from manifests.plan import plan_name, shard_name
from manifests.shard_stats import ShardStats

WEIGHTS = {"model_revision": "r", "dtype": "float32", "device_type": "cpu"}
IDENTITY: dict[str, Any] = {"task": "style-transfer", **WEIGHTS}
FINGERPRINT = fingerprint(IDENTITY)


def sha256(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()


class Farm:
    """A run made up of plan rows `(item, shard, replaces)` per generation and rows per shard."""

    def __init__(
        self, plans: list[list[tuple[str, str, str | None]]], superseded: dict[int, list[str]]
    ) -> None:
        self.plans = plans
        self.superseded = superseded
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.read: list[str] = []
        self.first_layout: set[str] = set()

    def commit(self, shard: str, statuses: dict[str, str]) -> None:
        """Commits a shard whose items ended so: `ok`, or a class of errors."""
        planned = [item for plan in self.plans for item, name, _ in plan if name == shard]
        self.rows[shard] = [row(item, shard, statuses[item]) for item in planned]

    @property
    def commits(self) -> list[Commit]:
        return [self._commit(shard) for shard in sorted(self.rows, key=lambda name: name[::-1])]

    def _commit(self, shard: str) -> Commit:
        rows = self.rows[shard]
        num_ok = sum(one["status"] == "ok" for one in rows)
        errors: dict[str, int] = {}
        for one in rows:
            if one["error_class"]:
                errors[one["error_class"]] = errors.get(one["error_class"], 0) + 1
        made = [(one["key"], output["sha256"]) for one in rows for output in one["outputs"]]
        is_first = shard in self.first_layout
        digest = sha256(shard)
        file = {
            extension: StoredFile(name=data_name(shard, digest, extension), bytes=1, sha256=digest)
            for extension in ("tar", "parquet")
        }
        return Commit(
            schema_version=1 if is_first else 2,
            shard=shard,
            attempt_id="a",
            plan_digest=self.references[int(shard[1:5]) if shard[0] == "g" else 0].plan_digest,
            content_digest=lines_digest_of(made) if is_first else content_digest_of(made),
            tar=file["tar"],
            parquet=file["parquet"],
            counts=Counts(planned=len(rows), ok=num_ok, failed=len(rows) - num_ok),
            stats=ShardStats(errors=errors, render_seconds=1.0),
            worker="w",
            finished_at="t",
        )

    @property
    def references(self) -> tuple[RunRecord | Generation, ...]:
        return (self.run, *self.generations)

    @property
    def run(self) -> RunRecord:
        return RunRecord(
            fingerprint=FINGERPRINT,
            identity=IDENTITY,
            job={},
            settings={},
            model_id="m",
            model_revision="r",
            dtype="float32",
            device_type="cpu",
            conditional_put=True,
            versions={},
            created_at="t",
            **self._plan(0),
        )

    @property
    def generations(self) -> tuple[Generation, ...]:
        return tuple(
            Generation(
                number=number,
                kind="retry",
                fingerprint=FINGERPRINT,
                superseded=tuple(self.superseded.get(number, ())),
                created_by="w",
                created_at="t",
                **self._plan(number),
            )
            for number in range(1, len(self.plans))
        )

    def _plan(self, number: int) -> dict[str, Any]:
        plan = self.plans[number]
        shards = {shard for _, shard, _ in plan}
        digest = sha256("plan", number)
        named = {"plan_name": plan_name(digest), "plan_digest": digest}
        return {**named, "num_items": len(plan), "num_shards": len(shards)}

    def tables(self) -> list[pa.Table]:
        names = ("item_id", "shard", "replaces")
        schema = pa.schema([(name, pa.string()) for name in names])
        return [
            pa.Table.from_pylist([dict(zip(names, one, strict=True)) for one in plan], schema)
            for plan in self.plans
        ]

    def index(self):
        def read_rows(commit: Commit) -> list[dict[str, Any]]:
            self.read.append(commit.shard)
            return self.rows[commit.shard]

        return build_index(
            self.run,
            self.commits,
            read_rows,
            generations=self.generations,
            contested=contested_items(self.tables()),
        )

    def counting(self) -> dict[str, dict[str, Any] | None]:
        """The definition: of every item that counts its row, or None where it has none."""
        planned = {item for plan in self.plans for item, _, _ in plan}
        newest = {item: n for n, plan in enumerate(self.plans) for item, _, _ in plan}
        replaced = {
            old
            for number, plan in enumerate(self.plans)
            for _, _, old in plan
            if old and number > newest[old]
        }
        gone = {shard for shards in self.superseded.values() for shard in shards}
        found: dict[str, dict[str, Any] | None] = {}
        for item in planned - replaced:
            rows = [
                one
                for number, plan in enumerate(self.plans)
                for planned_item, shard, _ in plan
                if planned_item == item and shard not in gone
                for one in self.rows.get(shard, [])
                if one["item_id"] == item
            ]
            ok = [one for one in rows if one["status"] == "ok"]
            found[item] = ok[0] if ok else rows[-1] if rows else None
        return found


def row(item: str, shard: str, status: str) -> dict[str, Any]:
    is_ok = status == "ok"
    return {
        "item_id": item,
        "key": f"key-{item}",
        "status": "ok" if is_ok else "failed",
        "error_class": None if is_ok else status,
        "outputs": [{"sha256": sha256(item, shard)}] if is_ok else [],
    }


@st.composite
def farms(draw: st.DrawFn) -> Farm:
    """Runs of up to four generations that add, retry, replace and repair, partly committed."""
    plans: list[list[tuple[str, str, str | None]]] = []
    superseded: dict[int, list[str]] = {}
    known: list[str] = []
    replaced: set[str] = set()
    for number in range(draw(st.integers(1, 4))):
        again = draw(st.lists(st.sampled_from(known), unique=True)) if known else []
        new = [f"{number}-{n}" for n in range(draw(st.integers(0 if again else 1, 4)))]
        rows: list[tuple[str, str, str | None]] = []
        for place, item in enumerate([*again, *new]):
            standing = [old for old in known if old not in replaced]
            is_new = item in new and standing and draw(st.booleans())
            old = draw(st.sampled_from(standing)) if is_new else None
            replaced |= {old} if old else set()
            rows.append((item, shard_name(number, place // 2), old))
        if plans:
            shards = sorted({shard for plan in plans for _, shard, _ in plan})
            taken = {shard for found in superseded.values() for shard in found}
            left = [shard for shard in shards if shard not in taken]
            if left and draw(st.booleans()):
                superseded[number] = [draw(st.sampled_from(left))]
        replaced -= {*again, *new}
        plans.append(rows)
        known += new
    farm = Farm(plans, superseded)
    statuses = st.sampled_from(["ok", "oom", "decode"])
    for shard in sorted({shard for plan in plans for _, shard, _ in plan}):
        if draw(st.integers(0, 3)):
            items = [item for plan in plans for item, name, _ in plan if name == shard]
            farm.commit(shard, {item: draw(statuses) for item in items})
            farm.first_layout |= {shard} if draw(st.booleans()) else set()
    return farm


@given(farms())
def test_an_index_counts_what_the_definition_counts(farm):
    index, counting = farm.index(), farm.counting()
    rows = [one for one in counting.values() if one]
    assert index.counts == Counts(
        planned=len(counting),
        ok=sum(one["status"] == "ok" for one in rows),
        failed=sum(one["status"] == "failed" for one in rows),
        pending=sum(one is None for one in counting.values()),
    )
    classes = [one["error_class"] for one in rows if one["error_class"]]
    assert index.stats.errors == {name: classes.count(name) for name in set(classes)}
    made = [(one["key"], output["sha256"]) for one in rows for output in one["outputs"]]
    assert index.content_digest == content_digest_of(made)
    gone = {shard for shards in farm.superseded.values() for shard in shards}
    live = {shard for plan in farm.plans for _, shard, _ in plan} - gone
    assert index.complete == (live <= farm.rows.keys() and not index.counts.pending)
    assert {one.shard for one in index.shards if one.superseded} == gone & farm.rows.keys()


@given(farms())
def test_the_shard_of_the_row_that_counts_is_told_of_every_contested_item(farm):
    contested = contested_items(farm.tables())
    gone = {shard for shards in farm.superseded.values() for shard in shards}
    counted = count_items(farm.commits, contested, gone, lambda one: farm.rows[one.shard])
    for item, one in farm.counting().items():
        if item in contested:
            shard = counted.row_in.get(item)
            assert (shard is None) == (one is None)
            assert one is None or one in farm.rows[shard]
    assert not counted.row_in.keys() & contested.replaced


def test_only_rows_of_shards_in_which_something_is_planned_again_are_read():
    plans: list[list[tuple[str, str, str | None]]] = [
        [("a", "00000", None), ("b", "00000", None), ("c", "00001", None)],
        [("b", "g0001-00000", None)],
        [("d", "g0002-00000", None)],
    ]
    farm = Farm(plans, {})
    farm.commit("00000", {"a": "ok", "b": "oom"})
    farm.commit("00001", {"c": "ok"})
    farm.commit("g0001-00000", {"b": "ok"})
    farm.commit("g0002-00000", {"d": "ok"})
    assert farm.index().counts == Counts(planned=4, ok=4)
    assert farm.read == ["00000", "g0001-00000"]


def test_a_failed_item_that_waits_for_its_retry_is_counted_as_failed_and_the_run_as_incomplete():
    farm = Farm([[("a", "00000", None)], [("a", "g0001-00000", None)]], {})
    farm.commit("00000", {"a": "oom"})
    index = farm.index()
    assert index.counts == Counts(planned=1, failed=1)
    assert not index.complete


def test_a_commit_of_a_generation_that_is_not_there_is_refused():
    farm = Farm([[("a", "00000", None)], [("b", "g0001-00000", None)]], {})
    farm.commit("g0001-00000", {"b": "ok"})
    commits = farm.commits
    farm.plans = farm.plans[:1]
    with pytest.raises(RunFolderError, match=r"has no generations/0001.json: restore it"):
        build_index(farm.run, commits, lambda commit: [])
