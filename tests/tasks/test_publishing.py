"""The index, the final rows and the page: what many publishers make of the same commits."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.local_store import LocalStore
from manifests.commits import (
    INDEX_NAME,
    REPORT_NAME,
    Commit,
    Index,
    IndexedShard,
    commit_name,
)
from manifests.generations import Generation, Kind, generation_name
from manifests.items import Item
from manifests.plan import cut_into_shards
from manifests.plan_table import item_tables
from tasks.plans.planning import put_plan, written_plan
from tasks.results import final_rows, publisher
from tasks.results.publisher import CLAIM_NAME, Publisher
from tasks.results.publishing import Publication, publish
from tasks.runs.committed import current_index, find_index
from tasks.runs.run_folder import open_run
from tasks.runs.run_plan import open_plan
from tasks.runs.worker_identity import this_worker
from tests.audit import audit
from tests.tasks.many_commits import commit_pending, make_run
from tests.tasks.runs import files_of

NUM_SHARDS = 6


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A complete run of six shards of two items each, with the picture that all results are."""
    base = tmp_path_factory.mktemp("made")
    make_run(base, NUM_SHARDS, 2)
    return base


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of it, as it was committed: nothing is published."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def commit_more(made, run) -> Callable[[int], None]:
    """Commits so many pending shards."""
    return lambda number: commit_pending(str(run), made / "picture.png", number)


def take_away(run: Path, number: int) -> None:
    """Removes the last commits, and what they name."""
    for path in sorted(run.glob("commits/*"))[-number:]:
        for file in run.glob(f"data/{path.stem}-*"):
            file.unlink()
        path.unlink()


def publication(run: Path, store: LocalStore | None = None) -> Publication:
    found, record = open_run(str(run))
    return Publication(store or found, record)


def shards_in(data: bytes) -> set[str]:
    return {one["shard"] for one in json.loads(data)["shards"]}


class Watched(LocalStore):
    """A store that writes down what is asked, and lets something happen before a write."""

    def __init__(self, run: Path) -> None:
        super().__init__(str(run))
        self.asked: Counter[str] = Counter()
        self.before_puts: list[Callable[[], None]] = []
        self.indexes: list[set[str]] = []

    def put(self, key: str, data: Any) -> None:
        self.asked["put"] += 1
        if self.before_puts:
            self.before_puts.pop(0)()
        super().put(key, data)
        if key == INDEX_NAME:
            self.indexes.append(shards_in(data))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.asked["get"] += 1
        self.asked[key] += 1
        return super().get_range(key, start, length)

    def find(self, key: str) -> Any:
        self.asked["find"] += 1
        return super().find(key)

    def list(self, *args: Any, **options: Any) -> Iterator[Any]:
        self.asked["list"] += 1
        return super().list(*args, **options)

    @property
    def num_requests(self) -> int:
        return sum(self.asked[name] for name in ("put", "get", "find", "list"))


# ------------------------------------------------------------------------------ many publishers


def test_a_publisher_that_wrote_over_a_newer_index_writes_again(run, commit_more):
    take_away(run, 3)
    store = Watched(run)

    def another_one_publishes() -> None:
        commit_more(2)
        publication(run).publish_index()

    store.before_puts = [another_one_publishes]
    index = publication(run, store).publish_index()
    assert len(index.shards) == 5
    assert find_index(*open_run(str(run))) == index
    assert len(store.indexes) == 2


def test_a_publisher_begins_again_where_another_one_was_faster(run, commit_more):
    take_away(run, 3)
    store = Watched(run)
    slow = publication(run, store)
    publication(run).publish_index()
    commit_more(1)

    def list_and_wait(prefix: str = "", **options: Any) -> Iterator[Any]:
        found = list(LocalStore.list(store, prefix, **options))
        if prefix == "commits/" and len(found) == 4:
            commit_more(1)
            publication(run).publish_index()
        return iter(found)

    store.list = list_and_wait  # type: ignore[method-assign]
    index = slow.publish_index()
    assert len(index.shards) == 5
    assert store.indexes == [], "what the other one wrote covers it all"


