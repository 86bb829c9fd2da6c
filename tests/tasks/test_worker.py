"""One worker on a run folder: what it takes, what it survives, and when it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tasks.work.patience
import tasks.work.queue
import tasks.work.stop_request
from infra.store import LocalStore, StoreUnreachable, open_store
from manifests.attempts import AttemptRecord, Worker
from manifests.errors import RunFolderError
from manifests.items import ErrorClass, Problem
from manifests.job import Compute
from manifests.outcomes import Outcome
from tasks.plans.planning import PreparedRun
from tasks.results.publishing import publish
from tasks.runs.faults import (
    BreakerTripped,
    ChildDied,
    ChildHung,
    DeviceFault,
    FreshDeviceNeeded,
    SourcesGone,
    Stopped,
    StoreTrouble,
    WorkerFault,
)
from tasks.runs.worker_identity import is_gone, this_worker
from tasks.work.events import Committed, Progress, Restarted, Waiting, WorkEvent
from tasks.work.holding import Holding, take
from tasks.work.shard_work import ShardWork, Watch
from tasks.work.stop_request import ask_to_stop
from tasks.work.worker import Worked, work
from tasks.work.workplace import hang_seconds
from tests.audit import audit
from tests.tasks.runs import finish, prepare, render_pending, renderer, work_here

Act = Callable[[ShardWork, Watch], None]


class Scripted:
    """A renderer that does what each act says, and renders once there is none left."""

    def __init__(self, *acts: Act) -> None:
        self.acts = list(acts)
        self.asked: list[ShardWork] = []
        self.num_closed = 0

    def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
        if not work.items:  # only the model is loaded
            return
        self.asked.append(work)
        if self.acts:
            self.acts.pop(0)(work, watch)
        else:
            renderer().render(work, watch, hang_seconds=hang_seconds)

    def close(self) -> None:
        self.num_closed += 1


def raises(error: BaseException) -> Act:
    def act(work: ShardWork, watch: Watch) -> None:
        raise error

    return act


def dies(num_in_hand: int, error: BaseException) -> Act:
    """Begins with the first items, or with the first suspect alone, and dies."""

    def act(work: ShardWork, watch: Watch) -> None:
        first = work.alone[:1] or tuple(item.item_id for item in work.items[:num_in_hand])
        watch.begin(first, alone=bool(work.alone))
        watch.advance(0.5)
        raise error

    return act


def fails(work: ShardWork, watch: Watch) -> None:
    """Gives every item a row; stops when it is asked to."""
    for item in work.items:
        if watch.should_stop():
            raise Stopped("stopped")
        watch.begin([item.item_id], alone=False)
        watch.finish(Outcome(item, problem=Problem(ErrorClass.OOM, "planted")))


def work_with(run: PreparedRun, scripted: Scripted, tell: Any = lambda event: None) -> Worked:
    return work(
        run.uri,
        device="cpu",
        compute=Compute(batch_size=1),
        renderer=scripted,
        should_stop=lambda: False,
        tell=tell,
    )


def attempts(run: PreparedRun) -> list[dict[str, Any]]:
    """Every attempt, by shard and number."""
    paths = Path(run.uri).glob("attempts/*/*.json")
    return [json.loads(path.read_bytes()) for path in sorted(paths)]


def endings(run: PreparedRun) -> list[str | None]:
    return [attempt["ending"] for attempt in attempts(run)]


def commits(run: PreparedRun) -> list[Path]:
    return list(Path(run.uri).glob("commits/*"))


def test_a_shard_costs_at_most_seven_requests_besides_beats(pictures, monkeypatch):
    run = prepare(pictures, compute__shard_items=1)
    asked: Counter[str] = Counter()
    for name in ("put", "put_if_absent", "get", "get_range", "list", "find"):
        monkeypatch.setattr(LocalStore, name, counted(getattr(LocalStore, name), asked))

    def requests(num_shards: int) -> int:
        asked.clear()
        work_here(run.uri, max_shards=num_shards)
        assert asked["beat"] <= 4 * num_shards
        return sum(asked.values()) - asked["beat"]

    at_the_start = requests(1)
    assert requests(4) - at_the_start <= 3 * 7


def counted(method: Any, asked: Counter[str]) -> Any:
    def call(store: Any, key: str = "", data: Any = b"", *args: Any, **options: Any) -> Any:
        is_beat = method.__name__ == "put" and key.startswith("attempts/")
        if is_beat and json.loads(data)["ending"] is None:
            asked["beat"] += 1
        elif store.uri.endswith("/run"):
            asked[method.__name__] += 1
        given = () if method.__name__ in ("list", "get", "find") else (data,)
        return method(store, key, *given, *args, **options)

    return call


def test_a_worker_ends_after_so_many_shards_and_another_one_does_the_rest(pictures):
    run = prepare(pictures)
    assert work_here(run.uri, max_shards=1) == Worked(num_committed=1, num_lost=0, stopped=False)
    assert len(commits(run)) == 1
    assert work_here(run.uri).num_committed == 2
    assert len({attempt["worker"]["id"] for attempt in attempts(run)}) == 2
    assert endings(run) == ["committed"] * 3


def held(run: PreparedRun, shard: str, worker: Worker) -> Holding:
    holding = take(open_store(run.uri), shard, 1, worker)
    assert holding is not None
    return holding


def test_a_worker_waits_for_a_shard_that_another_one_holds_and_takes_it_when_it_is_given_up(
    pictures,
):
    run = prepare(pictures)
    holding = held(run, "00001", this_worker("cpu"))
    told: list[WorkEvent] = []

    def give_up_when_waited_for(event: WorkEvent) -> None:
        told.append(event)
        if isinstance(event, Waiting):
            assert len(commits(run)) == 2
            holding.end("stopped")

    assert work_here(run.uri, tell=give_up_when_waited_for).num_committed == 3
    assert sum(isinstance(event, Waiting) for event in told) == 1
    assert [a["took_over"] for a in attempts(run) if a["shard"] == "00001"] == [None, None]


def gone_worker() -> Worker:
    """A worker of a process of this machine that has ended."""
    source = (
        "from tasks.runs.worker_identity import this_worker; "
        "print(this_worker('cpu').to_bytes().decode())"
    )
    made = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    return Worker.model_validate_json(made.stdout)


def abandoned(run: PreparedRun, shard: str, worker: Worker, **changes: Any) -> None:
    record = AttemptRecord(shard=shard, number=1, attempt_id="gone", worker=worker, **changes)
    open_store(run.uri).put(f"attempts/{shard}/1.json", record.to_bytes())


def test_the_shard_of_a_process_that_is_gone_is_taken_over_at_once(pictures):
    run = prepare(pictures)
    worker = gone_worker()
    assert is_gone(worker)
    assert not is_gone(this_worker("cpu"))
    abandoned(run, "00000", worker)
    assert work_here(run.uri).num_committed == 3
    first, second = (a for a in attempts(run) if a["shard"] == "00000")
    assert first["ending"] is None
    assert (second["took_over"], second["ending"]) == (1, "committed")


def test_a_process_is_known_to_be_gone_only_on_its_own_machine():
    worker = gone_worker()
    assert not is_gone(worker.model_copy(update={"boot_id": "another"}))
    assert not is_gone(worker.model_copy(update={"pid_namespace": "another"}))
    assert not is_gone(worker.model_copy(update={"started": None}))
    reused = this_worker("cpu").model_copy(update={"started": "1"})
    assert is_gone(reused), "another process has its number now"


def test_a_shard_of_another_machine_is_taken_when_its_record_stood_still_for_the_lease(
    pictures, monkeypatch
):
    run = prepare(pictures)
    far = gone_worker().model_copy(update={"boot_id": "another"})
    abandoned(run, "00000", far, ended_at="2000-01-01T00:00:00+00:00")
    told: list[WorkEvent] = []

    def shorten_the_lease(event: WorkEvent) -> None:
        told.append(event)
        if isinstance(event, Waiting):
            assert len(commits(run)) == 2
            monkeypatch.setattr(tasks.work.queue, "LEASE_SECONDS", 0.5)

    assert work_here(run.uri, tell=shorten_the_lease).num_committed == 3
    assert any(isinstance(event, Waiting) for event in told)


def without_conditional_writes(run: PreparedRun) -> None:
    record = json.loads((Path(run.uri) / "run.json").read_bytes()) | {"conditional_put": False}
    (Path(run.uri) / "run.json").write_text(json.dumps(record))


def test_where_writes_are_not_conditional_a_second_worker_is_refused(pictures, monkeypatch):
    monkeypatch.setattr("infra.settled_store.SETTLE_SECONDS", 0.0)
    run = prepare(pictures)
    without_conditional_writes(run)
    holding = held(run, "00001", this_worker("cpu"))
    with pytest.raises(RunFolderError, match=rf"process {os.getpid()} .* one worker at a time"):
        work_here(run.uri)
    holding.end("stopped")
    abandoned(run, "00000", gone_worker())
    assert work_here(run.uri).num_committed == 3


def test_what_was_finished_before_a_renderer_died_is_not_rendered_again(pictures):
    one_by_one = {"compute__shard_items": 6, "compute__batch_size": 1}
    run = prepare(pictures, **one_by_one)
    undisturbed = finish(prepare(pictures, output__uri="undisturbed", **one_by_one))

    def renders_two_and_dies(work: ShardWork, watch: Watch) -> None:
        two = ShardWork(**{**vars(work), "items": work.items[:2]})
        renderer().render(two, watch, hang_seconds=9)
        watch.begin([work.items[2].item_id, work.items[3].item_id], alone=False)
        raise ChildDied(11, None)

    def dies_when_it_held_much(work: ShardWork, watch: Watch) -> None:
        watch.held(1 << 50)
        renders_two_and_dies(work, watch)

    told: list[WorkEvent] = []
    scripted = Scripted(dies_when_it_held_much)
    assert work_with(run, scripted, told.append).num_committed == 1
    (done,) = (event for event in told if isinstance(event, Committed))
    assert done.stats.peak_memory_bytes == 1 << 50, "the dead renderer's counts too"
    assert [len(work.items) for work in scripted.asked] == [6, 4]
    assert set(scripted.asked[1].alone) == {item.item_id for item in scripted.asked[0].items[2:4]}
    died, done = attempts(run)
    assert (died["ending"], died["signal"], len(died["in_hand"])) == ("died", 11, 2)
    assert (done["ending"], len(done["cleared"])) == ("committed", 2)
    assert [event.shard for event in told if isinstance(event, Restarted)] == ["00000"]
    assert publish(run.uri).content_digest == undisturbed.content_digest


@pytest.mark.parametrize(
    ("death", "error_class"),
    [
        (ChildDied(11, None), ErrorClass.CRASH),
        (ChildDied(None, 3), ErrorClass.CRASH),
        (ChildHung(2.0), ErrorClass.TIMEOUT),
    ],
)
def test_the_item_that_kills_its_renderer_twice_alone_is_a_row_and_its_neighbours_are_rendered(
    pictures, death, error_class
):
    run = prepare(pictures, compute__shard_items=6)
    culprit: list[str] = []

    def kills(work: ShardWork, watch: Watch) -> None:
        culprit[:] = culprit or [work.items[3].item_id]
        for item_id in work.alone:
            alone = ShardWork(
                **{
                    **vars(work),
                    "items": tuple(item for item in work.items if item.item_id == item_id),
                    "alone": (),
                }
            )
            if item_id == culprit[0]:
                watch.begin([item_id], alone=True)
                raise death
            renderer().render(alone, AsAlone(watch), hang_seconds=9)
        if not work.alone:
            watch.begin([item.item_id for item in work.items[2:5]], alone=False)
            raise death

    told: list[WorkEvent] = []
    work_with(run, Scripted(kills, kills, kills), told.append)
    rows = audit(run.uri, published=False).rows
    (bad,) = [row for row in rows if row["status"] != "ok"]
    assert (bad["item_id"], bad["error_class"]) == (culprit[0], error_class)
    assert "2 times" in bad["error_message"]
    assert len(rows) == 6
    assert attempts(run)[-1]["convicted"] == culprit


class AsAlone:
    """A watch that hears of every item as tried alone."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._watch, name)

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        self._watch.begin(item_ids, alone=True)


