"""What a person sees of a budget: what is refused, when a command ends for it, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.exit_codes import ExitCode
from manifests.budget import Budget, deadline_at
from manifests.errors import JobError
from tests.audit import audit
from tests.command_line import command_environment
from tests.flows.conftest import Stylefarm
from tests.flows.jobs import write_job
from tests.flows.running import commits, said, start, wait_until
from tests.flows.test_observing import asked
from tests.tasks.made_up_seconds import MadeUp, make_up_seconds

HOUR = 3600.0
NOW = datetime(2026, 12, 23, 22, 30, 5, tzinfo=UTC).astimezone()


@pytest.fixture
def job(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six shards of one item, each of which takes a worker an hour by made-up clocks."""
    make_up_seconds(monkeypatch, HOUR)
    monkeypatch.setattr("flows.crew.ChildProcess", lambda *_: nullcontext(MadeUp()))
    compute = {"shard_items": 1, "seconds_per_item": HOUR, "device": "cpu", "price_per_hour": 2.5}
    return write_job(pictures, compute=compute, limits={"max_failed": "100%"})


@pytest.mark.usefixtures("no_fork_server")
def test_a_run_ends_before_it_exceeds_its_budget_and_the_next_goes_on(
    stylefarm: Stylefarm, job: Path
):
    answer = stylefarm("run", job, "--max-gpu-hours", "2.5")
    assert answer.code == ExitCode.ENDED_EARLY == 6, answer
    assert "stopped by the budget: 2 of 2.5 worker-hours are spent" in answer.err
    assert "the next shard would take about 60 min; 4 of 6 items are pending" in answer.err
    assert "are pending: raise the bound, and run the same" in answer.err
    index = json.loads((job.parent / "run" / "index.json").read_bytes())
    assert (len(index["shards"]), index["complete"]) == (2, False)

    assert "64x64 pixels takes about 60 minutes on this CPU" in answer.out + answer.err
    again = stylefarm("work", "run", "--max-gpu-hours", "2.5")
    assert "Earlier runs of this folder took 2 worker-hours, at 5.00." in again.out + again.err
    assert again.code == 6, "what was spent before counts"
    assert "2 of 2.5 worker-hours" in again.err

    dearer = stylefarm("work", "run", "--max-cost", "10")
    assert dearer.code == 6, dearer
    assert "10.00 of 10.00 are spent (4 worker-hours at 2.5 each)" in dearer.err
    assert "GPU" not in dearer.err
    status = stylefarm("status", "run")
    assert "4 worker-hours, 10.00 in money" in status.out

    late = stylefarm("work", "run", "--deadline", "59m")
    assert late.code == 6
    assert "the deadline is 20" in late.err
    assert "are pending: give it more time, and run the same command again" in late.err
    last = stylefarm("work", "run", "--max-cost", "15", "--deadline", "3h", "--max-gpu-hours", "6")
    assert last.code == 0, last
    audit(job.parent / "run")


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no hours": (("--max-gpu-hours", "0"), "--max-gpu-hours takes something above 0"),
    "fewer": (("--max-gpu-hours=-1",), "--max-gpu-hours takes something above 0"),
    "no number": (("--max-gpu-hours", "two"), "--max-gpu-hours"),
    "nan": (("--max-gpu-hours", "nan"), "--max-gpu-hours takes something above 0"),
    "no money": (("--max-cost", "0"), "--max-cost takes something above 0"),
    "too much": (("--max-cost", "inf"), "a billion at most"),
    "no price": (("--max-cost", "5"), "set compute.price_per_hour in the job, or bound"),
    "past": (("--deadline", "2020-01-01T00:00"), "2020-01-01T00:00 is past"),
    "no time left": (("--deadline", "0m"), "0m leaves no time"),
    "no time": (("--deadline", "25:00"), "'25:00' is no deadline: give a length of time such as"),
    "only a date": (("--deadline", "2030-01-01"), "is no deadline"),
    "words": (("--deadline", "tomorrow"), "'tomorrow' is no deadline"),
    "no letters": (("--deadline", "6\x1b[31m"), "it holds the control character"),
    "empty": (("--deadline", ""), "--deadline"),
}


@pytest.mark.usefixtures("no_fork_server")
@pytest.mark.parametrize("case", REFUSED)
def test_nonsense_is_refused_before_anything_is_planned(
    stylefarm: Stylefarm, pictures: Path, case: str
):
    options, words = REFUSED[case]
    answer = stylefarm("run", write_job(pictures), *options)
    assert answer.code == ExitCode.UNUSABLE, answer
    assert words in answer.err
    assert "\x1b" not in answer.err
    assert not (pictures / "run").exists()


def test_a_deadline_is_a_length_of_time_a_time_of_day_or_a_moment():
    assert deadline_at("8h", NOW) - NOW == timedelta(hours=8)
    assert deadline_at("1.5h", NOW) == deadline_at("90m", NOW) == deadline_at("5400s", NOW)
    for text, days in (("23:59", {0, 1}), ("06:00", {0, 1}), ("6:00", {0, 1})):
        found = deadline_at(text, NOW)
        assert 0 < (found - NOW).total_seconds() <= 86_400 + 3600
        assert f"{found.astimezone():%H:%M}" == text.zfill(5)
        assert (found.astimezone().date() - NOW.date()).days in days
    here = NOW.replace(tzinfo=None)
    assert deadline_at(f"{here:%H:%M}", NOW) - NOW > timedelta(hours=22), "that of today is past"
    assert deadline_at("2026-12-24T06:00Z", NOW) == datetime(2026, 12, 24, 6, tzinfo=UTC)
    assert deadline_at("2026-12-24 06:00+02:00", NOW) == datetime(2026, 12, 24, 4, tzinfo=UTC)
    assert deadline_at("2026-12-24T06:00", NOW) == datetime(2026, 12, 24, 6).astimezone()