def test_of_many_who_publish_while_commits_come_none_leaves_a_commit_out(run, commit_more):
    take_away(run, NUM_SHARDS)
    ending = threading.Event()

    def publish_always() -> Index:
        mine = publication(run)
        while not ending.is_set():
            mine.publish_index()
        return mine.publish_index()

    with ThreadPoolExecutor(3) as pool:
        publishers = [pool.submit(publish_always) for _ in range(3)]
        for _ in range(NUM_SHARDS):
            commit_more(1)
        ending.set()
        indexes = [one.result() for one in publishers]
    assert all(len(index.shards) == NUM_SHARDS and index.complete for index in indexes)
    publish(str(run))
    assert audit(run).counts["pending"] == 0


class Killed(BaseException):
    """Ends a publisher wherever it is."""


def test_wherever_a_publisher_ends_the_next_one_makes_the_same_files(run):
    undisturbed = shutil.copytree(run, run.parent / "undisturbed" / "run")
    publish(str(undisturbed))
    wanted = files_of(undisturbed)
    num_puts = 0
    while REPORT_NAME not in files_of(run):
        store = Watched(run)
        store.before_puts = [lambda: None] * num_puts + [_die]
        with pytest.raises(Killed):
            publication(run, store).publish()
        num_puts += 1
        after_death = shutil.copytree(run, run.parent / f"{num_puts}" / "run")
        publish(str(after_death))
        assert files_of(after_death) == wanted
        if num_puts == 3:
            break
    assert num_puts == 3, "the final rows, the index, the page"


def _die() -> None:
    raise Killed


# ------------------------------------------------------------------------------------ the cache


def test_a_commit_is_fetched_once_by_whoever_looks(run, commit_more):
    take_away(run, 1)
    store = Watched(run)
    publication(run, store).publish_index()
    assert {key for key in store.asked if key.startswith("commits/")} == {
        f"commits/{shard:05d}.json" for shard in range(NUM_SHARDS - 1)
    }
    commit_more(1)
    for look in (
        lambda: publication(run, store).publish(),
        lambda: publication(run, store).publish(),
        lambda: current_index(store, open_run(str(run))[1]),
    ):
        look()
    fetched = {key: number for key, number in store.asked.items() if key.startswith("commits/")}
    assert fetched == {f"commits/{shard:05d}.json": 1 for shard in range(NUM_SHARDS)}


def test_publishing_reads_each_commit_and_each_row_once_and_all_else_is_the_same_for_any_number(
    run, commit_more
):
    take_away(run, 4)
    costs: list[int] = []
    for _ in range(2):
        (run / INDEX_NAME).unlink(missing_ok=True)
        store = Watched(run)
        publication(run, store).publish_index()
        fetched = [number for key, number in store.asked.items() if key.startswith("commits/")]
        assert set(fetched) == {1}
        costs.append(store.num_requests - len(fetched))
        commit_more(2)
    assert costs[0] == costs[1]
    store = Watched(run)
    assert publication(run, store).publish_index().complete
    read = [number for key, number in store.asked.items() if key.startswith("data/")]
    assert read == [1] * NUM_SHARDS


