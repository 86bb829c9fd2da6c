from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.commits import (
    Commit,
    Counts,
    Index,
    RunRecord,
    StoredFile,
    commit_name,
    count,
    data_name,
    read_commit,
    read_run,
)
from manifests.counting import build_index as build_index_of
from manifests.errors import RunFolderError
from manifests.identity import fingerprint
from manifests.items import ErrorClass, Problem
from manifests.outcomes import Outcome, OutputFile, add_digests, content_digest
from manifests.plan import plan_name, sources_name
from manifests.records import read_record
from manifests.shard_stats import ShardStats
from tests.manifests.builders import make_input, make_item

IDENTITY = {
    **{"task": "style-transfer", "model_revision": "r"},
    **{"dtype": "float32", "device_type": "cpu"},
}
RUN = RunRecord(
    fingerprint=fingerprint(IDENTITY),
    identity=IDENTITY,
    job={},
    settings={},
    model_id="m",
    model_revision="r",
    dtype="float32",
    device_type="cpu",
    plan_name=plan_name("b" * 64),
    plan_digest="b" * 64,
    num_items=30,
    num_shards=5,
    conditional_put=True,
    versions={},
    created_at="2025-01-01T00:00:00+00:00",
)


def build_index(run: RunRecord, found: list[Commit]) -> Index:
    """The index of a run of one generation, which no row is read for."""

    def read_rows(commit: Commit) -> list[Any]:
        raise AssertionError(f"the rows of shard {commit.shard} were read")

    return build_index_of(run, found, read_rows)


small = st.integers(0, 3)
counts = st.builds(
    lambda ok, failed, skipped: Counts(
        planned=ok + failed + skipped, ok=ok, failed=failed, skipped=skipped
    ),
    small,
    small,
    st.integers(0, 0),
)
seconds = st.integers(0, 100).map(float)
stats = st.builds(
    ShardStats,
    render_seconds=seconds,
    encode_seconds=seconds,
    load_seconds=seconds,
    seconds_wait_for_input=st.none() | seconds,
    seconds_wait_for_output=st.none() | seconds,
    seconds_worked=st.none() | seconds,
    seconds_upload=st.none() | seconds,
    largest_batch=st.none() | st.integers(1, 99),
    output_bytes=st.integers(0, 10**9),
    errors=st.dictionaries(st.sampled_from([*map(str, ErrorClass)]), st.integers(1, 9)),
)


def commit(number: int, **changes: Any) -> Commit:
    shard = f"{number:05d}"
    digest = hashlib.sha256(shard.encode()).hexdigest()
    tar, part = (
        StoredFile(name=data_name(shard, digest, extension), bytes=1, sha256=digest)
        for extension in ("tar", "parquet")
    )
    found: dict[str, Any] = {
        "shard": shard,
        "attempt_id": "a",
        "plan_digest": RUN.plan_digest,
        "content_digest": digest,
        "tar": tar,
        "parquet": part,
        "counts": Counts(planned=2, ok=1, failed=1),
        "stats": ShardStats(),
        "worker": "w",
        "finished_at": "t",
    }
    return Commit(**found | changes)


commits = st.lists(st.tuples(counts, stats), max_size=5).map(
    lambda found: [
        commit(number, counts=of_shard, stats=figures)
        for number, (of_shard, figures) in enumerate(found)
        if of_shard.planned
    ]
)


@given(commits)
def test_the_counts_of_an_index_always_add_up(found):
    index = build_index(RUN, found)
    told = index.counts
    assert told.planned == RUN.num_items
    assert told.planned == told.ok + told.failed + told.skipped + told.pending
    assert told.ok == sum(one.counts.ok for one in found)
    assert told.failed == sum(one.counts.failed for one in found)
    assert told.pending == RUN.num_items - sum(one.counts.planned for one in found)
    assert index.complete == (told.pending == 0)


