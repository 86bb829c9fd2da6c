"""Progress as a person sees it: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import logging
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
)

from flows.progress import Readable, Snapshot
from flows.terminal import Terminal

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2

LINE_SECONDS, SHARD_LINE_SECONDS = 15.0, 2.0
"""The time between two lines: at least the second where a shard was committed meanwhile."""

MAX_PHASES = 8
"""New phases that have a line of their own; many workers have many mixtures of phases."""

LINES_PER_AGE = 40
"""Lines become rarer as a run grows older: one in so many parts of its age."""


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
def progress_shown(terminal: Terminal, progress: Readable) -> Iterator[None]:
    """Shows how far something is until the block ends."""
    show = _bar if terminal.console.is_terminal else _lines
    done = threading.Event()

    def follow(show_now: Callable[[Snapshot], None]) -> None:
        while not done.wait(LOOK_SECONDS):
            show_now(progress.read())

    with show(terminal) as show_now:
        show_now(progress.read())
        follower = threading.Thread(target=follow, args=[show_now], daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            show_now(progress.read())


@contextmanager
def _bar(terminal: Terminal) -> Iterator[Callable[[Snapshot], None]]:
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("ETA {task.fields[eta]}"),
        console=terminal.console,
    )
    with bar:
        task = bar.add_task("", total=None, visible=False, figures="", eta="")

        def show(now: Snapshot) -> None:
            bar.update(
                task,
                description=now.phase,
                completed=now.done,
                total=now.total,
                figures=now.figures,
                eta=now.eta,
                visible=True,
            )

        yield show


@contextmanager
def _lines(terminal: Terminal) -> Iterator[Callable[[Snapshot], None]]:
    """A line for each new phase and some committed shards, ever more rarely, and one at the end."""
    started = time.monotonic()
    last: tuple[float, Snapshot] | None = None
    phases: set[str] = set()

    def show(now: Snapshot) -> None:
        nonlocal last
        is_new = now.phase not in phases and len(phases) < MAX_PHASES
        if last is None or is_new or _is_due(last, now, started):
            phases.add(now.phase)
            last = time.monotonic(), now
            told = f"{now.figures} · " if now.figures else ""
            logger.info("%s: %sETA %s", now.phase, told, now.eta)

    yield show


def _is_due(last: tuple[float, Snapshot], now: Snapshot, started: float) -> bool:
    when, told = last
    age = time.monotonic() - started
    least = SHARD_LINE_SECONDS if now.milestones > told.milestones else LINE_SECONDS
    is_last = now.done == now.total != told.done
    return is_last or time.monotonic() - when >= max(least, age / LINES_PER_AGE)
