"""A worker that dies after any step of the protocol costs time and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.store import open_store
from manifests.commits import INDEX_NAME, REPORT_NAME
from tasks.results.publishing import publish
from tests.audit import audit
from tests.faults.workers import DEAD, publish_and_die, run_to_end, work_and_die
from tests.tasks.runs import files_of, finish, render_pending

pytestmark = pytest.mark.slow

WRITES = [
    *(("within", "take"), ("after", "take"), ("within", "beat"), ("within", ".tar")),
    *(("after", ".parquet"), ("within", "commits/"), ("after", "commits/"), ("within", "end")),
]
DECLARED = [("after", "commits/"), ("within", "end")]
"""Deaths after which the shard is committed."""


@pytest.mark.parametrize(("when", "name"), WRITES)
def test_a_killed_worker_changes_nothing_but_time(plan, inputs, undisturbed, when, name):
    run = plan()
    assert run_to_end(work_and_die, run.uri, when, name) == DEAD
    num_committed = 1 if (when, name) in DECLARED else 0
    assert publish(run.uri).counts.ok == num_committed
    assert len(audit(run.uri, complete=False).commits) == num_committed

    assert len(render_pending(run)) == 2 - num_committed
    index = publish(run.uri)
    assert index.complete
    assert index.content_digest == undisturbed.content_digest
    assert [one.tar for one in index.shards] == [one.tar for one in undisturbed.shards]
    assert audit(run.uri).content_digest == audit(inputs / "undisturbed").content_digest


@pytest.mark.parametrize("name", ["index.json", "report.html"])
@pytest.mark.parametrize("when", ["within", "after"])
def test_a_killed_publishing_leaves_what_can_be_made_again(plan, when, name):
    run = plan()
    render_pending(run)
    for derived in files_of(run.uri).keys() & {INDEX_NAME, REPORT_NAME}:
        open_store(run.uri).delete(derived)  # its worker has published it
    assert run_to_end(publish_and_die, run.uri, when, name) == DEAD
    audit(run.uri, published=name == "report.html" or when == "after")
    publish(run.uri)
    again = files_of(run.uri)
    publish(run.uri)
    assert files_of(run.uri) == again
    audit(run.uri)


def test_what_a_dead_worker_left_half_written_is_in_no_listing_and_can_be_removed(plan):
    run = plan()
    assert run_to_end(work_and_die, run.uri, "within", ".tar") == DEAD
    store = open_store(run.uri)
    on_disk = [path for path in Path(run.uri).rglob("*") if path.is_file()]
    left = list(store.unfinished())
    assert len(on_disk) == len(files_of(run.uri)) + len(left)
    assert left
    for one in left:
        store.delete_unfinished(one)
        assert not Path(run.uri, one.key).exists()


def test_a_worker_may_die_again_and_again_and_its_items_stay_innocent(plan):
    run = plan()
    for when, name in WRITES[1:5]:
        run_to_end(work_and_die, run.uri, when, name)
    index = finish(run)
    assert index.complete
    assert index.counts.ok == 2
    assert audit(run.uri).counts["ok"] == 2
    assert len(list(Path(run.uri).glob("data/*.tar"))) == 2, "equal tars are one file"