@given(commits, st.data())
def test_an_index_does_not_depend_on_the_order_in_which_shards_were_committed(found, data):
    shuffled = data.draw(st.permutations(found))
    assert build_index(RUN, shuffled).to_bytes() == build_index(RUN, found).to_bytes()


@given(stats, stats, stats)
def test_statistics_merge_in_any_grouping_and_order(one, two, three):
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one
    assert one + ShardStats() == one


def test_what_earlier_versions_did_not_measure_is_unknown_and_sums_are_of_what_is_known():
    old = ShardStats.model_validate({"render_seconds": 3.0, "output_bytes": 5})
    new = ShardStats(render_seconds=1.0, seconds_wait_for_input=2.0, seconds_worked=8.0)
    assert old.share_waited is None
    assert (old + old).seconds_worked is None
    assert (old + new).share_waited == new.share_waited == 0.25
    assert (old + new).render_seconds == 4.0
    assert (old + old).largest_batch is None
    large = ShardStats(largest_batch=16)
    assert (large + ShardStats(largest_batch=4) + old).largest_batch == 16


@given(counts, counts)
def test_counts_merge_field_by_field(one, two):
    total = one + two
    assert all(getattr(total, name) == getattr(one, name) + getattr(two, name) for name, _ in one)


def test_a_complete_index_lists_every_shard_with_its_files():
    run = RUN.model_copy(update={"num_items": 4, "num_shards": 2})
    index = build_index(run, [commit(1), commit(0)])
    assert index.complete
    assert [one.shard for one in index.shards] == ["00000", "00001"]
    assert index.shards[0].tar == commit(0).tar


def test_a_commit_of_another_plan_is_refused():
    foreign = commit(1, plan_digest="c" * 64)
    with pytest.raises(RunFolderError, match=r"^commits/00001.json belongs to another plan"):
        build_index(RUN, [commit(0), foreign])


def test_an_index_of_other_content_has_another_digest():
    first = build_index(RUN, [commit(0), commit(1)]).content_digest
    assert build_index(RUN, [commit(0), commit(1, content_digest="d" * 64)]).content_digest != first
    assert build_index(RUN, [commit(0)]).content_digest != first


@pytest.mark.parametrize("record", [RUN, commit(3), build_index(RUN, [commit(0)])])
def test_a_record_is_read_as_it_was_written_and_is_plain_sorted_json(record):
    data = record.to_bytes()
    assert read_record(type(record), data, "x") == record
    told = json.loads(data)
    assert list(told) == sorted(told)
    assert data.endswith(b"}\n")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"shard": "00000"}', b"\xff"])
@pytest.mark.parametrize("record", [RunRecord, Commit, Index])
def test_a_damaged_record_is_refused_by_name_with_the_way_out(record, data):
    with pytest.raises(RunFolderError, match=r"^commits/00000.json is damaged \(.+\): restore it$"):
        read_record(record, data, commit_name("00000"))


def outcomes() -> list[Outcome]:
    items = [make_item([make_input("texture", key)]) for key in "cab"]
    made = [Outcome(item, outputs=(output(item.key, item.key),)) for item in items]
    failed = make_item([make_input("texture", "d")])
    return [*made, Outcome(failed, problem=Problem(ErrorClass.OOM, "too large"))]


def output(key: str, text: str) -> OutputFile:
    return OutputFile(f"{key}.png", hashlib.sha256(text.encode()).hexdigest(), 1, 64, 64)


def test_a_content_digest_is_the_sum_over_key_and_hash_however_the_work_was_cut():
    made = outcomes()
    lines = [f"{one.item.key} {one.outputs[0].sha256}" for one in made[:3]]
    total = sum(int(hashlib.sha256(line.encode()).hexdigest(), 16) for line in lines)
    assert content_digest(made) == f"{total % 2**256:064x}"
    assert content_digest(made[::-1]) == content_digest(made)
    parts = [content_digest(made[:1]), content_digest(made[1:]), content_digest([])]
    assert add_digests(parts) == content_digest(made)


