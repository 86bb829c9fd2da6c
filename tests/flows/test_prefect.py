"""Prefect only shows a run: where it does not work, the run is the same, and a sentence says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manifests.job import load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items, store_plan
from tests.audit import audit
from tests.command_line import Cli, command_environment
from tests.flows.jobs import write_job
from tests.flows.test_observing import asked

NOWHERE = "http://127.0.0.1:1/api"


def test_a_configured_server_that_does_not_answer_is_named_and_the_run_goes_on(
    cli: Cli, pictures: Path
):
    with_password = NOWHERE.replace("://", "://anna:hunter2@")
    answer = cli("run", write_job(pictures), env={"PREFECT_API_URL": with_password})
    assert answer.code == 0, answer
    assert "hunter2" not in answer.out + answer.err
    assert (
        f"PREFECT_API_URL (in the environment or the active profile) names {NOWHERE}" in answer.out
    )
    assert "6 of 6 items ok" in answer.out
    audit(pictures / "run")


RUN_JOB = """
import sys
from flows.job import run_job
from manifests.job import load_job
from pathlib import Path

path = Path(sys.argv[2])
run_job.with_options(flow_run_name=sys.argv[1])(load_job(path), base=str(path.parent))
"""


def test_flow_runs_on_one_folder_share_the_work_and_show_each_worker_and_commit(
    prefect_server: str, pictures: Path
):
    job = write_job(pictures, compute={"shard_items": 1, "device": "cpu", "workers": 2})
    names = ("early", "late")
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUN_JOB, name, str(job)],
            env=command_environment(prefect_server),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]
    for run in runs:
        told, _ = run.communicate(timeout=300)
        assert run.returncode == 0, told
    audit(pictures / "run")
    flow_runs = [run for run in asked(prefect_server, "flow_runs") if run["name"] in names]
    assert [run["state"]["type"] for run in flow_runs] == ["COMPLETED"] * 2, flow_runs
    assert all("6 ok" in run["state"]["message"] for run in flow_runs)
    ids = {run["id"] for run in flow_runs}
    task_runs = asked(prefect_server, "task_runs")
    shown = [run["name"] for run in task_runs if run["flow_run_id"] in ids]
    assert set(shown) == {"work-0-cpu", "work-1-cpu"}
    logs = [log for log in asked(prefect_server, "logs") if log["flow_run_id"] in ids]
    committed = [log["message"] for log in logs if "is committed" in log["message"]]
    assert sorted(words.split()[1] for words in committed) == [f"{n:05}" for n in range(6)]


JOIN_AND_TIDY = """
import sys
from flows.job import collect_garbage, work_on_run

run = sys.argv[1]
states = [
    work_on_run(run, max_shards=1, return_state=True),
    work_on_run(run, return_state=True),
    collect_garbage(run, return_state=True),
    collect_garbage(run, older_than="soon", return_state=True),
]
print(*(f"{state.name}: {state.message}" for state in states), sep="\\n")
"""


@pytest.mark.slow
def test_flow_runs_join_a_planned_run_for_a_while_or_to_its_end_and_tidy_it_up(
    prefect_server: str, pictures: Path
):
    resolved = resolve_job(load_job(write_job(pictures)), str(pictures))
    run = store_plan(resolved, plan_items(resolved)).uri
    done = subprocess.run(
        [sys.executable, "-c", JOIN_AND_TIDY, run],
        env=command_environment(prefect_server),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Completed: 1 shard committed; of the run 2 shards are left",
        "Completed: complete: 6 ok of 6 items",
        "Completed: Nothing to delete.",
        "Failed: --older-than takes a number and s, m, h, d or w, such as 2d, 12h or 0s, a century "
        "at most; got 'soon'",
    ]
    audit(run)
