"""What the commands do, step by step, and what they print. Imported when a command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from infra.store import join_uri
from manifests.commits import REPORT_NAME, Index
from manifests.items import Input, Item
from manifests.job import Job
from tasks.contact_sheet import CONTACT_SHEET_NAME
from tasks.planning import PreparedRun, open_prepared, plan_items, store_plan
from tasks.progress import board
from tasks.report import publish
from tasks.resolving import ResolvedJob, resolve_job
from tasks.run_folder import (
    current_index,
    last_failures,
    open_run,
    pending_shards,
)

MAX_LINES = 20
PACKAGES = ("ad_lib", "manifests", "infra", "tasks")


def resolve(job: Job, path: Path) -> ResolvedJob:
    """The job with everything looked up that it names."""
    _refuse_shadowed_packages()
    return resolve_job(job, str(path.absolute().parent))


def show_dry_run(console: Console, resolved: ResolvedJob) -> None:
    """Preflight and plan, on the screen only."""
    found = open_prepared(resolved)
    items = list(found.plan.items) if found else _preflight(console, resolved)
    _show_plan(console, items)
    console.print("Dry run: nothing was written.")


def prepare(console: Console, resolved: ResolvedJob) -> PreparedRun:
    """The run of a job: the one that its folder holds, or a new one, planned and stored."""
    if found := open_prepared(resolved):
        return found
    items = _preflight(console, resolved)
    prepared = store_plan(resolved, items)
    _show_plan(console, items)
    if not prepared.run.conditional_put:
        console.print(
            "[yellow]This store does not honour conditional writes: let only one stylefarm at a "
            "time work on this run folder.[/]"
        )
    return prepared


def finish(console: Console, job: Job, path: Path, prepared: PreparedRun) -> Index:
    """Renders what is pending, through Prefect, and publishes; returns what the commits say."""
    store, _ = open_run(prepared.uri)
    pending = pending_shards(store, prepared.plan)
    if pending:
        board.reset()
        done = len(prepared.plan.items) - sum(len(items) for items in pending.values())
        if done:
            console.print(f"Resuming: {done} of {len(prepared.plan.items)} items are committed.")
        with _stopped_by_signals(), _progress(console, prepared, pending):
            flow_message = _run_flow(job, path)
        if board.stopping:
            console.print("[yellow]Stopped; run the same command again to finish.[/]")
        elif pending_shards(store, prepared.plan):
            console.print(f"[red]The flow ended early:[/] {escape(flow_message)}", soft_wrap=True)
    for shard, error in last_failures(store, prepared.plan).items():
        console.print(f"[red]shard {shard} failed:[/] {escape(error)}", soft_wrap=True)
    return publish(prepared.uri)


def show_outcome(console: Console, uri: str, index: Index, *, has_sweep: bool) -> None:
    """One line on what there is, then where to look."""
    counts = index.counts
    parts = [f"{counts.ok} of {counts.planned} items ok"]
    parts += [
        f"{number} {name}"
        for name, number in (("failed", counts.failed), ("pending", counts.pending))
        if number
    ]
    seconds = index.stats.render_seconds
    parts.append(_counted(len(index.shards), "shard"))
    parts.append(f"{seconds:.0f} s rendering ({seconds / max(1, counts.ok):.1f} s an image)")
    console.print(" · ".join(parts), soft_wrap=True)
    console.print(f"report: {escape(join_uri(uri, REPORT_NAME))}", soft_wrap=True)
    if has_sweep:
        console.print(f"side by side: {escape(join_uri(uri, CONTACT_SHEET_NAME))}", soft_wrap=True)


def show_status(console: Console, uri: str) -> None:
    """Counts and errors of a run, from its commits."""
    store, run = open_run(uri)
    index = current_index(store, run)
    table = Table("items", "number", title=escape(uri), title_justify="left")
    for name, number in index.counts.model_dump().items():
        table.add_row(name, str(number))
    for name, number in sorted(index.stats.errors.items()):
        table.add_row(f"  failed: {name}", str(number))
    console.print(table)
    console.print(
        f"{run.identity['task']} on {run.model_id} · {len(index.shards)} of {run.num_shards} "
        f"shards · {index.stats.output_bytes / 1e6:.1f} MB · "
        f"{index.stats.render_seconds:.0f} s rendering",
        soft_wrap=True,
    )
    console.print("complete" if index.complete else "incomplete: 'stylefarm run' goes on")


def show_report(console: Console, uri: str, show: bool) -> None:
    """Makes the page again and says where it is."""
    publish(uri)
    page = join_uri(uri, REPORT_NAME)
    console.print(escape(page), soft_wrap=True)
    if show and _has_screen():
        webbrowser.open(page if "://" in page else Path(page).as_uri())


def _has_screen() -> bool:
    """Whether a browser has somewhere to open; on a bare terminal it would take the terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ


