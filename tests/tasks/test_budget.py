"""A budget: workers stop taking shards in time, whoever spent what before."""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.store import LocalStore, Store, open_store
from manifests.attempts import AttemptRecord, Worker
from manifests.budget import UNBOUNDED, Bounds
from manifests.commits import Commit
from manifests.job import Compute
from manifests.spending import held_seconds
from tasks.plans.planning import PreparedRun
from tasks.results.publishing import publish
from tasks.runs.committed import read_commits
from tasks.runs.faults import ChildDied, Stopped, WorkerFault
from tasks.runs.run_folder import find_commit, open_run
from tasks.runs.spending import spent_seconds
from tasks.runs.worker_identity import this_worker
from tasks.work.budget import budget_end
from tasks.work.events import Phase, WorkEvent
from tasks.work.holding import take
from tasks.work.queue import ShardQueue
from tasks.work.shard_work import ShardWork, Watch
from tasks.work.worker import Worked, work
from tests.tasks.made_up_seconds import MadeUp, make_up_seconds
from tests.tasks.runs import prepare
from tests.tasks.test_worker import counted, gone_worker

SECONDS = 10.0
"""That the planner expects a shard to take, and that it takes unless a test says otherwise."""


def hours_for(num_shards: float) -> Bounds:
    return Bounds(max_gpu_hours=num_shards * SECONDS / 3600)


