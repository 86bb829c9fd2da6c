"""The Prefect flow that makes a job's pictures. Run it again to finish what was interrupted.

The workers do the work and Prefect shows them; it is never asked what is done.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from flows.crews import crew_of
from flows.progress import RunEnd, RunProgress
from flows.showing import end_state, show_run
from flows.stopping import Stopping
from flows.telling import Telling, tell_all
from manifests.job import Job, job_from_dict
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import open_prepared, plan_items, store_plan
from tasks.results.publishing import publish
from tasks.runs.committed import open_committed
from tasks.runs.run_folder import open_run
from tasks.work.fork_server import ForkServer, rendering_fork_server


@flow(name="stylefarm", flow_run_name="{name}", persist_result=False, validate_parameters=False)
def run_job(name: str, job: dict[str, Any], base: str) -> State[Any]:
    """Plans a job, works on it with the workers that it asks for, and publishes the result.

    Args:
        name: the name that Prefect shows.
        job: the job, as `manifests.job.Job` dumps it.
        base: the folder that the job's relative paths start from.

    Returns:
        Completed with the run's counts, or Failed where shards are still pending or more items
        failed than the job allows.
    """
    with rendering_fork_server() as server, ThreadPoolExecutor(1) as pool:
        run_uri, parsed = prepare(job, base), job_from_dict(job)
        stopping, progress = Stopping(), _progress(run_uri)
        telling = Telling(progress)
        work = pool.submit(_work, run_uri, parsed, server, stopping, progress, telling)
        try:
            state = show_run(run_uri, telling)
        except Exception as error:
            get_run_logger().warning("Prefect does not show the rest of this run: %s", error)
            state = end_state(work.result())
        finally:
            stopping.ask()
        work.result()  # raises what ended the workers
        return state


def _progress(run_uri: str) -> RunProgress:
    committed = open_committed(*open_run(run_uri))
    shards = {name: shard.num_items for name, shard in committed.plan.shards.items()}
    return RunProgress(shards, committed.live)


def _work(
    run_uri: str,
    job: Job,
    server: ForkServer,
    stopping: Stopping,
    progress: RunProgress,
    telling: Telling,
) -> RunEnd:
    """Renders what is pending, publishes, and tells how that ended."""
    end = RunEnd(is_good=False, message="ended by a fault")
    try:
        _, run = open_run(run_uri)
        tell = tell_all(progress.tell, telling.tell)
        with crew_of(
            *(run_uri, run, job.compute), server=server, stopping=stopping, tell=tell
        ) as crew:
            if crew.wait():
                end = RunEnd(is_good=False, message="stopped; run the same job again to finish")
            else:
                progress.publish()
                end = RunEnd.of(publish(run_uri), job.limits)
    except Exception as error:
        end = RunEnd(is_good=False, message=str(error))
        raise
    finally:
        telling.end(end)
    return end


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