def test_progress_that_died_with_a_renderer_is_taken_back(pictures):
    run = prepare(pictures, compute__shard_items=6)
    told: list[WorkEvent] = []
    work_with(run, Scripted(dies(2, ChildDied(11, None))), told.append)
    assert sum(e.items for e in told if isinstance(e, Progress)) == pytest.approx(6, abs=0.01)


def test_three_faults_of_the_machine_in_a_row_end_the_worker_and_commit_nothing(pictures):
    run = prepare(pictures)
    scripted = Scripted(*[raises(DeviceFault(f"the device is lost ({n})")) for n in range(9)])
    with pytest.raises(DeviceFault, match="the device is lost"):
        work_with(run, scripted)
    assert len(scripted.asked) == 3
    assert scripted.num_closed == 3
    assert endings(run) == ["infra"] * 3
    assert len({attempt["shard"] for attempt in attempts(run)}) == 3, "another shard comes first"
    assert not commits(run)


def test_faults_with_commits_between_them_do_not_end_the_worker(pictures):
    run = prepare(pictures)

    def renders(work: ShardWork, watch: Watch) -> None:
        renderer().render(work, watch, hang_seconds=9)

    fault = raises(DeviceFault("the device is lost"))
    scripted = Scripted(fault, fault, renders, fault, fault, renders)
    assert work_with(run, scripted).num_committed == 3


