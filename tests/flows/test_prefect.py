"""Prefect only shows a run: where it does not work, the run is the same, and a sentence says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.audit import audit
from tests.command_line import Cli, command_environment
from tests.flows.jobs import write_job
from tests.flows.test_observing import asked

NOWHERE = "http://127.0.0.1:1/api"


def test_a_configured_server_that_does_not_answer_is_named_and_the_run_goes_on(
    cli: Cli, pictures: Path
):
    answer = cli("run", write_job(pictures), env={"PREFECT_API_URL": NOWHERE})
    assert answer.code == 0, answer
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

path = Path(sys.argv[1])
run_job("deployed", load_job(path).model_dump(mode="json", exclude_unset=True), str(path.parent))
"""


def test_a_deployed_flow_has_a_task_run_for_each_worker_and_its_commits_as_log_lines(
    prefect_server: str, pictures: Path
):
    job = write_job(pictures, compute={"shard_items": 2, "device": "cpu", "workers": 2})
    done = subprocess.run(
        [sys.executable, "-c", RUN_JOB, str(job)],
        env=command_environment(prefect_server),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done
    audit(pictures / "run")
    (flow_run,) = [run for run in asked(prefect_server, "flow_runs") if run["name"] == "deployed"]
    assert flow_run["state"]["type"] == "COMPLETED", flow_run
    assert "6 ok" in flow_run["state"]["message"]
    of_flow = [
        run["name"]
        for run in asked(prefect_server, "task_runs")
        if run["flow_run_id"] == flow_run["id"]
    ]
    assert {"work-0-cpu", "work-1-cpu"} < set(of_flow)
    assert len(of_flow) == 3
    logs = asked(prefect_server, "logs")
    told = " ".join(log["message"] for log in logs if log["flow_run_id"] == flow_run["id"])
    for shard in ("00000", "00001", "00002"):
        assert f"shard {shard} is committed" in told
