"""What `stylefarm status` tells: who works, how fast, how long it will take, what failed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.store import open_store
from manifests.attempts import AttemptRecord, attempt_name
from manifests.commits import Commit, Counts, StoredFile, data_name
from manifests.shard_stats import ShardStats
from tasks.keeping.overview import overview
from tasks.keeping.speed import speed_of
from tasks.results.publishing import publish
from tasks.runs.worker_identity import this_worker
from tests.bad_images import write_truncated_jpeg
from tests.tasks.runs import prepare, work_here

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def commit(worker: str, second: float, *, items: int = 4, render_seconds: float = 1.0) -> Commit:
    """A commit that a worker made so many seconds after noon."""
    parquet = StoredFile(name=data_name("00000", "a" * 64, "parquet"), bytes=1, sha256="a" * 64)
    return Commit(
        shard="00000",
        attempt_id="x",
        plan_digest="b" * 64,
        content_digest="c" * 64,
        tar=None,
        parquet=parquet,
        counts=Counts(planned=items, failed=items),
        stats=ShardStats(render_seconds=render_seconds),
        worker=worker,
        finished_at=(NOON + timedelta(seconds=second)).isoformat(timespec="seconds"),
    )


def every(seconds: int, worker: str, number: int, *, start: int = 0) -> list[Commit]:
    return [commit(worker, start + seconds * turn) for turn in range(number)]


SPEEDS: dict[str, tuple[list[Commit], Mapping[str, int], float | None]] = {
    "nobody is at work": (every(8, "a:1", 5), {}, None),
    "nobody at work has committed anything": (every(8, "a:1", 5), {"b:2": 1}, None),
    "one shard of four items every 8 seconds": (every(8, "a:1", 5), {"a:1": 1}, 0.5),
    "two workers": (every(8, "a:1", 5) + every(4, "b:1", 9), {"a:1": 1, "b:1": 1}, 1.5),
    "of two workers one has left": (every(8, "a:1", 5) + every(4, "b:1", 9), {"a:1": 1}, 0.5),
    "one that is new counts like the others": (every(8, "a:1", 5), {"a:1": 1, "b:1": 1}, 1.0),
    "a process with two workers": (every(4, "a:1", 9), {"a:1": 2}, 1.0),
    "a worker of last night": (
        every(8, "a:1", 5) + every(8, "b:1", 5, start=40_000),
        {"b:1": 1},
        0.5,
    ),
    "what was slow long ago": (
        every(80, "a:1", 9) + every(8, "a:1", 9, start=700),
        {"a:1": 1},
        0.5,
    ),
    "only a first commit": ([commit("a:1", 0, render_seconds=16.0)], {"a:1": 1}, 0.25),
    "two commits in one second": (
        [commit("a:1", 0, render_seconds=0.5), commit("a:1", 0, render_seconds=0.5)],
        {"a:1": 1},
        8.0,
    ),
}


@pytest.mark.parametrize("case", SPEEDS)
def test_the_speed_is_that_of_the_workers_who_are_at_work(case: str):
    commits, processes, items_per_second = SPEEDS[case]
    speed = speed_of(reversed(commits), processes)
    if items_per_second is None:
        assert speed is None
    else:
        assert speed is not None
        assert speed.items_per_second == pytest.approx(items_per_second)
        workers = sum(processes.values())
        assert speed.seconds_per_item == pytest.approx(workers / items_per_second)


@pytest.mark.parametrize("time", ["", "yesterday", "2026-11-26", "2026-11-26T12:00:00"])
def test_a_time_that_is_none_takes_nothing_from_the_speed(time: str):
    odd = commit("a:1", 8, render_seconds=4).model_copy(update={"finished_at": time})
    speed = speed_of([commit("a:1", 0, render_seconds=4), odd], {"a:1": 1})
    assert speed is not None
    assert speed.items_per_second > 0


@pytest.fixture
def begun(pictures: Path) -> str:
    """A run of six items in six shards, of which one is committed."""
    run = prepare(pictures, compute={"shard_items": 1, "device": "cpu"})
    work_here(run.uri, max_shards=1)
    return run.uri


def put_attempt(uri: str, shard: str, number: int = 1, **changes: Any) -> Path:
    """An attempt of this very process, begun a minute ago."""
    record = AttemptRecord(
        shard=shard,
        number=number,
        attempt_id="x",
        worker=this_worker("cpu"),
        begun_at=(datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds"),
    ).model_copy(update=changes)
    open_store(uri).put(attempt_name(shard, number), record.to_bytes())
    return Path(uri) / attempt_name(shard, number)


def ended_worker() -> Any:
    """A worker of this machine whose process has ended."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    return this_worker("cpu").model_copy(update={"pid": int(done.stdout)})


