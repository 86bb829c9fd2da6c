"""What the commands on run folders do, step by step, and what they print."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from flows.bars import counting_bar, progress_shown
from flows.crew import Crew
from flows.presets import warn_of_prompts
from flows.progress import RunProgress
from flows.stopping import Stopping
from flows.terminal import MAX_LINES, Terminal
from infra.prefect_api import PrefectUnavailable
from infra.store import Store, join_uri
from manifests.commits import REPORT_NAME, Index, RunRecord
from manifests.items import Item
from manifests.job import Compute, Job, Limits
from manifests.plan_table import PlanFile
from tasks.committed import failed_rows, open_committed
from tasks.contact_sheet import CONTACT_SHEET_NAME
from tasks.dated_output import point_latest
from tasks.devices import DeviceType, devices_for
from tasks.extending import extend
from tasks.faults import Stopped
from tasks.planning import PreparedRun, open_prepared, plan_items, store_plan
from tasks.report import publish
from tasks.resolving import ResolvedJob
from tasks.retrying import Retry, retry
from tasks.run_folder import has_pending_shards, open_run, recorded_job
from tasks.run_plan import RunPlan
from tasks.source_changes import ignored_settings, source_changes
from tasks.stop_request import ask_to_stop

DRY_RUN = "Dry run: nothing was written."


def show_dry_run(terminal: Terminal, resolved: ResolvedJob) -> None:
    """Checks the inputs and plans, and prints what would be done."""
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    if found := open_prepared(resolved):
        _show_changes(terminal, resolved, found)
    _show_plan(terminal, found.plan if found else _plan(terminal, resolved))
    terminal.say(DRY_RUN)


def prepare(terminal: Terminal, resolved: ResolvedJob) -> PreparedRun:
    """The run of a job: the one that its folder holds, or a new one, planned and stored."""
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    prepared = open_prepared(resolved)
    if prepared is not None:
        _show_changes(terminal, resolved, prepared)
    else:
        prepared = store_plan(resolved, _plan(terminal, resolved))
        _show_plan(terminal, prepared.plan)
        if not prepared.run.conditional_put:
            terminal.say(
                "This store does not honour conditional writes: let only one stylefarm at a time "
                "work on this run folder.",
                "yellow",
            )
    point_latest(resolved.place, prepared.uri)
    return prepared


def extend_run(terminal: Terminal, resolved: ResolvedJob, *, dry_run: bool) -> bool:
    """Plans what is new in the sources of a run, and says what that is.

    Returns:
        Whether the run has shards to render now.
    """
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    with counting_bar(terminal, "checking inputs") as advance:
        extension = extend(resolved, lambda inspected: advance(), dry_run=dry_run)
    _show_passed_over(terminal, resolved)
    if extension is not None:
        _show_problems(terminal, extension.problems)
        terminal.say_list(extension.sentences, "yellow", rest="more sentences")
    if extension is None or not extension.num_items:
        terminal.say("Nothing is new: every input of the job is planned.")
    else:
        line = f"Planned {_counted(extension.num_items, 'new item')}"
        if extension.num_replacing:
            line += f"; {extension.num_replacing} of them replace items whose inputs have changed"
        terminal.say(f"{line}.")
    if not dry_run:
        point_latest(resolved.place, resolved.output_uri)
    return _planned_or_dry(terminal, resolved.output_uri, dry_run)


def retry_items(
    terminal: Terminal,
    uri: str,
    *,
    classes: Sequence[str],
    overrides: Mapping[str, str],
    dry_run: bool,
) -> Retry | None:
    """Plans failed items of a run again, and says which.

    Returns:
        What was planned, where the run has shards to render now.
    """
    retried = retry(uri, classes=classes, overrides=overrides, dry_run=dry_run)
    terminal.say_list(retried.sentences, "yellow", rest="more sentences")
    if retried.by_class:
        number = sum(retried.by_class.values())
        told = ", ".join(f"{number} {name}" for name, number in retried.by_class.items())
        changed = "".join(f"; {name} is {value} now" for name, value in retried.changes.items())
        terminal.say(f"Trying {_counted(number, 'failed item')} again ({told}){changed}.")
    else:
        terminal.say("Nothing to try again: no failed item is of these classes.")
    return retried if _planned_or_dry(terminal, uri, dry_run) else None


def job_of(uri: str, compute: Compute) -> Job:
    """The job of a run, computed in another way."""
    _, run = open_run(uri)
    return recorded_job(run).model_copy(update={"compute": compute})


def _planned_or_dry(terminal: Terminal, uri: str, dry_run: bool) -> bool:
    """Whether the run has shards to render now; nothing is rendered in a dry run."""
    if dry_run:
        terminal.say(DRY_RUN)
    return not dry_run and has_pending_shards(*open_run(uri))


def finish(
    terminal: Terminal,
    stopping: Stopping,
    uri: str,
    job: Job,
    name: str,
    device_type: DeviceType | None = None,
) -> Index:
    """Renders what is pending with every device of this machine, and publishes.

    Args:
        terminal: where progress is shown.
        stopping: whether to stop.
        uri: the run folder.
        job: its `compute` says how, its `limits` how much may fail.
        name: what Prefect calls the flow run.
        device_type: the kind of device to render on; the run's unless given.

    Returns:
        What the commits say.

    Raises:
        Stopped: somebody asked this process, or all workers, to stop.
        Exception: what ended the workers; see `Crew.wait`.
    """
    store, run = open_run(uri)
    progress = _progress(terminal, store, run)
    if not progress.num_shards_left:
        terminal.say("Nothing to do: every planned item is done.")
        return publish(uri)
    publish_once = cache(lambda: publish(uri))
    kind = device_type or run.device_type
    devices = devices_for(kind, job.compute.device, job.compute.workers)

    def finish_run() -> Index:
        progress.publish()
        return publish_once()

    with (
        progress_shown(terminal, progress),
        Crew(uri, devices, job.compute, stopping=stopping, tell=progress.tell) as crew,
    ):
        _show_in_prefect(terminal, name, crew, job.limits, finish_run)
        if crew.wait():
            raise _stopped(terminal, stopping)
        return finish_run()


def work_on(
    terminal: Terminal, stopping: Stopping, uri: str, device: str, max_shards: int | None
) -> None:
    """Renders pending shards of a run with one device, beside whoever else does."""
    store, run = open_run(uri)
    compute = recorded_job(run).compute
    progress = _progress(terminal, store, run)
    if not progress.num_shards_left:
        terminal.say("Nothing to do: every planned item is done.")
        return
    devices = devices_for(run.device_type, device, 1)
    crew = Crew(
        *(uri, devices, compute),
        stopping=stopping,
        tell=progress.tell,
        max_shards=max_shards,
    )
    with progress_shown(terminal, progress), crew:
        if crew.wait():
            raise _stopped(terminal, stopping)
    num_committed = crew.result(0).num_committed
    terminal.say(f"This worker has committed {_counted(num_committed, 'shard')}.")
    if progress.num_shards_left:
        terminal.say(f"Of the run {_counted(progress.num_shards_left, 'shard')} are left.")
    else:
        terminal.say(f"The run is complete; publish it with: stylefarm report {uri}")


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
    parts.append(_counted(len(index.shards), "shard"))
    parts.append(f"{seconds:.0f} s rendering ({seconds / max(1, counts.ok):.1f} s an image)")
    terminal.say(" · ".join(parts))
    terminal.say(f"report: {join_uri(uri, REPORT_NAME)}")
    if job.sweep_entries:
        terminal.say(f"side by side: {join_uri(uri, CONTACT_SHEET_NAME)}")


def show_failed_items(terminal: Terminal, job: Job, uri: str, index: Index) -> None:
    """Prints which items failed and why, and what to do about it."""
    classes = ", ".join(f"{number} {name}" for name, number in sorted(index.stats.errors.items()))
    terminal.say(f"{_counted(index.counts.failed, 'item')} failed ({classes}):", "red")
    lines = (
        f"{row['key']}: {row['error_class']}: {row['error_message']}"
        for row in failed_rows(*open_run(uri), MAX_LINES)
    )
    terminal.say_list(lines, "red", rest="more", num_lines=index.counts.failed)
    terminal.say(
        f"More items failed than limits.max_failed allows ({job.limits.max_failed}). Correct their "
        f"inputs and try them again with 'stylefarm retry {uri}', or raise limits.max_failed (a "
        "number, or a share such as 2%).",
        "red",
    )


def show_report(terminal: Terminal, uri: str, show: bool) -> None:
    """Makes the page again and says where it is."""
    publish(uri)
    page = join_uri(uri, REPORT_NAME)
    terminal.say(page)
    if show and _has_screen():
        webbrowser.open(page if "://" in page else Path(page).as_uri())


def _has_screen() -> bool:
    """Whether a browser has somewhere to open; without a screen it would take the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def _progress(terminal: Terminal, store: Store, run: RunRecord) -> RunProgress:
    """How far the run is before this command does anything; said where something is done."""
    committed = open_committed(store, run)
    shards = {name: shard.num_items for name, shard in committed.plan.shards.items()}
    progress = RunProgress(shards, committed.live)
    now = progress.read()
    if now.milestones and progress.num_shards_left:
        terminal.say(f"Resuming: {now.done:.0f} of {now.total:.0f} items are committed.")
    return progress


