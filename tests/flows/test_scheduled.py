"""Nights of a studio: flows that are served, deployed, scheduled, cancelled and killed, for real.

All happens at once on one server, as waiting is most of it; each test waits for its own part.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.audit import Audit, audit
from tests.conftest import write_pictures
from tests.flows.jobs import write_job
from tests.flows.running import commits, scratch_in_use
from tests.flows.scheduling import (
    PATIENCE_SECONDS,
    Prefect,
    attempts,
    end,
    job_parameters,
    processes_of,
    start_python,
    wait_for,
)

pytestmark = pytest.mark.slow

DEPLOY = """
from prefect.flows import EntrypointType
from flows.job import extend_job, run_job

by_name = {"tags": ["stylefarm"], "entrypoint_type": EntrypointType.MODULE_PATH}
for flow in (run_job, extend_job):
    for pool in ("day", "doomed"):
        flow.to_deployment(pool, work_pool_name=pool, **by_name).apply()
"""

SERVE = """
import json, sys
from flows.job import extend_job

extend_job.serve("nightly", cron="* * * * *", parameters=json.loads(sys.argv[1]))
"""

WORK = """
import sys
from prefect.cli import app

sys.argv = ["prefect", "worker", "start", "--type", "process", "--pool", sys.argv[1]]
app()
"""

CRASHES = Path(__file__).parents[2] / "infra" / "automations" / "heartbeat-lost.yaml"

NEVER_DONE = {"env": {"STYLEFARM_PLANTED_SECONDS": "3600"}}
"""Job variables of a flow run each of whose steps takes minutes."""


@dataclass(frozen=True)
class Cancelled:
    """A flow run that was cancelled, and the next one."""

    state: dict[str, Any]
    task_states: list[str]
    endings: list[str | None]
    left: list[int]
    scratch: list[Path]
    next_state: dict[str, Any]
    run: Path


@dataclass(frozen=True)
class Killed:
    """A flow run that was killed with its worker, and the next one."""

    state: dict[str, Any]
    next_state: dict[str, Any]
    run: Path


@dataclass(frozen=True)
class Overlapping:
    """Flow runs that begin at once: two on no run, and two after a new file came."""

    states: list[dict[str, Any]]
    folder: Path


class Night:
    """Everything that happens, each part in a thread of its own."""

    def __init__(
        self, prefect: Prefect, folder: Path, processes: ExitStack, threads: ThreadPoolExecutor
    ) -> None:
        self.prefect, self.folder, self._processes = prefect, folder, processes
        for pool in ("day", "doomed"):
            prefect.ask("/work_pools/", {"name": pool, "type": "process"})
        self._work("day")
        self._doomed = self._work("doomed")
        self.nightly = self._studio("nightly")
        self._python(SERVE, json.dumps(job_parameters(self.nightly)))
        deploying = self._python(DEPLOY)
        assert deploying.wait(PATIENCE_SECONDS) == 0, (folder / "log").read_text()
        self._mark_crashed()
        self.scheduled: Future[dict[str, Any]] = threads.submit(self._wait_for_schedule)
        self.killed: Future[Killed] = threads.submit(self._kill)
        self.cancelled: Future[Cancelled] = threads.submit(self._cancel)
        self.overlapping: Future[Overlapping] = threads.submit(self._overlap)
        self.unusable: Future[dict[str, Any]] = threads.submit(self._misspell)

    def _studio(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        compute = {"shard_items": 1, "batch_size": 1, "device": "cpu"}
        return write_job(write_pictures(folder), name=name, compute=compute)

    def _python(self, code: str, *arguments: str) -> Any:
        process = start_python(code, *arguments, folder=self.folder, server=self.prefect.url)
        self._processes.callback(end, process, signal.SIGTERM)
        return process

    def _work(self, pool: str) -> Any:
        return self._python(WORK, pool)

    def _mark_crashed(self) -> None:
        automation = yaml.safe_load(CRASHES.read_text())
        automation["trigger"]["within"] = 35  # two minutes for people
        self.prefect.ask("/automations/", automation)

    def _begin(self, deployment: str, job: Path, **flow_run: Any) -> str:
        parameters = job_parameters(job) | flow_run.pop("parameters", {})
        return self.prefect.begin(deployment, parameters=parameters, **flow_run)

    def _begin_and_wait_for_a_shard(self, deployment: str, job: Path) -> str:
        flow_run = self._begin(deployment, job, job_variables=NEVER_DONE)
        run = job.parent / "run"
        wait_for(lambda: any(one["in_hand"] for one in attempts(run)), f"a shard of {job}")
        return flow_run

    def _cancel(self) -> Cancelled:
        job = self._studio("cancelled")
        flow_run = self._begin_and_wait_for_a_shard("stylefarm-run/day", job)
        self.prefect.cancel(flow_run)
        state = self.prefect.end_of(flow_run)
        chosen = {"task_runs": {"flow_run_id": {"any_": [flow_run]}}}
        task_runs = self.prefect.ask("/task_runs/filter", chosen)
        endings = [one["ending"] for one in attempts(job.parent / "run")]
        left = processes_of(flow_run)
        following = self._begin("stylefarm-run/day", job)
        return Cancelled(
            state,
            [one["state"]["type"] for one in task_runs],
            endings,
            left,
            scratch_in_use(self.folder),
            self.prefect.end_of(following),
            job.parent / "run",
        )

    def _kill(self) -> Killed:
        job = self._studio("killed")
        flow_run = self._begin_and_wait_for_a_shard("stylefarm-run/doomed", job)
        end(self._doomed, signal.SIGKILL)
        os.kill(processes_of(flow_run)[0], signal.SIGKILL)
        wait_for(lambda: not processes_of(flow_run), "the end of what renders")
        state = self.prefect.end_of(flow_run)
        following = self._begin("stylefarm-run/day", job)
        return Killed(state, self.prefect.end_of(following), job.parent / "run")

    def _overlap(self) -> Overlapping:
        job = self._studio("overlapping")
        overrides = {"output.uri": "elsewhere", "compute.shard_items": 2}
        states: list[dict[str, Any]] = []
        for flows in (("extend", "extend"), ("extend", "run")):
            begun = [
                self._begin(f"stylefarm-{flow}/day", job, parameters={"overrides": overrides})
                for flow in flows
            ]
            states += [self.prefect.end_of(flow_run) for flow_run in begun]
            late = job.parent / "content" / "late.png"
            shutil.copyfile(job.parent / "style" / "x.png", late)
        return Overlapping(states, job.parent)

    def _misspell(self) -> dict[str, Any]:
        job = self._studio("misspelled")
        overrides = {"inputs.content": "contents"}
        flow_run = self._begin("stylefarm-run/day", job, parameters={"overrides": overrides})
        state = self.prefect.end_of(flow_run)
        wait_for(lambda: state["message"] in self.prefect.log_of(flow_run), "its log")
        return state

    def _wait_for_schedule(self) -> dict[str, Any]:
        wait_for(lambda: (self.nightly.parent / "run" / "run.json").exists(), "the schedule")
        deployment = self.prefect.ask("/deployments/name/stylefarm-extend/nightly")
        chosen = {"deployment_id": {"any_": [deployment["id"]]}, "start_time": {"is_null_": False}}
        asked = {"flow_runs": chosen, "sort": "START_TIME_ASC"}
        (first, *_) = self.prefect.ask("/flow_runs/filter", asked)
        self.prefect.ask(f"/deployments/{deployment['id']}", {"paused": True}, method="PATCH")
        return {"auto_scheduled": first["auto_scheduled"], **self.prefect.end_of(first["id"])}


@pytest.fixture(scope="module")
def night(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """The night of a studio, from dusk on."""
    folder = tmp_path_factory.mktemp("night")
    # More would only wait for a processor; nobody waits for the schedule's next minute.
    with ThreadPoolExecutor(4) as threads, ExitStack() as processes:
        yield Night(Prefect(prefect_server), folder, processes, threads)


def finished_run(run: Path, num_items: int = 6) -> Audit:
    """A run that is complete, each of whose items was made once."""
    found = audit(run)
    assert len(found.all_rows) == len(found.items) == len(found.planned) == num_items
    assert all(row["status"] == "ok" for row in found.rows)
    return found


def test_a_cancelled_flow_run_gives_its_shard_up_and_the_next_one_finishes(night: Night):
    cancelled = night.cancelled.result()
    assert cancelled.state["type"] == "CANCELLED"
    assert cancelled.task_states == ["CANCELLED"]
    assert cancelled.endings == ["stopped"], "it was not killed by Prefect before it could say so"
    assert not cancelled.left
    assert cancelled.next_state["type"] == "COMPLETED"
    finished_run(cancelled.run)


def test_flow_runs_that_overlap_share_one_run_and_plan_each_new_file_once(night: Night):
    found = night.overlapping.result()
    assert {state["type"] for state in found.states} == {"COMPLETED"}, found.states
    run = finished_run(found.folder / "elsewhere", 8)
    assert [one.number for one in run.generations] == [0, 1]


def test_flow_runs_with_overrides_obey_them(night: Night):
    folder = night.overlapping.result().folder
    assert not (folder / "run").exists()
    assert len(finished_run(folder / "elsewhere", 8).commits) == 3 + 1, "of two items each"


def test_a_job_that_cannot_be_planned_fails_with_the_sentence_of_the_command(night: Night):
    state = night.unusable.result()
    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    folder = night.folder / "misspelled" / "contents"
    assert state["message"] == f"inputs.content: there is no folder '{folder}': check the path"


def test_a_served_flow_is_run_by_its_schedule_and_begins_its_run(night: Night):
    first = night.scheduled.result()
    assert first["auto_scheduled"]
    assert first["type"] == "COMPLETED"
    finished_run(night.nightly.parent / "run")


def test_a_flow_run_that_is_killed_is_marked_as_crashed_and_the_next_one_finishes(night: Night):
    killed = night.killed.result()
    assert killed.state["type"] == "CRASHED"
    assert killed.next_state["type"] == "COMPLETED"
    finished_run(killed.run)
    assert len(commits(killed.run.parent)) == 6
