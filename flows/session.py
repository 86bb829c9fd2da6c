"""What commands do with a planned run, and what they print: render, stop, tell what came of it."""

from __future__ import annotations

import os
import sys
import webbrowser
from functools import partial
from itertools import islice
from typing import Any

from flows.bars import progress_shown
from flows.cost_table import cost_document, show_cost_table
from flows.crew import LocalCrew
from flows.crews import crew_of
from flows.observing import Observer
from flows.outlook import RunOutlook
from flows.progress import RunEnd, RunProgress
from flows.shown_run import shown_run
from flows.spending import refuse_spent, run_end
from flows.stopping import Stopping
from flows.telling import tell_all
from flows.terminal import MAX_LINES, Terminal, counted
from infra.store import Store, join_uri, open_store
from manifests.budget import Bounds
from manifests.commits import INDEX_NAME, REPORT_NAME, Index, RunRecord
from manifests.job import Job
from tasks.inputs.devices import DeviceType, devices_for
from tasks.results.contact_sheet import CONTACT_SHEET_NAME
from tasks.results.cost_table import cost_table
from tasks.results.failures import find_failures
from tasks.results.publishing import Publication, publish
from tasks.runs.committed import Committed, open_committed
from tasks.runs.faults import Stopped
from tasks.runs.run_folder import open_run, recorded_job
from tasks.work.fork_server import ForkServer
from tasks.work.stop_request import ask_to_stop


def finish(
    terminal: Terminal,
    stopping: Stopping,
    server: ForkServer,
    uri: str,
    job: Job,
    name: str,
    bounds: Bounds,
    device_type: DeviceType | None = None,
) -> Index:
    """Renders what is pending with the workers that the job asks for, and publishes.

    Args:
        terminal: where progress is shown.
        stopping: whether to stop.
        server: forks the rendering processes.
        uri: the run folder.
        job: its `compute` says how, its `limits` how much may fail.
        name: what Prefect calls the flow run.
        bounds: the budget of the run.
        device_type: the kind of device to render on; the run's unless given.

    Returns:
        What the commits say.

    Raises:
        Stopped: somebody asked this process, or all workers, to stop.
        BudgetSpent: the budget does not cover what is left; what was in hand is published.
        Exception: what ended the workers; see `Crew.wait`.
    """
    store, run = open_run(uri)
    committed = open_committed(store, run)
    progress = _progress(terminal, committed)
    if not progress.num_shards_left:
        return _nothing_to_do(terminal, stopping, store, run, progress)
    say = partial(terminal.say, style="yellow")
    observer = Observer(name, shown_run(uri, run), progress, stopping=stopping, say=say)
    outlook = RunOutlook(terminal, store, committed, job, device_type or run.device_type)
    tell = tell_all(progress.tell, observer.tell, outlook.tell)
    with (
        progress_shown(terminal, progress),
        observer,
        crew_of(
            *(uri, run, job.compute),
            device_type=device_type,
            server=server,
            stopping=stopping,
            bounds=bounds,
            tell=tell,
        ) as crew,
    ):
        outlook.say(crew)
        if crew.wait():
            raise _stopped(terminal, stopping)
        progress.publish()
        index = publish(uri)
        end = run_end(crew, index, job.limits, bounds)
        observer.tell_end(end)
        refuse_spent(end)
        return index


def work_on(
    terminal: Terminal,
    stopping: Stopping,
    server: ForkServer,
    uri: str,
    device: str,
    max_shards: int | None,
    bounds: Bounds,
) -> None:
    """Renders pending shards of a run with one device, beside whoever else does.

    Raises:
        BudgetSpent: the budget does not cover what is left; what was in hand is published.
        Stopped: somebody asked this process, or all workers, to stop.
        Exception: what ended the worker; see `Crew.wait`.
    """
    store, run = open_run(uri)
    job = recorded_job(run)
    committed = open_committed(store, run)
    progress = _progress(terminal, committed)
    if not progress.num_shards_left:
        _nothing_to_do(terminal, stopping, store, run, progress)
        return
    devices = devices_for(run.device_type, device, 1)
    shown = shown_run(uri, run)
    observer = Observer(
        *(f"work-on-{shown.name}", shown, progress),
        stopping=stopping,
        say=partial(terminal.say, style="yellow"),
        may_start_server=False,  # many of them may work side by side
    )
    outlook = RunOutlook(terminal, store, committed, job, run.device_type)
    with (
        progress_shown(terminal, progress),
        observer,
        LocalCrew(
            *(uri, devices, job.compute),
            server=server,
            stopping=stopping,
            tell=tell_all(progress.tell, observer.tell, outlook.tell),
            max_shards=max_shards,
            bounds=bounds,
        ) as crew,
    ):
        outlook.say(crew)
        if crew.wait():
            raise _stopped(terminal, stopping)
        num_committed = crew.result(0).num_committed
        if progress.num_shards_left and crew.uncovered_seconds is None:
            end = RunEnd.of_part(num_committed, progress.num_shards_left)
        else:
            end = run_end(crew, publish(uri), job.limits, bounds)
        observer.tell_end(end)
        refuse_spent(end)
    terminal.say(f"This worker has committed {counted(num_committed, 'shard')}.")
    if progress.num_shards_left:
        terminal.say(f"Of the run {counted(progress.num_shards_left, 'shard')} are left.")
    else:
        terminal.say(f"The run is complete: {join_uri(uri, REPORT_NAME)}")