@pytest.fixture
def central_europe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clocks go forward on 2026-03-29 and back on 2026-10-25."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("central_europe")
@pytest.mark.parametrize(
    ("began", "minutes"),
    [("2026-03-29T00:45Z", 45), ("2026-10-25T00:15Z", 75), ("2026-10-25T00:40Z", 50)],
    ids=["02:30 is skipped", "02:30 comes twice", "it comes again"],
)
def test_a_time_of_day_lies_ahead_also_in_a_night_when_clocks_change(began, minutes):
    now = datetime.fromisoformat(began)
    assert deadline_at("02:30", now) - now == timedelta(minutes=minutes)


def test_flows_take_the_same_words():
    budget = Budget.model_validate({"max_gpu_hours": 2, "deadline": " 06:00 "})
    bounds = budget.bounds(None, NOW)
    assert bounds.max_seconds == 2 * HOUR
    assert bounds.deadline == deadline_at("06:00", NOW)
    assert Budget(max_gpu_hours=9, max_cost=5).bounds(2.5, NOW).max_seconds == 2 * HOUR
    for content in ({"deadline": "soon"}, {"max_gpu_hours": 0}, {"max_cost": True}, {"hours": 1}):
        with pytest.raises(ValidationError):
            Budget.model_validate(content)
    with pytest.raises(JobError, match="bounds nothing without a price"):
        Budget(max_cost=5).bounds(0.0, NOW)


def device_seconds(commit: dict[str, Any]) -> float:
    return commit["stats"]["load_seconds"] + commit["stats"]["seconds_worked"]


@pytest.mark.slow
def test_several_commands_overshoot_by_one_shard_each_at_most_and_one_that_was_killed_counts(
    stylefarm: Stylefarm, pictures: Path
):
    """Real workers whose shards take two seconds or more, one for each of their items."""
    compute = {"shard_items": 2, "batch_size": 1, "seconds_per_item": 1.5, "device": "cpu"}
    job = write_job(pictures, settings={"num_inference_steps": 2}, variants=4, compute=compute)
    assert stylefarm("plan", job).code == 0
    slow = {"STYLEFARM_PLANTED_SECONDS": "1"}
    killed = start("work", "run", folder=pictures, **slow)
    wait_until(lambda: commits(pictures) and is_between_its_items(pictures), killed)
    os.killpg(killed.pid, signal.SIGKILL)
    said(killed)

    most = 16.0
    budget = ("--max-gpu-hours", str(most / HOUR))
    workers = [start("work", "run", *budget, folder=pictures, **slow) for _ in range(3)]
    for worker in workers:
        printed = said(worker)
        assert worker.returncode == 6, printed
        assert "stopped by the budget" in printed
    taken = [device_seconds(json.loads(path.read_bytes())) for path in commits(pictures)]
    assert len(taken) < 12
    assert sum(taken) <= most + sum(sorted(taken)[-3:])
    status = json.loads(stylefarm("status", "run", "--json").out)
    assert status["device_seconds"] > sum(taken), "the killed one held a shard"
    assert status["device_seconds"] <= most + sum(sorted(taken)[-3:])
    assert not status["shards"]["in_hand"]

    goes_on = start("run", job, folder=pictures, STYLEFARM_PLANTED_SECONDS="0")
    assert "24 of 24 items ok" in said(goes_on)
    audit(pictures / "run")


def is_between_its_items(folder: Path) -> bool:
    """Whether a shard is held of whose two items one is finished, which has taken a second."""
    records = [json.loads(path.read_text()) for path in (folder / "run").glob("attempts/*/*.json")]
    return any(
        one["ending"] is None and one["finished"] == 1 and (one["device_seconds"] or 0) >= 1
        for one in records
    )


RUN_JOB = """
import sys
from flows.job import run_job
from manifests.budget import Budget
from manifests.job import load_job
from pathlib import Path

path = Path(sys.argv[1])
run_job.with_options(flow_run_name="bounded")(
    load_job(path), base=str(path.parent), budget=Budget(max_gpu_hours=0.5), return_state=True
)
"""


@pytest.mark.slow
def test_a_flow_run_that_its_budget_ends_is_failed_with_its_name_and_the_sentence(
    prefect_server: str, pictures: Path
):
    job = write_job(pictures, compute={"seconds_per_item": HOUR, "device": "cpu"})
    around = command_environment(prefect_server)
    subprocess.run([sys.executable, "-c", RUN_JOB, job], env=around, check=True, timeout=300)
    (run,) = [run for run in asked(prefect_server, "flow_runs") if run["name"] == "bounded"]
    assert (run["state"]["type"], run["state"]["name"]) == ("FAILED", "BudgetSpent")
    assert "0 of 0.5 worker-hours are spent" in run["state"]["message"]
    assert "--max-shards 1' measures one); 6 of 6 items are pending" in run["state"]["message"]
