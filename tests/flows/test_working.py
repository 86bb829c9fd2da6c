"""What a process does with a planned run, with real workers, whose pictures are made up."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flows.stopping import Stopping
from flows.terminal import Terminal
from flows.working import BUDGET_SPENT, RunWork
from infra.store import Store, open_store
from manifests.attempts import AttemptRecord, Worker, attempt_name
from manifests.budget import UNBOUNDED, Bounds
from manifests.job import Job
from tasks.inputs.resolving import resolve_job
from tasks.plans.extending import extend
from tasks.work.events import Ended, WorkEvent
from tests.audit import audit
from tests.bad_images import picture
from tests.tasks.made_up_seconds import MadeUp
from tests.tasks.runs import make_job, prepare


@pytest.fixture(autouse=True)
def renders_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.crew.ChildProcess", lambda *_: nullcontext(MadeUp()))


def work_on(uri: str, job: Job, bounds: Bounds = UNBOUNDED) -> RunWork:
    unused: Any = None
    return RunWork(uri, job, server=unused, stopping=Stopping(), bounds=bounds)


def test_what_is_planned_as_the_last_worker_ends_is_made_too(pictures: Path):
    changes: dict[str, Any] = {"inputs__style": ["style/x.png"], "limits__max_failed": "100%"}
    run, late = prepare(pictures, **changes), pictures / "content" / "late.png"

    def plan_more(event: WorkEvent) -> None:
        if isinstance(event, Ended) and not late.exists():
            Image.fromarray(picture(seed=9)).save(late)
            assert extend(resolve_job(make_job(**changes), str(pictures)), lambda _: None)

    work = work_on(run.uri, make_job(**changes))
    worked = work.finish(Terminal(), plan_more)
    assert worked.end.is_good, worked.end
    assert "of 4 items" in worked.end.message
    assert worked.num_committed == len(work.progress.shards) == 3
    assert work.progress.read().done == work.progress.read().total == 4
    audit(Path(run.uri))


def hold(store: Store, **changes: Any) -> None:
    """The first attempt at the first shard, by a worker of another machine."""
    worker = Worker(id="elsewhere", host="farm2", boot_id="another")
    record = AttemptRecord(shard="00000", number=1, attempt_id="a", worker=worker, **changes)
    store.put(attempt_name("00000", 1), record.to_bytes())


def test_who_is_ended_by_a_budget_has_done_its_part_as_long_as_others_are_at_work(pictures: Path):
    hour = {"compute__seconds_per_item": 3600.0}
    run = prepare(pictures, **hour)
    store = open_store(run.uri)
    hold(store)
    bounds = Bounds(max_gpu_hours=0.1)
    part = work_on(run.uri, make_job(**hour), bounds).finish(Terminal(), lambda _: None).end
    hold(store, ending="stopped")
    last = work_on(run.uri, make_job(**hour), bounds).finish(Terminal(), lambda _: None).end
    assert (part.name, last.name) == (BUDGET_SPENT, BUDGET_SPENT)
    assert (part.is_good, part.is_part) == (True, True)
    assert (last.is_good, last.is_part) == (False, False)
    assert part.message == last.message
    again = work_on(run.uri, make_job(**hour), bounds).finish(Terminal(), lambda _: None).end
    assert again.digest == last.digest, "two who come last at once tell the same end"
