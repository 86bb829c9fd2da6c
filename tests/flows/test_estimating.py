"""`stylefarm estimate`, and what a run says of the time and money that it takes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.forecasts import forecast_document, plain_number, show_forecast
from flows.memory_words import SLOW_SECONDS, memory_warning, slow_warning
from flows.outlook import RunOutlook
from flows.terminal import Terminal
from manifests.commits import Counts
from manifests.shard_stats import ShardStats
from tasks.estimating.remembered import remembered
from tasks.runs.committed import open_committed
from tasks.runs.run_folder import open_run
from tasks.work.events import Committed, Needs, Phase, Progress
from tasks.work.shard_work import MemoryNeed
from tests.flows.conftest import Finished, Stylefarm
from tests.flows.jobs import write_job
from tests.flows.running import commits, living, said, scratch_in_use, start, wait_until
from tests.tasks.runs import make_job, prepare
from tests.tasks.test_estimating import forecast


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_an_estimate_tells_each_entry_of_a_sweep_and_what_failed_and_writes_nothing(
    stylefarm: Stylefarm, pictures: Path
):
    job = write_job(
        pictures,
        sweep=[{"label": "short"}, {"label": "mad", "learning_rate": 1e30}],
        compute={"shard_items": 8, "device": "cpu", "price_per_hour": 3600.0},
    )
    answer = stylefarm(
        "estimate", job, "--items", "2", "--workers", "1", "--workers", "2", "--json"
    )
    assert answer.code == 0, answer
    told = json.loads(answer.out)
    assert not (pictures / "run").exists()
    short, mad = sorted(told["buckets"], key=lambda one: one["label"], reverse=True)
    assert (short["label"], short["items"], short["basis"]) == ("short", 6, "measured")
    assert short["seconds_per_item"]["median"] > 0
    assert short["peak_memory_bytes"] > 0
    assert short["output_bytes"] > 0
    assert short["examples"]
    assert short["failed"] == []
    assert {one["error_class"] for one in mad["failed"]} == {"numerics"}
    assert "learning rate" in answer.err
    assert [one["workers"] for one in told["workers"]] == [1, 2]
    total = told["total"]
    assert total["cost"] == pytest.approx(3600 * total["device_hours"], rel=1e-3)
    assert told["unit"] == "worker-hours"


def test_nothing_is_left_to_estimate_of_a_complete_run(
    stylefarm: Stylefarm, finished: Finished, no_fork_server: None
):
    answer = stylefarm("estimate", finished.job, "--json")
    assert answer.code == 0, answer
    assert "every planned item is done" in answer.err
    told = json.loads(answer.out)
    assert (told["items"], told["buckets"]) == (0, [])
    assert told["spent"]["device_hours"] > 0


def test_a_run_says_first_what_it_takes(finished: Finished):
    said_first, _, _ = finished.answer.out.partition("8 of 8 items")
    assert "To render: 8 items" in said_first
    assert "a rough guess" in said_first


@pytest.mark.slow
def test_a_stopped_estimate_ends_with_code_4_and_leaves_no_scratch(pictures: Path):
    job = write_job(pictures, settings={"num_inference_steps": 5})
    running = start("estimate", job, folder=pictures)
    wait_until(lambda: len(scratch_in_use(pictures)) > 1, running)
    os.kill(running.pid, signal.SIGINT)
    said(running)
    assert running.returncode == 4
    assert scratch_in_use(pictures) == []
    assert living(running.pid) == []
    assert not commits(pictures)


def test_hours_and_money_are_those_of_the_forecast(capsys: pytest.CaptureFixture[str]):
    seconds = {"load_seconds": 36.0, "spent_seconds": 1800.0}
    found = forecast([3600.0], [7200.0], price_per_hour=2.0, **seconds)
    found.outlooks[0].seconds = {600.0: 5.0, 900.0: 1.0}
    found.outlooks[0].output_bytes = 3e6
    found.outlooks[0].peak_memory_bytes = 2 * 10**9
    told = forecast_document(found, "cuda", [1, 2])
    assert (told["items"], told["shards"], told["unit"]) == (12, 2, "GPU-hours")
    assert told["spent"] == {"device_hours": 0.5, "cost": 1.0}
    each = {"median": 600.0, "p90": 900.0}
    assert told["total"] == {
        **{"seconds_per_item": each, "render_seconds": 3900.0, "device_hours": 3.01, "cost": 6.02},
        **{"peak_memory_bytes": 2 * 10**9, "output_bytes": None},
    }
    first, second = told["buckets"]
    assert (first["device_hours"], first["cost"], first["output_bytes"]) == (1.0, 2.0, 3e6)
    assert (second["device_hours"], second["cost"], second["output_bytes"]) == (2.0, 4.0, None)
    assert [
        (one["workers"], one["device_hours"], one["cost"], one["seconds"])
        for one in told["workers"]
    ] == [(1, 3.01, 6.02, 10836.0), (2, 3.02, 6.04, 7236.0)]
    ends = [datetime.fromisoformat(one["ends_at"]) for one in told["workers"]]
    assert ends[1] < ends[0]
    show_forecast(Terminal(), found, "cuda", [2])
    words = " ".join(capsys.readouterr().out.split())
    assert "style-transfer 64x64 6 600 900 1 2.00 2.00 GB 3 MB" in words
    assert "in all 12 600 900 3.01 6.02 2.00 GB –" in words
    assert "2 3.02 6.04 2:00:36 20" in words
    assert "Earlier runs of this folder took 0.5 GPU-hours, at 1.00." in words


# ------------------------------------------------------------ what is said while a run goes on


class Said:
    """A terminal that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, style: str = "") -> None:
        self.lines.append(text)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Workers:
    """Workers of which nothing but their devices is asked."""

    devices = ("cpu", "cpu")


