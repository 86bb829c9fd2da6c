"""How does Prefect show a run? A task run for each worker, its commits as log lines and events.

What is shown is only told: nothing that Prefect answers changes what is rendered.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterable, Sequence
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Cancelled, Completed, Failed

from flows.artifacts import (
    Artifacts,
    counts_artifact,
    failures_artifact,
    progress_artifact,
    report_artifact,
)
from flows.progress import STOPPED, RunEnd, Snapshot, counted_words
from flows.run_events import send_commit, send_end
from flows.run_figures import RunFigures
from flows.shown_run import ShownRun
from flows.telling import MoreFailed, Told
from infra.store import StoreError
from manifests.commits import Counts
from manifests.shard_stats import ShardStats
from manifests.wording import safe_line
from tasks.keeping.overview import Failures, Figures
from tasks.work.events import Began, Committed, Ended, ItemDone, Restarted, Waiting, WorkEvent

MAX_COMMIT_LINES, COMMITS_PER_LINE = 1000, 100
"""Commits of a worker that have a log line each; then one in so many has."""

WorkerEvents = queue.SimpleQueue[WorkEvent | None]
Logger = logging.Logger | logging.LoggerAdapter[Any]


def show_flow_run(name: str, run: ShownRun, told: Iterable[Told]) -> None:
    """Shows a run as a flow run of its own, until its end is told.

    Args:
        name: what Prefect calls the flow run.
        run: which run.
        told: as in `show_run`.

    Raises:
        Exception: Prefect does not show it; whatever its client, or its server, was refused.
    """

    @flow(name="stylefarm", flow_run_name="{name}", persist_result=False, validate_parameters=False)
    def work(name: str, run_uri: str) -> State[Any]:
        return show_run(run, told)

    state = work(name, run.uri, return_state=True)
    error = state.result(raise_on_failure=False)
    if isinstance(error, Exception) and not isinstance(error, FailedRun):  # that is the run's
        raise error


def show_run(run: ShownRun, told: Iterable[Told]) -> State[Any]:
    """Shows a run in the flow run that calls this, until its end is told.

    Args:
        run: which run.
        told: waited for, one by one; what comes after a `RunEnd` is not read.

    Returns:
        Completed with the run's counts, or Failed with what ended it.
    """
    logger = get_run_logger()
    logger.info("run folder: %s", run.uri)
    workers, tables, figures = _Workers(run), _Tables(run), RunFigures(run.uri)
    end = RunEnd(is_good=False, message="nobody told how it ended")
    try:
        for one in told:
            if isinstance(one, RunEnd):
                end = one
                break
            if isinstance(one, MoreFailed):
                logger.warning("%s", _words_of_more(one))
            elif isinstance(one, Snapshot):
                tables.show_progress(one)
                tables.show_figures(figures.look(one.milestones))
            else:
                tables.note(one)
                workers.tell(one)
    finally:  # whatever ends this, such as the flow run's cancellation
        workers.end()
    tables.show_end(figures.last(), end)
    send_end(run, end)
    return end_state(end)


def end_state(end: RunEnd) -> State[Any]:
    """The state of a flow run whose run has ended so."""
    if end.is_good:
        return Completed(message=end.message)
    if end.name == STOPPED:
        return Cancelled(message=end.message)
    return Failed(message=end.message, name=end.name)


def _words_of_more(more: MoreFailed) -> str:
    classes = ", ".join(f"{number} {name}" for name, number in sorted(more.by_class.items()))
    return f"{sum(more.by_class.values())} more items failed: {classes}"


class _Tables:
    """What is shown of a run as a whole: artifacts of its progress, counts, failures and page."""

    def __init__(self, run: ShownRun) -> None:
        self._run = run
        self._artifacts = Artifacts()
        self._examples: dict[str, ItemDone] = {}
        self._progress: Snapshot | None = None

    def note(self, event: WorkEvent) -> None:
        """Keeps a failed item as the example of its class."""
        if isinstance(event, ItemDone) and event.error_class is not None:
            self._examples.setdefault(event.error_class, event)

    def show_progress(self, now: Snapshot) -> None:
        self._progress = now
        self._artifacts.show(progress_artifact(now))

    def show_figures(self, figures: Figures | None) -> None:
        if figures is not None:
            index = figures.index
            self._show(index.counts, index.stats.errors, figures.failures)

    def show_end(self, figures: Figures | None, end: RunEnd) -> None:
        """Shows the figures of the end, those that it told where no newer ones are known."""
        if self._progress is not None:
            self._artifacts.show(progress_artifact(self._progress, end.message))
        if figures is not None:
            self.show_figures(figures)
        elif end.counts is not None:
            self._show(end.counts, dict(end.errors), self._told_failures(end))
        if end.counts is not None:
            self._link()

    def _show(self, counts: Counts, errors: dict[str, int], failures: Sequence[Failures]) -> None:
        self._artifacts.show(counts_artifact(self._run.uri, counts, errors))
        self._artifacts.show(failures_artifact(self._run.uri, failures))

    def _told_failures(self, end: RunEnd) -> list[Failures]:
        found = {name: self._examples.get(name) for name in end.errors}
        return [
            Failures(
                error_class=name,
                num_items=end.errors[name],
                key=example and example.key,
                message=example and example.message,
            )
            for name, example in found.items()
        ]

    def _link(self) -> None:
        try:
            self._artifacts.show(report_artifact(self._run.uri))
        except StoreError as error:
            get_run_logger().warning("there is no link to the report: %s", error)


class _Workers:
    """The task runs of workers, each begun when its worker is first heard of."""

    def __init__(self, run: ShownRun) -> None:
        self._run = run
        self._events: dict[str, WorkerEvents] = {}
        self._task_runs: list[PrefectFuture[Any]] = []

    def tell(self, event: WorkEvent) -> None:
        if isinstance(event, Began):
            events = self._events[event.worker] = queue.SimpleQueue()
            number = len(self._task_runs)
            self._task_runs.append(
                follow_worker.submit(number, event.device, event.host, self._run, events)
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
    number: int, device: str, host: str, run: ShownRun, events: WorkerEvents
) -> State[Any]:
    """Shows one worker until it ends."""
    logger, done, waiting_for = get_run_logger(), _Done(), None
    logger.info("worker %d renders on %s of %s", number, device, host)
    for event in iter(events.get, None):
        if isinstance(event, Waiting):  # told again and again while it lasts
            if event.reason != waiting_for:
                logger.warning("waiting: %s", event.reason)
            waiting_for = event.reason
            continue
        waiting_for = None
        if isinstance(event, Committed):
            done.add(event)
            _log_commit(event, done.num_shards, logger)
            send_commit(run, event)
        elif isinstance(event, ItemDone):
            message = safe_line(event.message or "")
            logger.warning("item %s failed: %s: %s", event.key, event.error_class, message)
        elif isinstance(event, Restarted):
            logger.warning("shard %s goes on with a fresh child: %s", event.shard, event.reason)
        elif isinstance(event, Ended):
            if event.reason is not None:
                return Failed(message=f"{event.reason} (until then: {done.words()})")
            return Completed(message=done.words())
    return Cancelled(message=f"stopped, or not heard of any more (until then: {done.words()})")


class _Done:
    """What one worker has committed so far."""

    def __init__(self) -> None:
        self.num_shards, self._seconds = 0, 0.0
        self._counts, self._stats = Counts(), ShardStats()

    def add(self, commit: Committed) -> None:
        self.num_shards += 1
        self._seconds += commit.seconds
        self._counts += commit.counts
        self._stats += commit.stats

    def words(self) -> str:
        """For people, such as `5 ok, 1 failed (1 decode) of 6 items in 3 shards, 12.0 s`."""
        if not self.num_shards:
            return "it has committed no shard"
        shards = "1 shard" if self.num_shards == 1 else f"{self.num_shards} shards"
        words = counted_words(self._counts, self._stats.errors)
        return f"{words} in {shards}, {self._seconds:.1f} s"


def _log_commit(commit: Committed, number: int, logger: Logger) -> None:
    """A line for a commit, of the first ones and then of some."""
    if number > MAX_COMMIT_LINES and number % COMMITS_PER_LINE:
        return
    words = counted_words(commit.counts, commit.stats.errors)
    logger.info("shard %s is committed after %.1f s: %s", commit.shard, commit.seconds, words)
    if number == MAX_COMMIT_LINES:
        logger.info("from now on one commit in %d has a line", COMMITS_PER_LINE)


def send_all() -> None:
    """Sends the events and log lines that wait to be sent; else they would end with the process."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all()
    EventsWorker.drain_all()
