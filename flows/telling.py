"""What is told of a run to whoever shows it: its workers' events, how far it is, and its end.

Whoever tells never waits; whoever listens gets everything in order. Steps are too many to be told
one by one: now and then comes how far the run is instead. Failed items may be many too: the first
are told one by one, and then how many more there are, ever more rarely.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from flows.progress import Readable, RunEnd, Snapshot
from tasks.work.events import Began, Committed, Ended, ItemDone, Restarted, Waiting, WorkEvent


@dataclass(frozen=True)
class MoreFailed:
    """Failed items that were not told one by one, by class; since the last that was told so."""

    by_class: Mapping[str, int]


Told = WorkEvent | MoreFailed | Snapshot | RunEnd


class Standing(Enum):
    """How far a process is that shows a run."""

    REACHED = "a configured server has answered, and nothing is shown yet"
    STARTING = "nothing is wrong so far, and nothing is shown yet"
    SHOWING = "the run is being shown"
    RECORDED = "its end is on record"


Said = Standing | str | tuple[int, str]
"""What such a process says: how far it is, a sentence where it cannot show the run, or a log line
with its level."""

SNAPSHOT_SECONDS = 5.0
"""The time between two moments at which it is told how far the run is."""

MAX_FAILED_ITEMS = 100
"""So many failed items of a run are told one by one."""

_TOLD = (Began, Committed, Ended, Restarted, Waiting)


class Telling:
    """What is told and not yet heard; told by any threads, heard by one."""

    def __init__(self, progress: Readable) -> None:
        self._progress = progress
        self._unheard: queue.SimpleQueue[WorkEvent | MoreFailed | RunEnd] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_failed = 0
        self._more_failed = Counter[str]()

    def tell(self, event: WorkEvent) -> None:
        """Takes in what a worker tells; steps and pictures are left to the progress."""
        if isinstance(event, ItemDone):
            if event.error_class is not None:
                self._tell_failed(event, event.error_class)
        elif isinstance(event, _TOLD):
            self._unheard.put(event)

    def end(self, end: RunEnd) -> None:
        """Takes in how the run has ended: the last that is heard."""
        with self._lock:
            self._tell_more_failed()
        self._unheard.put(end)

    def __iter__(self) -> Iterator[Told]:
        """Waits for what is told; ends after a `RunEnd`."""
        heard, shown = time.monotonic(), None
        while True:
            one = None
            with suppress(queue.Empty):
                one = self._unheard.get(timeout=SNAPSHOT_SECONDS)
            if isinstance(one, RunEnd) or time.monotonic() - heard >= SNAPSHOT_SECONDS:
                heard, now = time.monotonic(), self._progress.read()
                if now != shown:
                    shown = now
                    yield now
            if one is not None:
                yield one
            if isinstance(one, RunEnd):
                return

    def _tell_failed(self, event: ItemDone, error_class: str) -> None:
        with self._lock:
            self._num_failed += 1
            if self._num_failed <= MAX_FAILED_ITEMS:
                self._unheard.put(event)
                return
            self._more_failed[error_class] += 1
            if self._more_failed.total() >= self._num_failed / 2:  # 100 more, then 200, 400, …
                self._tell_more_failed()

    def _tell_more_failed(self) -> None:
        if self._more_failed:
            self._unheard.put(MoreFailed(dict(self._more_failed)))
            self._more_failed.clear()


def tell_all(*listeners: Callable[[WorkEvent], None]) -> Callable[[WorkEvent], None]:
    """A function that tells each of them."""

    def tell(event: WorkEvent) -> None:
        for listener in listeners:
            listener(event)

    return tell