def test_a_commit_that_says_no_version_is_of_the_first_layout_and_a_later_one_is_refused():
    told = json.loads(commit(3).to_bytes())
    assert read_commit(json.dumps(told).encode(), "00003").schema_version == 2
    del told["schema_version"]
    assert read_commit(json.dumps(told).encode(), "00003").schema_version == 1
    told["schema_version"] = 3
    with pytest.raises(RunFolderError, match="made by a newer stylefarm"):
        read_commit(json.dumps(told).encode(), "00003")


def test_a_content_digest_changes_with_any_picture():
    first, *others = outcomes()
    changed = replace(first, outputs=(output(first.item.key, "other"),))
    assert content_digest([changed, *others]) != content_digest([first, *others])
    assert content_digest(others) != content_digest([first, *others])


def test_outcomes_are_counted_by_status():
    assert count(outcomes()) == Counts(planned=4, ok=3, failed=1)
    assert count([]) == Counts()


def run_bytes(**changes: Any) -> bytes:
    """`run.json` with other values; None leaves a key out. Its fingerprint is made to fit."""
    record = json.loads(RUN.to_bytes()) | changes
    record["fingerprint"] = fingerprint(record["identity"])
    return json.dumps({name: value for name, value in record.items() if value is not None}).encode()


FIRST_LAYOUT = {
    **{"identity": {"task": "style-transfer", "model_revision": "r", "sources.style": "d"}},
    **dict.fromkeys(("dtype", "device_type", "deterministic", "plan_name", "sources_name")),
}


def test_a_run_of_the_first_layout_has_its_plan_under_one_name_and_nothing_resolved():
    run = read_run(run_bytes(**FIRST_LAYOUT, schema_version=1))
    assert (run.plan_name, run.sources_name) == ("plan/plan.parquet", None)
    assert (run.dtype, run.device_type, run.deterministic) == (None, None, False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"plan_name": "plan/../../x.parquet"}, "is not the name of its plan"),
        ({"plan_name": plan_name("c" * 64)}, "is not the name of its plan"),
        ({"plan_name": "plan/plan.parquet"}, "is not the name of its plan"),
        ({"sources_name": sources_name("c" * 64)}, "its sources_name is not that of"),
        (
            {"sources_name": "sources/../x", "sources_digest": "c" * 64},
            "its sources_name is not that of",
        ),
        ({"sources_digest": "c" * 64}, "its sources_name is not that of"),
        ({"dtype": "bfloat16"}, "its dtype is not that of its identity"),
        ({"dtype": None}, "its dtype is not that of its identity"),
        ({"device_type": "cuda"}, "its device_type is not that of its identity"),
        (
            {"deterministic": True, "identity": IDENTITY | {"backbone.deterministic": False}},
            "its deterministic is not that of its identity",
        ),
        (
            {"deterministic": False, "identity": IDENTITY | {"backbone.deterministic": True}},
            "its deterministic is not that of its identity",
        ),
        ({"num_shards": 31}, "it has more shards than items"),
        ({"schema_version": 1}, "is not the name of its plan"),
        ({"schema_version": 1, "plan_name": None}, "its dtype or its device_type"),
        ({**FIRST_LAYOUT, "plan_name": plan_name("b" * 64)}, "its dtype or its device_type"),
    ],
)
def test_a_run_record_that_contradicts_itself_is_damaged(changes, reason):
    with pytest.raises(RunFolderError, match=rf"^run.json is damaged .*{reason}"):
        read_run(run_bytes(**changes))


def test_a_run_records_what_its_identity_says_of_determinism_and_which_sources_it_listed():
    identity = IDENTITY | {"backbone.deterministic": False}
    named = {"sources_digest": "c" * 64, "sources_name": sources_name("c" * 64)}
    run = read_run(run_bytes(identity=identity, deterministic=False, **named))
    assert not run.deterministic
    assert read_run(run_bytes(deterministic=True)).deterministic
    assert run.sources_name == f"sources/{'c' * 12}.parquet"
