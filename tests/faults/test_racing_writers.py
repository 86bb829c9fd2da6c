"""Two workers on one shard: one commit, and the loser says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.store import open_store
from tasks.report import publish
from tests.audit import audit
from tests.faults.workers import fork_server, render_together, start, wait_for
from tests.tasks.runs import files_of, finish

pytestmark = pytest.mark.slow


def race(run_uri: str, shard: str, *others: bool) -> list[dict[str, object]]:
    """The summaries of workers that commit at the same moment; `others` render other pixels."""
    context = fork_server()
    barrier, outcomes = context.Barrier(len(others)), context.Queue()
    workers = [start(render_together, run_uri, shard, barrier, outcomes, one) for one in others]
    summaries = [outcomes.get(timeout=120)[1] for _ in workers]
    assert [wait_for(worker) for worker in workers] == [0] * len(workers)
    return summaries


def test_of_writers_at_the_same_time_one_commits_and_the_others_report_that_they_lost(
    plan, undisturbed
):
    run = plan()
    summaries = race(run.uri, "00000", False, False, False)
    assert sorted(one.pop("rendered") for one in summaries) == [False, False, True]
    assert all(one == summaries[0] for one in summaries)
    index = finish(run)
    assert index.content_digest == undisturbed.content_digest
    assert audit(run.uri).counts["ok"] == 2


def test_a_loser_with_other_pixels_leaves_files_that_no_reader_follows(plan):
    run = plan()
    summaries = race(run.uri, "00000", False, True)
    assert sorted(bool(one["rendered"]) for one in summaries) == [False, True]
    commit = json.loads((Path(run.uri) / "commits/00000.json").read_bytes())
    assert len(list(Path(run.uri).glob("data/00000-*.tar"))) == 2
    index = finish(run)
    assert index.shards[0].tar.name == commit["tar"]["name"]
    found = audit(run.uri)
    assert found.counts["ok"] == 2
    assert {row["attempt_id"] for row in found.rows if row["shard"] == "00000"} == {
        commit["attempt_id"]
    }


def test_stale_leftovers_in_data_never_change_the_index_or_the_page(plan):
    run = plan()
    finish(run)
    before = files_of(run.uri)
    store = open_store(run.uri)
    (tar,) = [name for name in before if name.startswith("data/00001") and name.endswith(".tar")]
    leftovers = {
        "data/00001-000000000000.tar": before[tar][:700],
        "data/00001-000000000000.parquet": b"",
        "data/99999-000000000000.tar": before[tar],
        "data/notes.txt": b"x",
    }
    for name, data in leftovers.items():
        store.put(name, data)
    publish(run.uri)
    assert files_of(run.uri) == before | leftovers
    audit(run.uri)


def test_leftovers_of_a_dead_attempt_do_not_count_as_done(plan, inputs, undisturbed):
    run = plan()
    for name, data in files_of(inputs / "undisturbed").items():
        if name.startswith("data/"):
            open_store(run.uri).put(name, data)
    assert publish(run.uri).counts.pending == 2
    assert finish(run).content_digest == undisturbed.content_digest
    audit(run.uri)
