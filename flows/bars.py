"""Progress bars: drawn on a terminal, a line now and then where the output is a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.terminal import Terminal
from manifests.plan import PlannedShard
from tasks.planning import PreparedRun
from tasks.progress import board

MAX_PROGRESS_LINES = 40
"""Lines about finished shards where the output is a file."""


@contextmanager
def counting_bar(
    terminal: Terminal, description: str, total: int | None = None
) -> Iterator[Callable[[], None]]:
    """A bar that advances by one with each call of the function that it gives."""
    console = terminal.console
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


@contextmanager
def rendering_bar(
    terminal: Terminal, prepared: PreparedRun, pending: dict[str, PlannedShard]
) -> Iterator[None]:
    """A bar that follows the counters of rendering until the block ends."""
    console = terminal.console
    num_items = prepared.plan.num_items
    num_to_render = sum(shard.num_items for shard in pending.values())
    num_shards = len(prepared.plan.shards)
    shards_per_line = -(-max(1, len(pending)) // MAX_PROGRESS_LINES)
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
    task = progress.add_task("starting Prefect", total=max(num_to_render, 1e-9), figures="")
    shards_told, started = 0, 0.0

    def update() -> None:
        nonlocal shards_told, started
        now = board.read()
        if now.items and not started:
            started = time.monotonic()
        seconds = time.monotonic() - started
        committed = num_shards - len(pending) + now.shards
        figures = (
            f"{num_items - num_to_render + now.items:.0f}/{num_items} items · "
            f"{committed}/{num_shards} shards · {now.items / max(seconds, 1.0):.2f} images/s"
        )
        description = "rendering" if now.items else "starting"
        progress.update(task, completed=now.items, figures=figures, description=description)
        finished = now.shards == len(pending) != shards_told
        if not console.is_terminal and (finished or now.shards >= shards_told + shards_per_line):
            terminal.say(figures)
            shards_told = now.shards

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
