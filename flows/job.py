"""The Prefect flow that makes a job's pictures. Run it again to finish what was interrupted.

Everything is done by plain functions of `tasks`; here they become Prefect's tasks, so that Prefect
shows them. The command line renders without this file where Prefect does not work.
"""

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
from tasks.one_shard import render_patiently
from tasks.planning import open_prepared, plan_items, store_plan
from tasks.progress import board
from tasks.report import publish
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
    """Plans a job, renders its pending shards and publishes the result.

    Args:
        name: the name that Prefect shows.
        job: the job, as `manifests.job.Job` dumps it.
        base: the folder that the job's relative paths start from.

    Returns:
        Completed with the run's counts, or Failed where shards are still pending or more items
        failed than the job allows.

    Raises:
        Stopped: somebody asked this process to stop.
    """
    run_uri = prepare(job, base)
    store, run = open_run(run_uri)
    pending = pending_shards(store, load_plan(store, run))

    compute = job.get("compute", {})
    for future in sliding_window(
        lambda shard: render_shard.submit(run_uri, shard, compute), pending, 2 * NUM_WORKERS
    ):
        future.wait()
        board.check()

    counts = publish_run(run_uri)
    describe_run(run_uri, counts)
    allowed = job_from_dict(job).limits.allows(counts["failed"], counts["planned"])
    outcome = Completed if allowed and not counts["pending"] else Failed
    return outcome(message=", ".join(f"{number} {status}" for status, number in counts.items()))


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(job: dict[str, Any], base: str) -> str:
    """Checks the inputs and writes the plan, or finds the plan that exists.

    Returns:
        The URI of the run folder.
    """
    resolved = resolve_job(job_from_dict(job), base, will_render=True)
    prepared = open_prepared(resolved) or store_plan(resolved, plan_items(resolved))
    for item in prepared.plan.problems():
        if item.problem is not None:
            get_run_logger().warning("%s: %s", item.problem.error_class.value, item.problem.message)
    return prepared.uri


@task(
    name="render-shard",
    task_run_name="render-{shard}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def render_shard(run_uri: str, shard: str, compute: dict[str, Any]) -> dict[str, Any]:
    """Renders and commits one shard; see `tasks.one_shard.render_patiently`."""
    return render_patiently(run_uri, shard, compute)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_run(run_uri: str) -> dict[str, Any]:
    """Brings `index.json` and `report.html` up to date; returns the index's counts."""
    return publish(run_uri).counts.model_dump()


def describe_run(run_uri: str, counts: dict[str, int]) -> None:
    """Saves the counts and a link to the report with the flow run, as Prefect artifacts."""
    create_table_artifact(key="stylefarm-counts", table=[counts], description=f"Items of {run_uri}")
    report = join_uri(run_uri, REPORT_NAME)
    link = report if "://" in report else Path(report).absolute().as_uri()
    create_link_artifact(key="stylefarm-report", link=link, link_text="Report with pictures")