def test_a_renderer_that_dies_before_it_has_begun_with_an_item_is_the_machine_s_fault(pictures):
    run = prepare(pictures)
    with pytest.raises(WorkerFault, match="SIGKILL, before it had begun with any item"):
        work_with(run, Scripted(*[raises(ChildDied(9, None)) for _ in range(9)]))
    assert not commits(run)


def test_items_that_need_a_fresh_device_are_tried_first_on_one(pictures):
    run = prepare(pictures, compute__shard_items=6)

    def needs(work: ShardWork, watch: Watch) -> None:
        raise FreshDeviceNeeded([work.items[4].item_id])

    scripted = Scripted(needs)
    assert work_with(run, scripted).num_committed == 1
    assert scripted.num_closed == 1
    assert scripted.asked[1].alone == (scripted.asked[0].items[4].item_id,)
    assert endings(run) == ["committed"]


def test_where_a_fifth_of_the_last_fifty_items_fails_all_workers_are_asked_to_stop(pictures):
    run = prepare(pictures, variants=10, compute__shard_items=60)
    with pytest.raises(BreakerTripped, match=r"50 of the last 50 items failed \(50 oom\)"):
        work_with(run, Scripted(fails))
    assert not commits(run)
    assert endings(run) == ["stopped"]
    assert "items failed" in json.loads((Path(run.uri) / "stop.json").read_bytes())["reason"]


