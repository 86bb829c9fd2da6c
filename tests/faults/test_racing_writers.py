"""Two workers on one shard: one commit, and the loser says so."""

from __future__ import annotations

import pytest

from infra.store import open_store
from tasks.results.publishing import publish
from tests.audit import audit
from tests.faults.workers import commit_together, fork_server, start, wait_for
from tests.tasks.runs import files_of, finish, prepare

pytestmark = pytest.mark.slow


ONE_SHARD = {"limits": {"max_items": 1}, "compute": {"device": "cpu"}}


def race(run_uri: str, *others: bool) -> list[tuple[int, int]]:
    """How many commits each worker made and lost; `others` render other pixels.

    All of them hold the only shard, and commit at the same moment.
    """
    context = fork_server()
    barrier, outcomes = context.Barrier(len(others)), context.Queue()
    workers = [start(commit_together, run_uri, barrier, outcomes, one) for one in others]
    found = [outcomes.get(timeout=120) for _ in workers]
    assert [wait_for(worker) for worker in workers] == [0] * len(workers)
    return found


def test_of_writers_at_the_same_time_one_commits_and_the_others_report_that_they_lost(inputs):
    run = prepare(inputs, output__uri="race-of-equals", **ONE_SHARD)
    assert sorted(race(run.uri, False, False, False)) == [(0, 1), (0, 1), (1, 0)]
    publish(run.uri)
    found = audit(run.uri)
    assert found.counts["ok"] == 1
    assert sorted(one["ending"] for one in found.attempts["00000"]) == ["committed", "lost", "lost"]


def test_a_loser_with_other_pixels_leaves_files_that_no_reader_follows(inputs):
    run = prepare(inputs, output__uri="race-of-others", **ONE_SHARD)
    assert sorted(race(run.uri, False, True)) == [(0, 1), (1, 0)]
    index = publish(run.uri)
    found = audit(run.uri)
    commit = found.commits["00000"]
    assert {name.rpartition(".")[2] for name in found.orphans} == {"tar", "parquet"}
    assert index.shards[0].tar.name == commit["tar"]["name"]
    assert {row["attempt_id"] for row in found.rows} == {commit["attempt_id"]}


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