def damaged(index: bytes) -> dict[str, bytes | None]:
    """What may lie there in the place of an index."""
    told = json.loads(index)
    older = {**told, "shards": [{"shard": "00000"}]}
    del older["checksum"], older["schema_version"]
    forged = index.replace(b'"shard": "00000"', b'"shard": "00009"')
    return {
        "absent": None,
        "empty": b"",
        "cut": index[: len(index) // 2],
        "flipped": index[:-40] + bytes([index[-40] ^ 1]) + index[-39:],
        "forged": forged,
        "of version 1": json.dumps(older).encode(),
        "another object": b"{}",
        "no text": b"\xff\xfe",
        "deep": b"[" * 100_000,
    }


DAMAGE = ("absent", "empty", "cut", "flipped", "forged", "of version 1", "another object")


@pytest.mark.parametrize("name", [*DAMAGE, "no text", "deep"])
def test_an_index_that_cannot_be_used_is_made_again_from_the_commits(run, name):
    first = publish(str(run))
    index = (run / INDEX_NAME).read_bytes()
    content = damaged(index)[name]
    (run / INDEX_NAME).unlink()
    if content is not None:
        (run / INDEX_NAME).write_bytes(content)
    found = current_index(*open_run(str(run)))
    assert (found.counts, found.shards) == (first.counts, first.shards)
    assert publish(str(run)) == first
    assert (run / INDEX_NAME).read_bytes() == index


def test_an_index_of_another_run_is_not_believed(run, tmp_path):
    take_away(run, NUM_SHARDS)
    other = tmp_path / "other"
    base = tmp_path / "base"
    base.mkdir()
    shutil.move(make_run(base, 1, 1).uri, other)
    publish(str(other))
    shutil.copy2(other / INDEX_NAME, run / INDEX_NAME)
    assert current_index(*open_run(str(run))).counts.planned == 2 * NUM_SHARDS
    assert publish(str(run)).fingerprint == open_run(str(run))[1].fingerprint


def test_a_commit_that_was_replaced_or_deleted_is_seen(run, commit_more):
    before = publish(str(run))
    last = before.shards[-1]
    replaced = last.model_copy(update={"attempt_id": "another"})
    (run / commit_name(last.shard)).write_bytes(read_again(replaced))
    assert current_index(*open_run(str(run))).shards[-1].attempt_id == "another"
    take_away(run, 1)
    assert current_index(*open_run(str(run))).counts.pending == 2
    index = publish(str(run))
    assert (len(index.shards), index.complete, index.metadata) == (NUM_SHARDS - 1, False, ())
    audit(run, complete=False)
    commit_more(1)
    index = publish(str(run))
    assert index.shards[-1].attempt_id != before.shards[-1].attempt_id
    assert index.content_digest == before.content_digest
    assert index.metadata_folder != before.metadata_folder
    audit(run)


def read_again(shard: IndexedShard) -> bytes:
    """A commit as its file holds it."""
    return Commit(**{name: getattr(shard, name) for name in Commit.model_fields}).to_bytes()


# --------------------------------------------------------------------------------- final rows


def add_generation(run: Path, number: int, kind: Kind, items: list[Item], *superseded: str) -> None:
    """Adds a generation that plans these items in shards of two."""
    store, record = open_run(str(run))
    cut = cut_into_shards(items, shard_seconds=300, shard_items=2, generation=number)
    plan = put_plan(store, written_plan(item_tables(cut), generation=number))
    generation = Generation(
        **dict(plan),
        number=number,
        kind=kind,
        fingerprint=record.fingerprint,
        superseded=superseded,
        created_by="a test",
        created_at="now",
    )
    store.put(generation_name(number), generation.to_bytes())


def final(run: Path) -> list[dict[str, Any]]:
    """The final rows, as a stranger reads them."""
    parts = json.loads((run / INDEX_NAME).read_bytes())["metadata"]
    return pa.concat_tables([pq.read_table(run / part["name"]) for part in parts]).to_pylist()


def test_the_final_rows_are_one_of_each_planned_item_over_all_generations(run, commit_more):
    assert len(final_of(run)) == 2 * NUM_SHARDS
    store, record = open_run(str(run))
    items = list(open_plan(store, record).iter_items())
    failed = [item for item in items if item.variant % 50 == 1]
    assert failed, "one must be tried again"
    again = [replace(item, first_retry=1) for item in failed]
    add_generation(run, 1, "retry", [*again, items[-1]])
    assert not publish(str(run)).complete
    commit_more(9)
    rows = final_of(run)
    assert [row["item_id"] for row in rows if row["shard"].startswith("g0001")] == [
        item.item_id for item in failed
    ], "of two ok rows the earlier generation's counts"
    assert all(row["status"] == "ok" for row in rows)

    lost = next(item.shard for item in items if item.shard != failed[0].shard)
    add_generation(run, 2, "repair", open_plan(store, record).items(lost), lost)
    (run / "commits" / f"{lost}.json").write_bytes(b"damaged")
    commit_more(9)
    rows = final_of(run, audited=False)
    assert [row["shard"] for row in rows[-2:]] == ["g0002-00000"] * 2
    assert len({row["item_id"] for row in rows}) == len(rows) == 2 * NUM_SHARDS


def final_of(run: Path, *, audited: bool = True) -> list[dict[str, Any]]:
    """The final rows of a run that is published now."""
    assert publish(str(run)).complete
    if audited:
        audit(run)
    return final(run)


def test_final_rows_that_do_not_fit_one_file_are_cut_and_keep_their_order(run, monkeypatch):
    whole = final_of(run)
    (run / INDEX_NAME).unlink()
    monkeypatch.setattr(final_rows, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(final_rows, "ROWS_PER_PART", 5)
    assert final_of(run) == whole
    assert len(json.loads((run / INDEX_NAME).read_bytes())["metadata"]) == 2


def test_final_rows_that_are_gone_or_cut_are_made_again_and_nothing_else_is(run):
    publish(str(run))
    before = files_of(run)
    (name,) = (key for key in before if key.startswith("metadata/"))
    for damage in (lambda: (run / name).unlink(), lambda: (run / name).write_bytes(b"PAR1")):
        index = (run / INDEX_NAME).stat()
        damage()
        publish(str(run))
        assert files_of(run) == before
        assert (run / INDEX_NAME).stat().st_mtime_ns == index.st_mtime_ns


def test_a_page_that_is_cut_is_made_again(run):
    publish(str(run))
    page = (run / REPORT_NAME).read_bytes()
    (run / REPORT_NAME).write_bytes(page[: len(page) // 2])
    publish(str(run))
    assert (run / REPORT_NAME).read_bytes() == page


# ---------------------------------------------------------------------------- whose turn is it


@pytest.fixture
def quick(monkeypatch) -> None:
    """Publishers that look often and wait little."""
    monkeypatch.setattr(publisher, "LOCAL_SECONDS", 0.01)
    monkeypatch.setattr(publisher, "SHARE", 0)
    monkeypatch.setattr(publisher, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(publisher, "PATIENCE_PER_SHARD", 0.0)


def wait_until(is_so: Callable[[], bool], tick: Callable[[], None] = lambda: None) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        tick()
        time.sleep(0.005)


def never() -> bool:
    return False


def test_the_index_grows_while_a_worker_renders_and_says_nothing_new_without_commits(
    run, commit_more, quick
):
    take_away(run, 3)
    store = Watched(run)
    mine = Publisher(store, open_run(str(run))[1], lambda: len(list(run.glob("commits/*"))))
    wait_until(lambda: len(store.indexes) == 1, mine.publish_if_due)
    commit_more(2)
    wait_until(lambda: len(store.indexes) == 2, mine.publish_if_due)
    assert [len(one) for one in store.indexes] == [3, 5]
    looked = store.asked["find"]
    wait_until(lambda: store.asked["find"] > looked + 5, mine.publish_if_due)
    mine.close()
    assert len(store.indexes) == 2


def test_of_workers_that_find_nothing_left_one_publishes_and_all_see_it_done(run):
    stores = [Watched(run) for _ in range(3)]
    publishers = [Publisher(store, open_run(str(run))[1], lambda: 6) for store in stores]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda one: one.finish(never), publishers))
    assert [len(one) for store in stores for one in store.indexes] == [NUM_SHARDS]
    assert sum(store.asked["put"] for store in stores) == 3, "final rows, index, page"
    assert not (run / CLAIM_NAME).exists()
    audit(run)


def test_who_publishes_and_is_killed_is_waited_for_no_longer_than_patience_lasts(run, quick):
    (run / CLAIM_NAME).write_bytes(b"{}")
    Publisher(*open_run(str(run)), lambda: 6).finish(never)
    assert not (run / CLAIM_NAME).exists()
    audit(run)


def test_who_published_on_this_machine_and_is_gone_is_not_waited_for(run):
    gone = this_worker("").model_copy(update={"started": "0"})
    (run / CLAIM_NAME).write_text(gone.model_dump_json())
    deadline = time.monotonic() + 30
    Publisher(*open_run(str(run)), lambda: 6).finish(lambda: time.monotonic() > deadline)
    assert not (run / CLAIM_NAME).exists()
    audit(run)


def test_a_worker_that_is_to_stop_does_not_wait_for_the_publication(run):
    (run / CLAIM_NAME).write_bytes(b"{}")
    waiting = Publisher(*open_run(str(run)), lambda: 6)
    asked = iter([False, False])
    waiting.finish(lambda: next(asked, True))
    waiting.close()
    assert not (run / INDEX_NAME).exists()


def test_trouble_with_publishing_is_told_and_is_nobodys_fault(run, caplog):
    next(run.glob("data/*.parquet")).write_bytes(b"")
    Publisher(*open_run(str(run)), lambda: 6).finish(never)
    (record,) = caplog.records
    assert "the run is not published ('stylefarm report' does it): data/" in record.getMessage()
    assert not (run / CLAIM_NAME).exists()
