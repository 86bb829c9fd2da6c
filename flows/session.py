"""What `run`, `plan` and `report` do, step by step, and what they print."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from flows.bars import counting_bar, rendering_bar
from flows.presets import warn_of_prompts
from flows.terminal import MAX_LINES, Terminal
from infra.prefect_api import PrefectUnavailable
from infra.store import Store, StoreError, join_uri
from manifests.commits import REPORT_NAME, Index
from manifests.errors import ManifestError
from manifests.items import Item
from manifests.job import Job
from tasks.committed import failed_rows
from tasks.contact_sheet import CONTACT_SHEET_NAME
from tasks.planning import PreparedRun, open_prepared, plan_items, store_plan
from tasks.progress import board
from tasks.report import publish
from tasks.resolving import ResolvedJob
from tasks.run_folder import last_failures, open_run, pending_shards


def show_dry_run(terminal: Terminal, resolved: ResolvedJob) -> None:
    """Checks the inputs and plans, and prints what would be done."""
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    found = open_prepared(resolved)
    items = list(found.plan.iter_items()) if found else _plan(terminal, resolved)
    _show_plan(terminal, items)
    terminal.say("Dry run: nothing was written.")


def prepare(terminal: Terminal, resolved: ResolvedJob) -> PreparedRun:
    """The run of a job: the one that its folder holds, or a new one, planned and stored."""
    warn_of_prompts(terminal, resolved.preset, resolved.model.backbone.model_id)
    if found := open_prepared(resolved):
        return found
    items = _plan(terminal, resolved)
    prepared = store_plan(resolved, items)
    _show_plan(terminal, items)
    if not prepared.run.conditional_put:
        terminal.say(
            "This store does not honour conditional writes: let only one stylefarm at a time work "
            "on this run folder.",
            "yellow",
        )
    return prepared


def finish(terminal: Terminal, job: Job, path: Path, prepared: PreparedRun) -> Index:
    """Renders what is pending and publishes; returns what the commits say."""
    store, _ = open_run(prepared.uri)
    pending = pending_shards(store, prepared.plan)
    if pending:
        board.reset()
        num_items = prepared.plan.num_items
        num_done = num_items - sum(shard.num_items for shard in pending.values())
        if num_done:
            terminal.say(f"Resuming: {num_done} of {num_items} items are committed.")
        with rendering_bar(terminal, prepared, pending):
            _render_with_prefect(terminal, job, path)
            _render_what_is_left(job, store, prepared)
    failures = last_failures(store, prepared.plan)
    terminal.say_list(
        (f"shard {shard} failed: {error}" for shard, error in failures.items()),
        "red",
        rest="more shards failed",
    )
    return publish(prepared.uri)


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
        "inputs and start a new run folder, or raise limits.max_failed (a number, or a share such "
        "as 2%).",
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


def _render_with_prefect(terminal: Terminal, job: Job, path: Path) -> None:
    """Runs the flow in this process. Where Prefect does not work, says so and returns.

    Prefect only watches, so its trouble is never the run's: what it did not render is rendered
    without it.
    """
    try:
        from infra.prefect_api import prefect_api

        with prefect_api():
            _run_flow(job, path)
            board.check()
    except (ManifestError, StoreError):
        raise
    except Exception as error:
        board.check()
        name = "" if isinstance(error, PrefectUnavailable) else f"{type(error).__name__}: "
        terminal.say(
            f"Rendering goes on without Prefect, which only shows it: {name}{error}", "yellow"
        )


def _run_flow(job: Job, path: Path) -> None:
    """Runs the flow; raises what ended it early, be it ours or Prefect's."""
    from flows.job import run_job

    content = job.model_dump(mode="json", exclude_unset=True)
    base = str(path.absolute().parent)
    state = run_job(job.name or path.stem, content, base, return_state=True)
    error = state.result(raise_on_failure=False)
    if isinstance(error, BaseException):
        raise error


def _render_what_is_left(job: Job, store: Store, prepared: PreparedRun) -> None:
    """Renders the shards that Prefect did not get to; there are none where Prefect works."""
    from tasks.one_shard import render_patiently

    for shard in pending_shards(store, prepared.plan):
        if shard in board.read().begun:
            continue
        try:
            render_patiently(prepared.uri, shard, job.model_dump(mode="json")["compute"])
        except Exception:
            board.check()  # the run folder has a note of what went wrong with the shard


def _plan(terminal: Terminal, resolved: ResolvedJob) -> list[Item]:
    with counting_bar(terminal, "checking inputs") as advance:
        items = plan_items(resolved, lambda inspected: advance())
    for role, passed_over in resolved.inputs.passed_over.items():
        if passed_over:
            terminal.say(f"{role}: {passed_over}", "yellow")
    return items


def _show_plan(terminal: Terminal, items: list[Item]) -> None:
    problems = dict.fromkeys(
        f"{item.problem.error_class.value}: {item.problem.message}"
        for item in items
        if item.problem
    )
    terminal.say_list(problems, "yellow", rest="more problems")
    broken = sum(1 for item in items if item.problem)
    shards = len({item.shard for item in items})
    line = f"Planned {_counted(len(items), 'item')} in {_counted(shards, 'shard')}"
    if broken:
        line += f"; {broken} cannot be rendered and will be recorded as failed"
    terminal.say(f"{line}.")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
