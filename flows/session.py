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
from flows.observing import Observer
from flows.progress import STOPPED, RunEnd
from flows.terminal import MAX_LINES, Terminal, counted
from flows.working import BUDGET_SPENT, RunWork, Worked
from infra.store import join_uri, open_store
from manifests.commits import INDEX_NAME, REPORT_NAME, Index
from manifests.job import Job
from tasks.results.contact_sheet import CONTACT_SHEET_NAME
from tasks.results.cost_table import cost_table
from tasks.results.failures import find_failures
from tasks.results.publishing import Publication, publish
from tasks.runs.committed import current_index, open_committed
from tasks.runs.faults import BudgetSpent, Stopped
from tasks.runs.run_folder import open_run, recorded_job
from tasks.work.stop_request import ask_to_stop


def finish(terminal: Terminal, work: RunWork, name: str) -> Index:
    """Renders what is pending and publishes.

    Args:
        terminal: where progress is shown.
        work: what is to be done.
        name: what Prefect calls the flow run.

    Returns:
        What the commits say.

    Raises:
        Stopped: somebody asked this process, or all workers, to stop.
        BudgetSpent: the budget does not cover what is left; what was in hand is published.
        Exception: what ended the workers; see `Crew.wait`.
    """
    if not _begin(terminal, work):
        return _nothing_to_do(terminal, work)
    return _finish(terminal, work, name).index or current_index(work.store, work.run)


def work_on(terminal: Terminal, work: RunWork) -> None:
    """Renders pending shards of a run with one device, beside whoever else does.

    Raises:
        As `finish`.
    """
    if not _begin(terminal, work):
        _nothing_to_do(terminal, work)
        return
    # Many of them may work side by side: none starts a server of its own.
    worked = _finish(terminal, work, f"work-on-{work.shown.name}", may_start_server=False)
    terminal.say(f"This worker has committed {counted(worked.num_committed, 'shard')}.")
    if num_left := work.progress.num_shards_left:
        terminal.say(f"Of the run {counted(num_left, 'shard')} are left.")
    else:
        terminal.say(f"The run is complete: {join_uri(work.uri, REPORT_NAME)}")


def _begin(terminal: Terminal, work: RunWork) -> bool:
    """Says how far the run is; tells whether something is left to do."""
    now, num_left = work.progress.read(), work.progress.num_shards_left
    if now.milestones and num_left:
        terminal.say(f"Resuming: {now.done:.0f} of {now.total:.0f} items are committed.")
    return num_left > 0


def _finish(
    terminal: Terminal, work: RunWork, name: str, *, may_start_server: bool = True
) -> Worked:
    """Renders and publishes, and shows it here and in Prefect; raises as `finish`."""
    with (
        progress_shown(terminal, work.progress),
        _observer(terminal, work, name, may_start_server=may_start_server) as observer,
    ):
        worked = work.finish(terminal, observer.tell)
        if worked.end.name == STOPPED:
            if not work.stopping.asked():  # a signal is answered by the main thread
                told = "Stopped, as all workers of this run were asked to stop."
                terminal.say(told, "yellow")
            raise Stopped("stopped")
        observer.tell_end(worked.end)
        if worked.end.name == BUDGET_SPENT:
            raise BudgetSpent(worked.end.message)
        return worked


def _observer(terminal: Terminal, work: RunWork, name: str, *, may_start_server: bool) -> Observer:
    return Observer(
        *(name, work.shown, work.progress),
        stopping=work.stopping,
        say=partial(terminal.say, style="yellow"),
        may_start_server=may_start_server,
    )


def _nothing_to_do(terminal: Terminal, work: RunWork) -> Index:
    """Publishes a run of which nothing is left; Prefect is told of its end unless that was done."""
    terminal.say("Nothing to do: every planned item is done.")
    publication = Publication(work.store, work.run)
    if publication.is_up_to_date():
        return publication.publish()
    name = f"publish-{work.shown.name}"
    with _observer(terminal, work, name, may_start_server=False) as observer:
        index = publication.publish()
        observer.tell_end(RunEnd.of(index, recorded_job(work.run).limits))
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
