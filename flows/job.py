"""The Prefect flows to serve, deploy and schedule: run, extend, work, gc.

Each is what the command of its name does. The workers do the work and Prefect shows them; it is
never asked what is done. A flow that was cancelled, killed or crashed loses nothing: the next one
on the same run folder finishes.

Prefect may pickle a flow by value, to run it in a process of its own (`run_job.serve()` does). So a
flow itself only calls a function of this module, and its annotations are no texts, which that
process could not resolve: there is no `from __future__ import annotations` here.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import datetime
from functools import partial, wraps
from typing import Any, ParamSpec

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows import gc
from flows.exit_codes import ExitCode, explained
from flows.job_form import JobForm
from flows.logs import mask_prefect_logs
from flows.planning import begin_or_extend, prepare
from flows.progress import RunEnd
from flows.run_events import send_end, send_unplanned
from flows.run_log import RunLog
from flows.showing import end_state, show_run
from flows.shown_run import ShownRun
from flows.stopping import Stopping
from flows.telling import Telling
from flows.working import RunWork
from flows.workspace import refuse_workspace
from manifests.budget import UNLIMITED, Budget
from manifests.job import Job, with_overrides
from manifests.wording import safe_line
from tasks.inputs.dated_output import follow_latest, output_place
from tasks.inputs.output_place import DATE
from tasks.inputs.resolving import resolve_job
from tasks.runs.run_folder import open_run, recorded_job
from tasks.work.child import check_in_child
from tasks.work.fork_server import rendering_fork_server

_Given = ParamSpec("_Given")

STOP_SECONDS = 13.0
"""How long what works may take to end where a flow run is cancelled: a child has 10 to stop, and
Prefect kills this process after 30."""

mask_prefect_logs()


def _name_of_run() -> str:
    """What Prefect calls a flow run: its job's name or its run's folder, and the time."""
    given: Any = flow_run.parameters or {}
    job, overrides = given.get("job") or {}, given.get("overrides") or {}
    written: dict[str, Any] = job.model_dump() if isinstance(job, Job) else job
    name = overrides.get("name") or written.get("name")
    uri = overrides.get("output.uri") or written.get("output", {}).get("uri") or given.get("run")
    return f"{name or _folder_of(safe_line(str(uri)))}-{datetime.now():%m%d-%H%M%S}"


def _folder_of(run_uri: str) -> str:
    """The last part of a run folder's name that says something."""
    return run_uri.replace(DATE, "").rstrip("/-").rpartition("/")[2]


@flow(name="stylefarm-run", flow_run_name=_name_of_run, persist_result=False)
def run_job(
    job: JobForm,
    overrides: dict[str, Any] | None = None,
    base: str = ".",
    budget: Budget = UNLIMITED,
) -> State[Any]:
    """Plans a job, works on it with the workers that it asks for, and publishes the result.

    Args:
        job: what a job file holds.
        overrides: dotted key → value, such as `output.size` → 256; replaces keys of the job.
        base: the folder that the job's relative paths start from.
        budget: what the run may cost.

    Returns:
        Completed with the run's counts, or Failed with what is wrong: a job that cannot be done,
        shards that are still pending, or more failed items than the job allows.
    """
    return _make(job, overrides, base, budget)


@flow(name="stylefarm-extend", flow_run_name=_name_of_run, persist_result=False)
def extend_job(
    job: JobForm,
    overrides: dict[str, Any] | None = None,
    base: str = ".",
    budget: Budget = UNLIMITED,
) -> State[Any]:
    """Plans what is new in a job's sources, or begins its run, and makes those pictures.

    Args:
        job: what a job file holds.
        overrides: dotted key → value, such as `output.size` → 256; replaces keys of the job.
        base: the folder that the job's relative paths start from.
        budget: what the run may cost.

    Returns:
        As of `run_job`.
    """
    return _make(job, overrides, base, budget, is_extension=True)


@flow(name="stylefarm-work", flow_run_name=_name_of_run, persist_result=False)
def work_on_run(
    run: str,
    device: str = "auto",
    max_shards: int | None = None,
    budget: Budget = UNLIMITED,
) -> State[Any]:
    """Joins a planned run with one device, beside whoever else works on it.

    Args:
        run: the run folder.
        device: what renders, such as `cuda:1`; `auto` takes the run's kind.
        max_shards: commits so many at most, then ends.
        budget: what the run may cost.

    Returns:
        As of `run_job`.
    """
    return _join(run, device, max_shards, budget)