@pytest.fixture
def run(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedRun:
    """Six shards of one item."""
    make_up_seconds(monkeypatch, SECONDS)
    return planned(pictures)


def planned(pictures: Path, shard_items: int = 1) -> PreparedRun:
    return prepare(pictures, compute__shard_items=shard_items, compute__seconds_per_item=SECONDS)


def work_for(
    run: PreparedRun, bounds: Bounds, renderer: MadeUp | None = None, **options: Any
) -> Worked:
    return work(
        run.uri,
        device="cpu",
        compute=Compute(batch_size=1),
        renderer=renderer or MadeUp(),
        bounds=bounds,
        should_stop=options.pop("should_stop", lambda: False),
        tell=options.pop("tell", lambda event: None),
        **options,
    )


def records(run: PreparedRun, folder: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in Path(run.uri).glob(f"{folder}/**/*.json")]


def seconds_of_commits(run: PreparedRun) -> float:
    """Added up by a stranger."""
    stats = [commit["stats"] for commit in records(run, "commits")]
    return sum(one["load_seconds"] + one["seconds_worked"] for one in stats)


def spent(run: PreparedRun) -> float:
    store = open_store(run.uri)
    return spent_seconds(store, read_commits(store).values())


def test_a_worker_takes_no_shard_that_would_exceed_the_budget(run):
    worked = work_for(run, hours_for(3.5))
    assert worked == Worked(
        num_committed=3, num_lost=0, stopped=False, uncovered_seconds=pytest.approx(SECONDS)
    )
    assert seconds_of_commits(run) == spent(run) == pytest.approx(3 * SECONDS)
    assert {attempt["ending"] for attempt in records(run, "attempts")} == {"committed"}
    assert work_for(run, UNBOUNDED).uncovered_seconds is None
    assert len(records(run, "commits")) == 6


@pytest.mark.parametrize("num_shards", [0.99, 1.0, 2.0, 5.99])
def test_what_fits_exactly_is_taken(run, num_shards):
    assert work_for(run, hours_for(num_shards)).num_committed == int(num_shards)


def test_a_budget_for_all_of_it_ends_nobody_not_who_waits_for_the_last_shard_either(run):
    waits = threading.Event()

    def tell(event: WorkEvent) -> None:
        if isinstance(event, Phase) and event.name == "waiting":
            waits.set()

    def lets_another_make_the_rest(number: int, work: ShardWork, watch: Watch) -> None:
        other = pool.submit(work_for, run, hours_for(6.0), tell=tell)
        other.add_done_callback(lambda _: waits.set())
        others.append(other)
        assert waits.wait(60)

    others: list[Future[Worked]] = []
    with ThreadPoolExecutor(1) as pool:
        ended = work_for(run, hours_for(6.0), MadeUp(lets_another_make_the_rest))
    assert ended == Worked(num_committed=1, num_lost=0, stopped=False)
    assert others[0].result() == Worked(num_committed=5, num_lost=0, stopped=False)


def test_what_earlier_runs_of_the_folder_spent_counts(run):
    assert work_for(run, UNBOUNDED, max_shards=2).num_committed == 2
    damaged, _ = Path(run.uri).glob("commits/*.json")
    damaged.write_text("{")  # what it took is not known any more; its estimate is
    assert work_for(run, hours_for(3.5)).num_committed == 1
    assert work_for(run, hours_for(3.5)).num_committed == 0


def test_where_nothing_fits_no_model_is_loaded_and_nothing_is_written(run):
    renderer = MadeUp()
    worked = work_for(run, hours_for(0.5), renderer)
    assert worked.uncovered_seconds == SECONDS
    assert (renderer.num_loaded, renderer.shards, records(run, "attempts")) == (0, [], [])


def test_costs_are_hours_at_a_price(run):
    bounds = Bounds(max_cost=7.0, price_per_hour=720.0)  # 2 a shard
    assert work_for(run, bounds).num_committed == 3
    both = Bounds(max_cost=7.0, price_per_hour=720.0, max_gpu_hours=4.5 * SECONDS / 3600)
    assert work_for(run, both).num_committed == 0


def test_a_shard_is_expected_to_take_as_long_as_those_of_the_run_took(run, monkeypatch):
    make_up_seconds(monkeypatch, 2 * SECONDS)
    assert work_for(run, hours_for(5)).num_committed == 2
    make_up_seconds(monkeypatch, SECONDS / 10)
    assert work_for(run, hours_for(5.9)).num_committed == 0, "those before took longer"
    assert work_for(run, hours_for(6.1)).num_committed == 4, "and its own took less"


def test_a_worker_expects_what_it_took_itself_before_what_others_took(run, monkeypatch):
    make_up_seconds(monkeypatch, SECONDS / 10)
    assert work_for(run, UNBOUNDED, max_shards=2).num_committed == 2
    make_up_seconds(monkeypatch, 2 * SECONDS)
    assert work_for(run, hours_for(4)).num_committed == 1


def test_a_shorter_shard_that_fits_is_taken_where_the_longest_does_not(pictures, monkeypatch):
    make_up_seconds(monkeypatch, {"00000": 4 * SECONDS, "00001": 2 * SECONDS})
    run, renderer = planned(pictures, shard_items=4), MadeUp()
    assert work_for(run, hours_for(1)).uncovered_seconds == pytest.approx(2 * SECONDS)
    assert work_for(run, hours_for(3), renderer).uncovered_seconds == pytest.approx(4 * SECONDS)
    assert renderer.shards == ["00001"]
    assert work_for(run, hours_for(5.9)).num_committed == 0
    assert work_for(run, hours_for(6)).num_committed == 1


def test_a_deadline_leaves_time_for_the_shard_in_hand(run):
    def until(seconds: float) -> Bounds:
        return Bounds(deadline=datetime.now(UTC) + timedelta(seconds=seconds))

    assert work_for(run, until(0.9 * SECONDS)).num_committed == 0
    assert work_for(run, until(1.5 * SECONDS), max_shards=1).num_committed == 1
    assert work_for(run, until(-5)).num_committed == 0
    assert work_for(run, until(1.5 * SECONDS), max_shards=1).num_committed == 1
    (path, _) = Path(run.uri).glob("commits/*.json")
    commit = json.loads(path.read_bytes())
    commit["stats"]["seconds_upload"] = SECONDS
    path.write_text(json.dumps(commit))
    assert work_for(run, until(1.5 * SECONDS)).num_committed == 0, "it has to be stored, too"


def abandon(run: PreparedRun, worker: Worker, number: int = 1, **changes: Any) -> None:
    record = AttemptRecord(
        shard="00000", number=number, attempt_id=f"gone-{number}", worker=worker, **changes
    )
    open_store(run.uri).put(f"attempts/00000/{number}.json", record.to_bytes())


VAIN: dict[str, dict[str, Any]] = {
    "it was killed": {"device_seconds": 15.0},
    "it was stopped": {"device_seconds": 15.0, "ending": "stopped"},
    "its renderer died": {"device_seconds": 15.0, "ending": "died"},
    "it was lost": {"device_seconds": 15.0, "ending": "lost"},
    "an earlier version wrote it": {
        "ending": "infra",
        "begun_at": "2026-01-01T00:00:00+00:00",
        "ended_at": "2026-01-01T00:00:15+00:00",
    },
}


def test_a_clock_that_was_set_back_or_says_no_zone_gives_nothing_back():
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for ended in (begun - timedelta(hours=1), begun.replace(tzinfo=None), None):
        record = AttemptRecord(
            **{"shard": "00000", "number": 1, "attempt_id": "old", "worker": this_worker("cpu")},
            begun_at=begun.isoformat(),
            ended_at=ended and ended.isoformat(),
        )
        assert held_seconds(record) == 0.0


@pytest.mark.parametrize("case", VAIN)
def test_attempts_that_came_to_nothing_count(run, case):
    abandon(run, gone_worker(), **VAIN[case])
    assert work_for(run, hours_for(3.5)).num_committed == 2, "1.5 shards were spent before"
    assert spent(run) == pytest.approx(15 + 2 * SECONDS)
    assert work_for(run, UNBOUNDED).num_committed == 4
    assert spent(run) == pytest.approx(15 + 6 * SECONDS), "also once their shard is committed"


@pytest.mark.parametrize(
    ("fault", "num_charged"), [(ChildDied(11, None), 1), (WorkerFault("the disk is full"), 2)]
)
def test_a_worker_goes_on_after_a_death_on_one_account_and_after_its_fault_on_a_new_one(
    pictures, monkeypatch, fault, num_charged
):
    make_up_seconds(monkeypatch, 6 * SECONDS)
    run = planned(pictures, shard_items=6)

    def fails_once(number: int, work: ShardWork, watch: Watch) -> None:
        if number == 0:
            watch.begin([work.items[0].item_id], alone=False)
            raise fault

    assert work_for(run, UNBOUNDED, MadeUp(fails_once)).num_committed == 1
    assert len(records(run, "attempts")) == 2
    assert seconds_of_commits(run) == pytest.approx(6 * SECONDS)
    assert spent(run) == pytest.approx(num_charged * 6 * SECONDS)


def test_a_worker_that_is_stopped_has_spent_what_it_held(run):
    def stops(number: int, work: ShardWork, watch: Watch) -> None:
        raise Stopped("stopped")

    assert work_for(run, UNBOUNDED, MadeUp(stops)).stopped
    assert spent(run) == pytest.approx(SECONDS)
    assert work_for(run, hours_for(2.5)).num_committed == 1


def test_what_others_have_in_hand_counts_by_its_estimate(run):
    store = open_store(run.uri)
    holding = take(store, "00000", 1, this_worker("cpu"))
    assert holding is not None
    assert work_for(run, hours_for(2.5)).num_committed == 1
    holding.end("stopped")
    assert work_for(run, hours_for(2.5)).num_committed == 0, "it was held for as long"


def test_what_others_spend_while_the_model_loads_counts(run):
    others = MadeUp(loading=lambda: work_for(run, UNBOUNDED, max_shards=3))
    assert work_for(run, hours_for(3.5), others).num_committed == 0


def test_what_others_spend_while_a_shard_renders_counts(run):
    def others_work(number: int, work: ShardWork, watch: Watch) -> None:
        if number == 1:
            assert work_for(run, UNBOUNDED, max_shards=3).num_committed == 3

    assert work_for(run, hours_for(5.5), MadeUp(others_work)).num_committed == 2


def test_loading_the_model_counts(run):
    def slow() -> MadeUp:
        return MadeUp(load_seconds=2.5 * SECONDS)

    assert work_for(run, UNBOUNDED, slow(), max_shards=1).num_committed == 1
    assert spent(run) == pytest.approx(3.5 * SECONDS)
    assert work_for(run, hours_for(5)).num_committed == 1, "this one loads nothing"
    late = work_for(run, hours_for(6), slow())
    assert late.num_committed == 0, "this one has no time left"
    assert late.uncovered_seconds == pytest.approx(3.5 * SECONDS)


def test_who_holds_a_shard_for_longer_than_expected_counts_for_as_long(run, monkeypatch):
    holding = take(open_store(run.uri), "00000", 1, this_worker("cpu"))
    assert holding is not None
    make_up_seconds(monkeypatch, 2.5 * SECONDS)
    holding.update(at_once=True)
    assert work_for(run, hours_for(3.2)).num_committed == 0
    assert work_for(run, hours_for(3.6)).num_committed == 1, "and for no longer"
    holding.end("stopped")


def work_together(run: PreparedRun, bounds: Bounds, number: int, **options: Any) -> list[Worked]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda _: work_for(run, bounds, **options), range(number)))