def _show_in_prefect(
    terminal: Terminal, name: str, crew: Crew, limits: Limits, finish_run: Callable[[], Index]
) -> None:
    """Shows the workers in Prefect until they have ended. Where Prefect does not work, says so.

    Prefect only watches, so its trouble is never the run's.
    """
    try:
        from infra.prefect_api import prefect_api

        with prefect_api():
            from flows.job import show_crew

            state = show_crew(name, crew, limits, finish_run)
            error = state.result(raise_on_failure=False)
            if isinstance(error, BaseException) and crew.is_working():
                raise error
    except Exception as error:
        kind = "" if isinstance(error, PrefectUnavailable) else f"{type(error).__name__}: "
        terminal.say(
            f"Rendering goes on without Prefect, which only shows it: {kind}{error}", "yellow"
        )


def _stopped(terminal: Terminal, stopping: Stopping) -> Stopped:
    """What ends a command whose workers were stopped; a signal is answered by the main thread."""
    if not stopping.asked():
        terminal.say("Stopped, as all workers of this run were asked to stop.", "yellow")
    return Stopped("stopped")


def _plan(terminal: Terminal, resolved: ResolvedJob) -> PlanFile:
    with counting_bar(terminal, "checking inputs") as advance:
        plan = plan_items(resolved, lambda inspected: advance())
    _show_passed_over(terminal, resolved)
    return plan


