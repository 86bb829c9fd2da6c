"""How does Prefect show a run? A task run for each worker, its commits as log lines and events.

What is shown is only told: nothing that Prefect answers changes what is rendered.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed

from flows.progress import RunEnd, Snapshot
from flows.telling import Told
from infra.store import join_uri
from manifests.commits import REPORT_NAME, Counts
from tasks.work.events import Began, Committed, Ended, Restarted, Waiting, WorkEvent

WorkerEvents = queue.SimpleQueue[WorkEvent | None]


def show_flow_run(name: str, run_uri: str, told: Iterable[Told]) -> None:
    """Shows a run as a flow run of its own, until its end is told.

    Args:
        name: what Prefect calls the flow run.
        run_uri: the run folder.
        told: as in `show_run`.

    Raises:
        Exception: Prefect does not show it; whatever its client, or its server, was refused.
    """

    @flow(name="stylefarm", flow_run_name="{name}", persist_result=False, validate_parameters=False)
    def work(name: str, run_uri: str) -> State[Any]:
        return show_run(run_uri, told)

    state = work(name, run_uri, return_state=True)
    error = state.result(raise_on_failure=False)
    if isinstance(error, Exception) and not isinstance(error, FailedRun):  # that is the run's
        raise error


def show_run(run_uri: str, told: Iterable[Told]) -> State[Any]:
    """Shows a run in the flow run that calls this, until its end is told.

    Args:
        run_uri: the run folder.
        told: waited for, one by one; what comes after a `RunEnd` is not read.

    Returns:
        Completed with the run's counts, or Failed with what ended it.
    """
    workers, shown = _Workers(run_uri), _ShownProgress()
    end = RunEnd(is_good=False, message="nobody told how it ended")
    try:
        for one in told:
            if isinstance(one, RunEnd):
                end = one
                break
            if isinstance(one, Snapshot):
                shown.show(one)
            else:
                workers.tell(one)
    finally:
        workers.end()  # else they would wait for ever where this flow run is cancelled
    if end.counts is not None:
        _describe(run_uri, end.counts)
    return end_state(end)


def end_state(end: RunEnd) -> State[Any]:
    """The state of a flow run whose run has ended so."""
    outcome = Completed if end.is_good else Failed
    return outcome(message=end.message)


class _Workers:
    """The task runs of workers, each begun when its worker is first heard of."""

    def __init__(self, run_uri: str) -> None:
        self._run_uri = run_uri
        self._events: dict[str, WorkerEvents] = {}
        self._task_runs: list[PrefectFuture[Any]] = []

    def tell(self, event: WorkEvent) -> None:
        if isinstance(event, Began):
            events = self._events[event.worker] = queue.SimpleQueue()
            number = len(self._task_runs)
            self._task_runs.append(
                follow_worker.submit(number, event.device, event.host, self._run_uri, events)
            )
        elif event.worker in self._events:
            self._events[event.worker].put(event)

    def end(self) -> None:
        """Ends the task runs of workers that have not told their own end."""
        for events in self._events.values():
            events.put(None)
        wait(self._task_runs)


@task(name="work", task_run_name="work-{number}-{device}", cache_policy=NO_CACHE)
def follow_worker(
    number: int, device: str, host: str, run_uri: str, events: WorkerEvents
) -> State[Any]:
    """Shows one worker until it ends."""
    logger, num_committed = get_run_logger(), 0
    logger.info("worker %d renders on %s of %s", number, device, host)
    for event in iter(events.get, None):
        if isinstance(event, Committed):
            num_committed += 1
            _show_commit(run_uri, event, logger)
        elif isinstance(event, Restarted):
            logger.warning("shard %s goes on with a fresh child: %s", event.shard, event.reason)
        elif isinstance(event, Waiting):
            logger.warning("waiting: %s", event.reason)
        elif isinstance(event, Ended):
            if event.reason is not None:
                return Failed(message=event.reason)
            break
    return Completed(message=f"{num_committed} shards committed")


def _show_commit(
    run_uri: str, commit: Committed, logger: logging.Logger | logging.LoggerAdapter[Any]
) -> None:
    counts = dict(commit.counts)
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    logger.info("shard %s is committed after %.1f s: %s", commit.shard, commit.seconds, told)
    emit_event(
        "stylefarm.shard.committed",
        resource={"prefect.resource.id": f"stylefarm.shard.{commit.shard}", "run_uri": run_uri},
        payload={"shard": commit.shard, "seconds": commit.seconds, "counts": counts},
    )


class _ShownProgress:
    """The progress artifact of a flow run, made when the first progress is told."""

    def __init__(self) -> None:
        self._artifact: Any = None

    def show(self, now: Snapshot) -> None:
        percent = 100 * now.done / max(1, now.total)
        told = f"{now.phase} · {now.figures} · ETA {now.eta}"
        if self._artifact is None:
            self._artifact = create_progress_artifact(
                percent, key="stylefarm-progress", description=told
            )
        else:
            update_progress_artifact(self._artifact, percent, description=told)


def _describe(run_uri: str, counts: Counts) -> None:
    """Saves the counts and a link to the report with the flow run, as Prefect artifacts."""
    table = [counts.model_dump()]
    create_table_artifact(key="stylefarm-counts", table=table, description=f"Items of {run_uri}")
    report = join_uri(run_uri, REPORT_NAME)
    link = report if "://" in report else Path(report).absolute().as_uri()
    create_link_artifact(key="stylefarm-report", link=link, link_text="Report with pictures")


def send_all() -> None:
    """Sends the events and log lines that wait to be sent; else they would end with the process."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()
