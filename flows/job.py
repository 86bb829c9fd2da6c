"""The flow that makes a job's pictures. Run it again to finish what was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from infra.runners import sliding_window, task_runner
from infra.store import join_uri
from manifests.commits import REPORT_NAME
from manifests.job import job_from_dict
from tasks.planning import open_prepared, plan_items, store_plan
from tasks.render import render_shard
from tasks.report import publish_run
from tasks.resolving import resolve_job
from tasks.run_folder import load_plan, open_run, pending_shards

NUM_WORKERS = 1
"""One device, one thread; several devices are several workers."""


@flow(
    name="stylefarm",
    flow_run_name="{name}",
    task_runner=task_runner(NUM_WORKERS),
    persist_result=False,
    validate_parameters=False,
)
def run_job(name: str, job: dict[str, Any], base: str) -> State[Any]:
    """Plan a job, render its pending shards and publish the result.

    Args:
        name: for people.
        job: the job, as `manifests.job.Job` dumps it.
        base: the folder that the job's relative paths start from.

    Returns:
        Completed with the run's counts, or Failed where shards are still pending or more items
        failed than the job allows.
    """
    run_uri = prepare(job, base)
    store, run = open_run(run_uri)
    pending = pending_shards(store, load_plan(store, run))

    compute = job.get("compute", {})
    for future in sliding_window(
        lambda shard: render_shard.submit(run_uri, shard, compute), pending, 2 * NUM_WORKERS
    ):
        future.wait()

    counts = publish_run(run_uri)
    describe_run(run_uri, counts)
    allowed = job_from_dict(job).limits.allows(counts["failed"], counts["planned"])
    outcome = Completed if allowed and not counts["pending"] else Failed
    return outcome(message=", ".join(f"{number} {status}" for status, number in counts.items()))


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(job: dict[str, Any], base: str) -> str:
    """Preflight and plan, or find the plan that is there; returns the run folder."""
    resolved = resolve_job(job_from_dict(job), base)
    prepared = open_prepared(resolved) or store_plan(resolved, plan_items(resolved))
    for item in prepared.plan.problems():
        assert item.problem is not None
        get_run_logger().warning("%s: %s", item.problem.error_class.value, item.problem.message)
    return prepared.uri


def describe_run(run_uri: str, counts: dict[str, int]) -> None:
    """Leaves the counts and a link to the report with the flow run, as Prefect artifacts."""
    create_table_artifact(key="stylefarm-counts", table=[counts], description=f"Items of {run_uri}")
    report = join_uri(run_uri, REPORT_NAME)
    link = report if "://" in report else Path(report).absolute().as_uri()
    create_link_artifact(key="stylefarm-report", link=link, link_text="Report with pictures")
