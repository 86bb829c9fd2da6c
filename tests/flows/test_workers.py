"""Several workers on one run: they share it, they stop together, and any of them may leave."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.audit import audit
from tests.flows.conftest import Stylefarm
from tests.flows.running import commits, living, long_job, said, scratch_in_use, start, wait_until


def holders(folder: Path) -> set[str]:
    """The workers that hold or held a shard."""
    attempts = [json.loads(path.read_text()) for path in (folder / "run").glob("attempts/*/*.json")]
    return {attempt["worker"]["id"] for attempt in attempts}


@pytest.mark.slow
def test_workers_share_a_run_stop_together_and_one_run_finishes_it(
    stylefarm: Stylefarm, pictures: Path
):
    job = long_job(pictures)
    assert stylefarm("plan", job).code == 0
    workers = [start("work", "run", folder=pictures) for _ in range(2)]
    wait_until(lambda: len(scratch_in_use(pictures)) == 2, *workers)
    assert len(holders(pictures)) == 2

    told = stylefarm("stop", "run")
    assert told.code == 0
    assert "asked to stop" in told.out
    for worker in workers:
        printed = said(worker)
        assert worker.returncode == 4, printed
        assert "as all workers of this run were asked to stop" in printed
        assert not living(worker.pid)
    assert not scratch_in_use(pictures)

    one = stylefarm("work", "run", "--max-shards", "1")
    assert one.code == 0, one
    assert "has committed 1 shard" in one.out
    assert "are left" in one.out

    both = stylefarm("run", job, "--set", "compute.workers=2")
    assert both.code == 0, both
    assert "Resuming: " in both.out
    assert len(holders(pictures)) >= 4, "one of the two may have been quicker than the other"
    audit(pictures / "run")


@pytest.mark.slow
def test_a_run_and_a_worker_that_joins_it_end_with_the_run(pictures: Path):
    slow = {"STYLEFARM_PLANTED_SECONDS": "5"}  # the others join before it has done all alone
    run = start("run", long_job(pictures), folder=pictures, **slow)
    wait_until(lambda: (pictures / "run" / "run.json").exists(), run)
    leaving = start("work", "run", folder=pictures)
    staying = start("work", "run", folder=pictures)
    wait_until(lambda: len(scratch_in_use(pictures)) == 3, run)
    leaving.send_signal(signal.SIGTERM)
    assert "Stopped" in said(leaving)
    assert leaving.returncode == 4
    assert said(staying)
    assert staying.returncode == 0
    assert "6 of 6 items ok" in said(run)
    assert run.returncode == 0
    assert len(commits(pictures)) == 6
    audit(pictures / "run")