@pytest.mark.parametrize("num_workers", [2, 4])
def test_workers_overshoot_by_one_shard_each_at_most(run, num_workers):
    ended = work_together(run, hours_for(1.5), num_workers)
    assert 1 <= sum(one.num_committed for one in ended) <= 1 + num_workers
    assert all(one.uncovered_seconds is not None for one in ended)
    assert seconds_of_commits(run) <= (1.5 + num_workers) * SECONDS


def test_a_worker_that_sees_the_others_takes_nothing_beyond_the_budget(run):
    """The first three take their shards one after another, before any of them is done."""
    taken = threading.Barrier(3)

    def waits_for_all(number: int, work: ShardWork, watch: Watch) -> None:
        if number == 0:
            taken.wait(60)

    def works(_: int) -> Worked:
        return work_for(run, hours_for(3.5), MadeUp(waits_for_all))

    with ThreadPoolExecutor(3) as pool:
        ended = list(pool.map(works, range(3)))
    assert sum(one.num_committed for one in ended) == 3
    assert seconds_of_commits(run) == pytest.approx(3 * SECONDS)


def test_commits_of_others_are_read_once_and_a_shard_costs_seven_requests_while_there_is_room(
    pictures, monkeypatch
):
    make_up_seconds(monkeypatch, SECONDS)
    run = planned(pictures)
    asked: Counter[str] = Counter()
    for name in ("put", "put_if_absent", "get", "get_range", "list", "find"):
        monkeypatch.setattr(LocalStore, name, counted(getattr(LocalStore, name), asked))

    def requests(num_shards: int, bounds: Bounds) -> int:
        asked.clear()
        assert work_for(run, bounds, max_shards=num_shards).num_committed == num_shards
        return sum(asked.values()) - asked["beat"]

    at_the_start = requests(1, hours_for(1000))
    assert requests(4, hours_for(1000)) - at_the_start <= 3 * 7 + 1, "and the commit before"