def test_a_few_items_that_all_fail_are_rows(pictures):
    run = prepare(pictures, variants=8, compute__shard_items=48)
    assert work_with(run, Scripted(fails)).num_committed == 1


def test_a_job_may_say_that_nothing_but_its_end_stops_it(pictures):
    run = prepare(pictures, variants=10, compute__shard_items=60, limits__stop_when_failing=None)
    assert work_with(run, Scripted(fails)).num_committed == 1


def test_workers_obey_a_request_that_is_newer_than_they_are(pictures, monkeypatch):
    monkeypatch.setattr(tasks.work.stop_request, "LOCAL_SECONDS", 0.0)
    run = prepare(pictures)
    ask_to_stop(open_store(run.uri), "too early")

    def asked(work: ShardWork, watch: Watch) -> None:
        assert not watch.should_stop()
        ask_to_stop(open_store(run.uri), "enough")
        assert watch.should_stop()
        raise Stopped("stopped")

    assert work_with(run, Scripted(asked)).stopped
    assert endings(run) == ["stopped"]
    assert work_with(run, Scripted()).num_committed == 3


def test_an_input_s_store_that_does_not_answer_is_waited_for_and_is_no_item_s_fault(
    pictures, monkeypatch
):
    monkeypatch.setattr(tasks.work.patience, "PAUSES", (0.01,))
    run = prepare(pictures)
    away = raises(StoreUnreachable("the store is away"))
    told: list[WorkEvent] = []
    assert work_with(run, Scripted(away, away), told.append).num_committed == 3
    assert endings(run) == ["committed"] * 3
    assert {event.reason for event in told if isinstance(event, Waiting)} == {"the store is away"}


