"""The Prefect flows that make a job's pictures. Run one again to finish what was interrupted.

The workers of `crew` do the work; here Prefect shows them: a task run for each worker, with its
commits as log lines. Prefect is never asked what is done, so that it may be absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import wait
from prefect.states import Completed, Failed

from flows.crew import Crew
from flows.stopping import Stopping
from infra.store import join_uri
from manifests.commits import REPORT_NAME, Counts, Index
from manifests.job import Limits, job_from_dict
from tasks.devices import devices_for
from tasks.fork_server import rendering_fork_server
from tasks.planning import open_prepared, plan_items, store_plan
from tasks.report import publish
from tasks.resolving import resolve_job
from tasks.run_folder import open_run


@flow(name="stylefarm", flow_run_name="{name}", persist_result=False, validate_parameters=False)
def run_job(name: str, job: dict[str, Any], base: str) -> State[Any]:
    """Plans a job, works on it with every device of this machine, and publishes the result.

    Args:
        name: the name that Prefect shows.
        job: the job, as `manifests.job.Job` dumps it.
        base: the folder that the job's relative paths start from.

    Returns:
        Completed with the run's counts, or Failed where shards are still pending or more items
        failed than the job allows.
    """
    with rendering_fork_server() as server:
        run_uri = prepare(job, base)
        parsed = job_from_dict(job)
        device_type = open_run(run_uri)[1].device_type
        devices = devices_for(device_type, parsed.compute.device, parsed.compute.workers)
        with Crew(run_uri, devices, parsed.compute, server=server, stopping=Stopping()) as crew:
            return _follow(crew, parsed.limits, lambda: publish(run_uri))


def show_crew(name: str, crew: Crew, limits: Limits, finish: Callable[[], Index]) -> State[Any]:
    """Shows workers that work already, as a flow run that ends when they have.

    Args:
        name: the name that Prefect shows.
        crew: the workers.
        limits: how many items may fail in a run that Prefect calls completed.
        finish: publishes the run.

    Returns:
        The state of the flow run; it is no judgement that the caller has to know.
    """

    @flow(name="stylefarm", flow_run_name="{name}", persist_result=False, validate_parameters=False)
    def work(name: str, run_uri: str) -> State[Any]:
        return _follow(crew, limits, finish)

    return work(name, crew.run_uri, return_state=True)


def _follow(crew: Crew, limits: Limits, finish: Callable[[], Index]) -> State[Any]:
    """A task run for each worker until all have ended; then the run is published and described."""

    @task(name="work", task_run_name="work-{number}-{device}", cache_policy=NO_CACHE)
    def follow_worker(number: int, device: str) -> State[Any]:
        logger, num_committed = get_run_logger(), 0
        for commit in crew.commits(number):
            num_committed += 1
            logger.info(
                "shard %s is committed after %.1f s: %s",
                *(commit.shard, commit.seconds, _told(commit.counts)),
            )
        crew.result(number)  # raises what ended it
        return Completed(message=f"{num_committed} shards committed")

    wait([follow_worker.submit(number, device) for number, device in enumerate(crew.devices)])
    if crew.wait():
        return Failed(message="stopped; run the same job again to finish")
    index = finish()
    counts = index.counts
    _describe(crew.run_uri, counts)
    allowed = limits.allows(counts.failed, counts.planned)
    outcome = Completed if allowed and index.complete else Failed
    return outcome(message=_told(counts))


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


def _describe(run_uri: str, counts: Counts) -> None:
    """Saves the counts and a link to the report with the flow run, as Prefect artifacts."""
    table = [counts.model_dump()]
    create_table_artifact(key="stylefarm-counts", table=table, description=f"Items of {run_uri}")
    report = join_uri(run_uri, REPORT_NAME)
    link = report if "://" in report else Path(report).absolute().as_uri()
    create_link_artifact(key="stylefarm-report", link=link, link_text="Report with pictures")


def _told(counts: Counts) -> str:
    return ", ".join(f"{number} {status}" for status, number in counts)