def _show_passed_over(terminal: Terminal, resolved: ResolvedJob) -> None:
    for role, passed_over in resolved.inputs.passed_over.items():
        if passed_over:
            terminal.say(f"{role}: {passed_over}", "yellow")


def _show_changes(terminal: Terminal, resolved: ResolvedJob, found: PreparedRun) -> None:
    """Says what of the sources has changed since they were planned, and what is not followed."""
    sentences = source_changes(resolved, found.plan).sentences
    terminal.say_list(sentences, "yellow", rest="more changes")
    ignored = ignored_settings(resolved, found.run)
    terminal.say_list(ignored, "yellow", rest="more settings")


def _show_plan(terminal: Terminal, plan: PlanFile | RunPlan) -> None:
    broken = list(plan.problems())
    _show_problems(terminal, broken)
    items, shards = _counted(plan.num_items, "item"), _counted(len(plan.shards), "shard")
    line = f"Planned {items} in {shards}"
    if broken:
        line += f"; {len(broken)} cannot be rendered and will be recorded as failed"
    terminal.say(f"{line}.")


def _show_problems(terminal: Terminal, items: Iterable[Item]) -> None:
    problems = dict.fromkeys(
        f"{item.problem.error_class.value}: {item.problem.message}"
        for item in items
        if item.problem
    )
    terminal.say_list(problems, "yellow", rest="more problems")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