def test_an_input_s_store_that_stays_away_ends_the_worker(pictures, monkeypatch):
    monkeypatch.setattr(tasks.work.patience, "PAUSES", (0.01,))
    monkeypatch.setattr(tasks.work.patience, "AWAY_SECONDS", 0.05)
    run = prepare(pictures)
    away = raises(StoreUnreachable("the store is away"))
    with pytest.raises(StoreTrouble, match="the store is away"):
        work_with(run, Scripted(*[away] * 99))
    assert endings(run) == ["infra"]
    assert not commits(run)


def test_sources_that_are_gone_are_nobody_s_fault_and_nothing_is_committed(pictures):
    run = prepare(pictures)
    moved = (pictures / "content").rename(pictures / "elsewhere")
    with pytest.raises(SourcesGone):
        work_here(run.uri)
    assert not commits(run)
    moved.rename(pictures / "content")
    assert len(render_pending(run)) == 3


def test_a_record_is_rewritten_four_times_a_minute_at_most_but_always_when_asked_to(
    pictures, monkeypatch
):
    run = prepare(pictures)
    written = threading.Semaphore(0)
    put = LocalStore.put

    def noted(store: Any, key: str, data: Any) -> None:
        put(store, key, data)
        written.release()

    monkeypatch.setattr(LocalStore, "put", noted)
    holding = held(run, "00000", this_worker("cpu"))
    for number in range(1, 40):
        holding.update(finished=number)
    for _ in range(3):
        holding.update(at_once=True, alone=True)
        assert attempts(run)[0]["finished"] == 39
    holding.end("stopped")
    num_written = sum(1 for _ in iter(lambda: written.acquire(blocking=False), False))
    assert 4 <= num_written <= 4 + 3 + 1
    assert attempts(run)[0]["ending"] == "stopped"


def test_a_damaged_attempt_holds_nobody_up(pictures):
    run = prepare(pictures)
    for shard, data in (("00000", b"{"), ("00001", b""), ("00002", b'{"schema_version": 2}')):
        open_store(run.uri).put(f"attempts/{shard}/1.json", data)
    told: list[WorkEvent] = []
    assert work_here(run.uri, tell=told.append).num_committed == 3
    assert sum(isinstance(event, Committed) for event in told) == 3


def test_a_renderer_may_be_silent_for_ten_steps_of_a_batch_by_the_estimate(pictures):
    run = prepare(pictures, settings={"num_inference_steps": 20}, compute__seconds_per_item=4000.0)
    items = run.plan.items("00000")
    assert hang_seconds(Compute(batch_size=3), items) == pytest.approx(10 * 3 * 4000 / 20)
    assert hang_seconds(Compute(batch_size=3, hang_seconds=2), items) == 2
    assert hang_seconds(Compute(), ()) == 300
    assert hang_seconds(Compute(), (), "cuda:1") == 1800, "it may have to compile"
    assert hang_seconds(Compute.model_validate({"compile": False}), (), "cuda:1") == 300


# ---------------------------------------------------------------------------- stored meanwhile