def _nothing_to_do(
    terminal: Terminal, stopping: Stopping, store: Store, run: RunRecord, progress: RunProgress
) -> Index:
    """Publishes a run of which nothing is left; Prefect is told of its end unless that was done."""
    terminal.say("Nothing to do: every planned item is done.")
    publication = Publication(store, run)
    if publication.is_up_to_date():
        return publication.publish()
    shown = shown_run(store.uri, run)
    say = partial(terminal.say, style="yellow")
    with Observer(
        *(f"publish-{shown.name}", shown, progress),
        stopping=stopping,
        say=say,
        may_start_server=False,
    ) as observer:
        index = publication.publish()
        observer.tell_end(RunEnd.of(index, recorded_job(run).limits))
        return index


def stop_run(terminal: Terminal, uri: str) -> None:
    """Asks all workers of a run to stop."""
    store, _ = open_run(uri)
    ask_to_stop(store, "stylefarm stop")
    terminal.say(
        "All workers of this run are asked to stop; each does within a step and some seconds. "
        "'stylefarm run' or 'stylefarm work' goes on."
    )


def show_outcome(terminal: Terminal, job: Job, uri: str, index: Index) -> None:
    """Prints the counts, then where to look."""
    counts, seconds = index.counts, index.stats.render_seconds
    numbers = {"failed": counts.failed, "pending": counts.pending}
    parts = [f"{counts.ok} of {counts.planned} items ok"]
    parts += [f"{number} {name}" for name, number in numbers.items() if number]
    parts.append(counted(sum(not shard.superseded for shard in index.shards), "shard"))
    parts.append(f"{seconds:.0f} s rendering ({seconds / max(1, counts.ok):.1f} s an image)")
    terminal.say(" · ".join(parts))
    terminal.say(f"report: {join_uri(uri, REPORT_NAME)}")
    if job.columns:
        terminal.say(f"side by side: {join_uri(uri, CONTACT_SHEET_NAME)}")


def show_failed_items(terminal: Terminal, job: Job, uri: str, index: Index) -> None:
    """Prints which items failed and why, and what to do about it."""
    classes = ", ".join(f"{number} {name}" for name, number in sorted(index.stats.errors.items()))
    terminal.say(f"{counted(index.counts.failed, 'item')} failed ({classes}):", "red")
    lines = (
        f"{row['key']}: {row['error_class']}: {row['error_message']}"
        for row in islice(find_failures(uri).rows, MAX_LINES)
    )
    terminal.say_list(lines, "red", rest="more", num_lines=index.counts.failed)
    terminal.say(
        f"More items failed than limits.max_failed allows ({job.limits.max_failed}). Correct their "
        f"inputs and try them again with 'stylefarm retry {uri}', or raise limits.max_failed (a "
        "number, or a share such as 2%).",
        "red",
    )


def show_report(
    terminal: Terminal, uri: str, show: bool, *, with_table: bool = False, as_json: bool = False
) -> None:
    """Makes the page again and says where it is, and where it is asked for what entries cost."""
    index = publish(uri)
    page = join_uri(uri, REPORT_NAME)
    table = cost_table(open_committed(*open_run(uri))) if with_table else None
    if as_json:
        costs = {"table": cost_document(table)} if table else {}
        terminal.print_json(_report_document(uri, page, index) | costs)
    else:
        terminal.say(page)
        if table:
            show_cost_table(terminal, table)
    if show and _has_screen():
        webbrowser.open(open_store(uri).link(REPORT_NAME).url)


def _report_document(uri: str, page: str, index: Index) -> dict[str, Any]:
    return {
        "run": uri,
        "complete": index.complete,
        "items": index.counts.model_dump(),
        "report": page,
        "index": join_uri(uri, INDEX_NAME),
        "metadata": [join_uri(uri, part.name) for part in index.metadata],
        "content_digest": index.content_digest,
    }


def _has_screen() -> bool:
    """Whether a browser has somewhere to open; without a screen it would take the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def _progress(terminal: Terminal, committed: Committed) -> RunProgress:
    """How far the run is before this command does anything; said where something is done."""
    shards = {name: shard.num_items for name, shard in committed.plan.shards.items()}
    progress = RunProgress(shards, committed.live)
    now = progress.read()
    if now.milestones and progress.num_shards_left:
        terminal.say(f"Resuming: {now.done:.0f} of {now.total:.0f} items are committed.")
    return progress


def _stopped(terminal: Terminal, stopping: Stopping) -> Stopped:
    """What ends a command whose workers were stopped; a signal is answered by the main thread."""
    if not stopping.asked():
        terminal.say("Stopped, as all workers of this run were asked to stop.", "yellow")
    return Stopped("stopped")