def test_while_there_is_room_not_every_commit_of_others_is_read(pictures, monkeypatch):
    """Three shards of others for each of one's own, which a listing shows at once."""
    make_up_seconds(monkeypatch, SECONDS)
    run = prepare(pictures, variants=4, compute__shard_items=1, compute__seconds_per_item=SECONDS)
    monkeypatch.setattr(ShardQueue, "_interval", lambda queue, seconds: 0.0)
    read: list[str] = []

    def noted(store: Store, shard: str) -> Commit | None:
        read.append(shard)
        return find_commit(store, shard)

    def others_work(number: int, work: ShardWork, watch: Watch) -> None:
        others = [work_for(run, UNBOUNDED, max_shards=1).num_committed for _ in range(3)]
        assert others == [1, 1, 1]

    monkeypatch.setattr("tasks.runs.spending.find_commit", noted)
    assert work_for(run, hours_for(1000), MadeUp(others_work)).num_committed == 6
    assert 0 < len(read) <= 12, "of 18, each of them once"
    assert len(records(run, "commits")) == 24


def test_the_sentence_says_what_was_spent_of_what_what_is_pending_and_how_to_go_on(run):
    bounds = Bounds(
        max_gpu_hours=3.5 * SECONDS / 3600,
        max_cost=100.0,
        price_per_hour=720.0,
        deadline=datetime.now(UTC) + timedelta(hours=9),
    )
    worked = work_for(run, bounds)
    assert worked.uncovered_seconds is not None
    store, record = open_run(run.uri)
    told = budget_end(store, record, publish(run.uri), bounds, worked.uncovered_seconds)
    for part in (
        "0.0083 of 0.0097 worker-hours are spent",
        "6.00 of 100.00 are spent (0.0083 worker-hours at 720 each)",
        "the deadline is 2",
        "the next shard would take about 10 s",
        "3 of 6 items are pending",
        "raise the bound or give it more time, and run the same command again",
    ):
        assert part in told