def holds_up_the_first_tar(patch: pytest.MonkeyPatch, until: Callable[[], None]) -> None:
    """The first tar that any worker stores from now on reaches the run folder after `until`."""
    put, tars = LocalStore.put, []

    def held_up(store: LocalStore, key: str, data: Any) -> None:
        if key.endswith(".tar"):
            tars.append(key)
            if tars[0] == key:
                until()
        put(store, key, data)

    patch.setattr(LocalStore, "put", held_up)


def renders(work: ShardWork, watch: Watch) -> None:
    renderer().render(work, watch, hang_seconds=9)


def test_a_shard_is_stored_while_the_next_one_renders(pictures, monkeypatch):
    run = prepare(pictures)
    rendered = threading.Event()

    def renders_the_second(work: ShardWork, watch: Watch) -> None:
        assert not commits(run)
        renders(work, watch)
        rendered.set()

    holds_up_the_first_tar(monkeypatch, lambda: rendered.wait(60) or pytest.fail("it waits"))
    assert work_with(run, Scripted(renders, renders_the_second)).num_committed == 3
    assert endings(run) == ["committed"] * 3
    publish(run.uri)
    assert audit(run.uri).counts["ok"] == 6


def test_who_is_asked_to_stop_stores_what_is_rendered_before_it_ends(pictures, monkeypatch):
    run = prepare(pictures)
    stopping = threading.Event()

    def stops(work: ShardWork, watch: Watch) -> None:
        stopping.set()
        renders(work, watch)

    holds_up_the_first_tar(monkeypatch, lambda: stopping.wait(60) or pytest.fail("no stop"))
    worked = work(
        run.uri,
        device="cpu",
        compute=Compute(batch_size=1),
        renderer=Scripted(renders, stops),
        should_stop=stopping.is_set,
        tell=lambda event: None,
    )
    assert worked == Worked(num_committed=1, num_lost=0, stopped=True)
    assert sorted(map(str, endings(run))) == ["committed", "stopped"]


@pytest.mark.parametrize("is_rendered", [True, False])
def test_a_store_that_is_given_up_ends_the_worker_and_what_was_rendered_is_stored_by_the_next(
    pictures, monkeypatch, is_rendered
):
    """The second shard is kept where it is rendered by then, and is stopped where it is not."""
    run = prepare(pictures)
    monkeypatch.setattr(tempfile, "tempdir", str(pictures))
    monkeypatch.setattr(tasks.work.patience, "AWAY_SECONDS", 0.0)
    rendered = threading.Event()

    def renders_the_second(work: ShardWork, watch: Watch) -> None:
        if is_rendered:
            renders(work, watch)
        rendered.set()
        if not is_rendered:
            while not watch.should_stop():
                time.sleep(0.01)
            raise Stopped("stopped")

    def refuses() -> None:
        assert rendered.wait(60)
        raise StoreUnreachable("planted: the store does not answer")

    with monkeypatch.context() as patch:
        holds_up_the_first_tar(patch, refuses)
        with pytest.raises(StoreTrouble, match=r"planted.*waits in"):
            work_with(run, Scripted(renders, renders_the_second))
    assert not commits(run)
    num_kept = 2 if is_rendered else 1
    assert len(list(pictures.glob("stylefarm-*/kept-*"))) == num_kept
    next_one = Scripted()
    assert work_with(run, next_one).num_committed == 3
    assert len(next_one.asked) == 3 - num_kept, "what waits is not rendered again"
    assert not list(pictures.glob("stylefarm-*/kept-*"))


def test_commits_say_how_long_their_worker_loaded_waited_and_stored(pictures):
    run = prepare(pictures)
    index = finish(run)
    stats = index.stats
    assert stats.seconds_worked is not None
    assert stats.seconds_upload is not None
    assert stats.seconds_wait_for_input is not None
    assert stats.seconds_wait_for_output is not None
    waited = stats.seconds_wait_for_input + stats.seconds_wait_for_output
    assert waited + stats.render_seconds <= stats.seconds_worked
    assert 0 <= (stats.share_waited or 0.0) < 1
