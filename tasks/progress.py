"""How far this process is: counters that rendering updates and the command line shows.

This is a plain imported module because a global in a module of tasks is reset by task runners.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from tasks.faults import Stopped


@dataclass(frozen=True)
class Snapshot:
    """The counters at one moment.

    Attributes:
        items: items rendered by this process; an item that is being rendered counts as a fraction.
        ok, failed: items of the shards that this process committed.
        shards: shards that this process committed.
        begun: names of the shards that this process began to render.
    """

    items: float = 0.0
    ok: int = 0
    failed: int = 0
    shards: int = 0
    begun: frozenset[str] = frozenset()


class ProgressBoard:
    """Counters that several threads update, and whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Snapshot()
        self._stopping = threading.Event()

    def read(self) -> Snapshot:
        """The counters now."""
        return self._now

    def reset(self) -> None:
        """Starts over, for the next run of this process."""
        with self._lock:
            self._now = Snapshot()
        self._stopping.clear()

    def stop(self) -> None:
        """Asks rendering to stop at its next step."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._stopping.is_set()

    def check(self) -> None:
        """Raises Stopped once somebody has asked to stop."""
        if self.stopping:
            raise Stopped("stopped; run the same command again to finish")

    def wait(self, seconds: float) -> None:
        """Waits so long; raises Stopped as soon as somebody asks to stop."""
        self._stopping.wait(seconds)
        self.check()

    def begin(self, shard: str) -> None:
        """Notes that this process renders a shard now; raises Stopped when asked to stop."""
        self.check()
        with self._lock:
            self._now = replace(self._now, begun=self._now.begun | {shard})

    def advance(self, items: float) -> None:
        """Adds rendered items, or fractions of them; raises Stopped when asked to stop."""
        self.check()
        with self._lock:
            self._now = replace(self._now, items=self._now.items + items)

    def committed(self, ok: int, failed: int) -> None:
        """Counts a shard that was committed just now."""
        with self._lock:
            now = self._now
            self._now = replace(
                now, ok=now.ok + ok, failed=now.failed + failed, shards=now.shards + 1
            )


board = ProgressBoard()