def pending_of(uri: str) -> list[str]:
    committed = {path.stem for path in Path(uri).glob("commits/*")}
    return [f"{number:05d}" for number in range(6) if f"{number:05d}" not in committed]


def test_every_attempt_at_a_pending_shard_is_told_with_what_is_known_of_its_worker(begun: str):
    working, gone, silent, stopped, tried_again = pending_of(begun)
    put_attempt(begun, working, finished=3)
    put_attempt(begun, gone, worker=ended_worker())
    path = put_attempt(begun, silent)
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 300))
    put_attempt(begun, stopped, ending="stopped", ended_at=NOON.isoformat())
    for number in (1, 2, 10):
        put_attempt(begun, tried_again, number, ending="died", error=f"death {number}")
    (committed,) = Path(begun).glob("commits/*")
    put_attempt(begun, committed.stem, 9)

    seen = overview(begun)
    assert {one.record.shard: one.state for one in seen.attempts} == {
        working: "working",
        gone: "gone",
        silent: "silent",
        stopped: "ended",
        tried_again: "ended",
    }
    by_shard = {one.record.shard: one for one in seen.attempts}
    assert by_shard[tried_again].record.error == "death 10"
    assert 55 < (by_shard[working].seconds or 0) < 120
    assert by_shard[silent].silent_seconds > 290
    assert by_shard[tried_again].seconds is None
    assert [one.record.finished for one in seen.workers] == [3]
    assert (seen.num_committed, seen.num_shards, seen.num_unread) == (1, 6, 0)


def test_the_time_left_is_that_of_what_is_pending_and_not_begun(begun: str):
    put_attempt(begun, pending_of(begun)[0], finished=1)
    seen = overview(begun)
    assert seen.speed is not None, "this process has committed a shard"
    assert seen.seconds_left == pytest.approx(4 / seen.speed.items_per_second)
    assert replace(seen, speed=None).seconds_left is None


def test_a_run_on_which_nobody_works_has_no_speed_and_no_time_left(begun: str):
    seen = overview(begun)
    assert (seen.workers, seen.speed, seen.seconds_left) == ([], None, None)


def test_every_class_of_failures_has_an_example(pictures: Path):
    write_truncated_jpeg(pictures / "content")
    (pictures / "style" / "y.png").write_bytes(b"")
    run = prepare(pictures)
    work_here(run.uri)
    seen = overview(run.uri)
    assert {one.error_class: one.num_items for one in seen.failures} == seen.index.stats.errors
    for one in seen.failures:
        assert one.key
        assert one.message
    for path in Path(run.uri).glob("data/*.parquet"):
        path.write_bytes(b"damaged")
    unread = overview(run.uri)
    assert {one.error_class: one.num_items for one in unread.failures} == seen.index.stats.errors
    assert {one.key for one in unread.failures} == {None}


def test_commits_that_the_published_index_lacks_are_counted(begun: str):
    assert overview(begun).num_unpublished == 1
    publish(begun)
    assert overview(begun).num_unpublished == 0
    work_here(begun, max_shards=2)
    assert overview(begun).num_unpublished == 2