def _run_flow(job: Job, path: Path) -> str:
    """Runs the flow in this process; what it says about its end."""
    from flows.job import run_job
    from infra.prefect_api import prefect_api

    content = job.model_dump(mode="json", exclude_unset=True)
    with prefect_api():
        state: Any = run_job(
            job.name or path.stem, content, str(path.absolute().parent), return_state=True
        )
    return str(state.message)


def _preflight(console: Console, resolved: ResolvedJob) -> list[Item]:
    with progress_bar(console) as progress:
        task = progress.add_task("checking inputs", total=None)

        def inspected(one: Input) -> None:
            progress.advance(task)

        return plan_items(resolved, inspected)


def _show_plan(console: Console, items: list[Item]) -> None:
    problems = dict.fromkeys(
        f"{item.problem.error_class.value}: {item.problem.message}"
        for item in items
        if item.problem
    )
    for line in list(problems)[:MAX_LINES]:
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    if len(problems) > MAX_LINES:
        console.print(f"[yellow]… and {len(problems) - MAX_LINES} more problems[/]")
    broken = sum(1 for item in items if item.problem)
    shards = len({item.shard for item in items})
    line = f"Planned {_counted(len(items), 'item')} in {_counted(shards, 'shard')}"
    if broken:
        line += f"; {broken} cannot be rendered and will be recorded as failed"
    console.print(f"{line}.", soft_wrap=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def progress_bar(console: Console) -> Progress:
    """A bar with counts and times, on a terminal only."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def _progress(
    console: Console, prepared: PreparedRun, pending: dict[str, list[Item]]
) -> Iterator[None]:
    """A bar that follows the board until the block ends."""
    total = len(prepared.plan.items)
    sound = sum(1 for items in pending.values() for item in items if item.problem is None)
    num_shards = len(prepared.plan.shards())
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
        disable=not console.is_terminal,
    )
    done = threading.Event()
    task = progress.add_task("starting Prefect", total=max(sound, 1e-9), figures="")
    shown, started = 0, 0.0

    def update() -> None:
        nonlocal shown, started
        now = board.read()
        if now.items and not started:
            started = time.monotonic()
        elapsed = time.monotonic() - started
        committed = num_shards - len(pending) + now.shards
        figures = (
            f"{total - sound + now.items:.0f}/{total} items · {committed}/{num_shards} shards · "
            f"{now.items / max(elapsed, 1.0):.2f} images/s"
        )
        description = "rendering" if now.items else "starting"
        progress.update(task, completed=now.items, figures=figures, description=description)
        if now.shards > shown and not console.is_terminal:
            console.print(figures)
            shown = now.shards

    def follow() -> None:
        while not done.wait(0.2):
            update()

    follower = threading.Thread(target=follow, daemon=True)
    with progress:
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            update()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """The first SIGINT or SIGTERM gives up the shard in hand; a second SIGINT ends the process."""

    def stop(number: int, frame: Any) -> None:
        board.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_shadowed_packages() -> None:
    """Our packages have plain names; another distribution may ship one of them."""
    from manifests.errors import ManifestError

    home = Path(__file__).absolute().parent.parent
    for name in PACKAGES:
        found = Path(str(sys.modules[name].__file__)).absolute().parent.parent
        if found != home:
            raise ManifestError(
                f"the package {name!r} comes from {found}, not from stylefarm's {home}: another "
                "distribution ships that name; install stylefarm in an environment of its own"
            )