def outlook(base: Path, terminal: Any, clock: Clock, **changes: Any) -> RunOutlook:
    """The outlook of a new run of six items in three shards, already said."""
    prepared = prepare(base, **changes)
    store, run = open_run(prepared.uri)
    told = RunOutlook(
        *(terminal, store, open_committed(store, run), make_job(**changes), "cpu"), clock=clock
    )
    told.say(Workers())  # type: ignore[arg-type]
    return told


def committed(shard: str) -> Committed:
    stats = ShardStats(render_seconds=20.0, seconds_worked=21.0, largest_batch=2, output_bytes=9)
    return Committed("w", shard=shard, counts=Counts(planned=2, ok=2), seconds=21.0, stats=stats)


@pytest.mark.parametrize(("step_seconds", "num_steps"), [(1.0, 6), (3.0, 4), (31.0, 1)])
def test_a_guess_is_called_so_and_corrected_once_by_the_first_steps(
    pictures: Path, cache: Path, step_seconds: float, num_steps: int
):
    terminal, clock = Said(), Clock()
    told = outlook(pictures, terminal, clock, compute__price_per_hour=360.0)
    assert len(terminal.lines) == 1
    assert "6 items" in terminal.lines[0]
    assert "a rough guess" in terminal.lines[0]
    told.tell(Phase("w", name="loading"))
    clock.now += 100.0  # which is no step
    told.tell(Phase("w", name="rendering"))
    for number in range(1, 13):  # a tenth of an item in each step
        clock.now += step_seconds
        told.tell(Progress("w", items=0.1))
        assert (len(terminal.lines) > 1) == (number >= num_steps)
    (corrected,) = (line for line in terminal.lines if "By the first steps" in line)
    assert f"an item takes {plain_number(10 * step_seconds)} s" in corrected
    assert f"{timedelta(seconds=30 * step_seconds)} with 2 workers" in corrected, "three for each"
    assert f"cost {6 * step_seconds:.2f}" in corrected


def test_what_was_committed_is_remembered_and_said_of_the_next_run(pictures: Path, cache: Path):
    terminal = Said()
    told = outlook(pictures, terminal, Clock())
    told.tell(committed("00000"))
    (speed,) = remembered()
    assert speed.seconds_per_step == pytest.approx(5.0), "ten seconds an item, of two steps"
    text = (cache / "stylefarm" / "speeds.json").read_text()
    assert str(pictures) not in text, "figures, and no names of files"
    again = Said()
    outlook(pictures, again, Clock(), output__uri="another")
    assert "about 10 s each" in again.lines[0]
    assert "by what this machine measured earlier" in again.lines[0]


NEED = MemoryNeed(
    width=1024,
    height=1024,
    item_bytes=4 * 10**9,
    batch_size=4,
    batch_bytes=9 * 10**9,
    fitting=2,
    memory_bytes=64 * 10**9,
    device="cpu",
)


def test_memory_is_warned_of_where_it_is_short_and_once_for_a_size(pictures: Path, cache: Path):
    assert memory_warning(NEED) is None
    of_batch = memory_warning(replace(NEED, memory_bytes=8 * 10**9))
    assert of_batch is not None
    assert "compute.batch_size: auto takes 2 at a time" in of_batch
    of_item = replace(NEED, memory_bytes=4 * 10**9)
    terminal = Said()
    told = outlook(pictures, terminal, Clock())
    for worker in ("w", "v"):
        told.tell(Needs(worker, need=of_item))
    (_, warning) = terminal.lines
    assert "1024x1024 pixels takes up to 4.0 GB" in warning
    assert "output.size" in warning


def test_a_picture_that_takes_minutes_on_a_cpu_is_warned_of():
    assert slow_warning(64, 64, SLOW_SECONDS, "cpu") is None
    assert slow_warning(64, 64, 10 * SLOW_SECONDS, "cuda") is None
    assert "about 30 minutes" in str(slow_warning(64, 64, 10 * SLOW_SECONDS, "cpu"))