@flow(name="stylefarm-gc", flow_run_name=_name_of_run, persist_result=False)
def collect_garbage(run: str, older_than: str = "2d", delete: bool = True) -> State[Any]:
    """Deletes what nobody needs of a run folder and of this machine's scratch.

    Args:
        run: the run folder.
        older_than: leaves what was written later, such as `2d` or `12h`.
        delete: false only tells what would go.
    """
    return _collect(run, older_than, delete)


def _failed_in_words(make: Callable[_Given, State[Any]]) -> Callable[_Given, State[Any]]:
    """What makes a flow run Failed with the sentence that the command would print.

    The log has where our own bugs are; Prefect would store what they say as it is.
    """

    @wraps(make)
    def make_or_fail(*args: _Given.args, **options: _Given.kwargs) -> State[Any]:
        try:
            return make(*args, **options)
        except Exception as error:
            sentence, code = explained(error)
            get_run_logger().error("%s", sentence, exc_info=code is ExitCode.BUG)
            return Failed(message=sentence, data=error.with_traceback(None))

    return make_or_fail


@_failed_in_words
def _make(
    job: Job,
    overrides: dict[str, Any] | None,
    base: str,
    budget: Budget,
    *,
    is_extension: bool = False,
) -> State[Any]:
    with rendering_fork_server() as server:
        with _told_where_it_fails(job):
            wanted = with_overrides(job, overrides or {})
            refuse_workspace(output_place(wanted.output.uri, base).uri)
            bounds = budget.bounds(wanted.compute.price_per_hour, datetime.now().astimezone())
            resolved = resolve_job(
                wanted,
                base,
                will_render=True,
                for_extension=is_extension,
                check=partial(check_in_child, server),
            )
            plan = begin_or_extend if is_extension else prepare
            uri = plan(RunLog(get_run_logger()), resolved)
        return _finish(RunWork(uri, wanted, server=server, stopping=Stopping(), bounds=bounds))


@contextmanager
def _told_where_it_fails(job: Job) -> Iterator[None]:
    """Sends an event where a job ends before there is a run of it."""
    try:
        yield
    except Exception as error:
        send_unplanned(job.name or _folder_of(job.output.uri), job.output.uri, explained(error)[0])
        raise


@_failed_in_words
def _join(run: str, device: str, max_shards: int | None, budget: Budget) -> State[Any]:
    uri = follow_latest(run)
    job = recorded_job(open_run(uri)[1])
    bounds = budget.bounds(job.compute.price_per_hour, datetime.now().astimezone())
    with rendering_fork_server() as server:
        work = RunWork(
            *(uri, job),
            server=server,
            stopping=Stopping(),
            bounds=bounds,
            device=device,
            max_shards=max_shards,
        )
        return _finish(work)


@_failed_in_words
def _collect(run: str, older_than: str, delete: bool) -> State[Any]:
    log, uri = RunLog(get_run_logger()), follow_latest(run)
    return Completed(message=gc.collect_garbage(log, uri, older_than=older_than, delete=delete))


def _finish(work: RunWork) -> State[Any]:
    """Renders what is pending and shows it, until the run has ended or this flow is to end.

    Where the flow run is cancelled, Prefect raises `TerminationSignal` in here: the shards in hand
    are given up within a step, and what renders them ends.
    """
    telling = Telling(work.progress)
    ended = _in_background(partial(_work, work, RunLog(get_run_logger()), telling))
    try:
        state = _shown_to_its_end(work.shown, telling, ended)
    except BaseException:
        work.stopping.ask()
        wait([ended], STOP_SECONDS)
        work.stopping.give_up()
        raise
    ended.result()  # raises what ended the workers
    return state


def _in_background(work: Callable[[], RunEnd]) -> Future[RunEnd]:
    """Does something in a thread that does not keep this process alive."""
    done = Future[RunEnd]()

    def do() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=do, name="stylefarm", daemon=True).start()
    return done


def _shown_to_its_end(run: ShownRun, telling: Telling, work: Future[RunEnd]) -> State[Any]:
    try:
        return show_run(run, telling)
    except Exception as error:
        get_run_logger().warning("Prefect does not show the rest of this run: %s", error)
        end = work.result()
        send_end(run, end)  # the server may be back
        return end_state(end)


def _work(work: RunWork, log: RunLog, telling: Telling) -> RunEnd:
    """Waits until nothing is pending, publishes, and tells how that ended."""
    end = RunEnd(is_good=False, message="ended by a fault")
    try:
        end = work.finish(log, telling.tell).end
    except Exception as error:
        end = RunEnd(is_good=False, message=explained(error)[0])
        raise
    finally:
        telling.end(end)
    return end
