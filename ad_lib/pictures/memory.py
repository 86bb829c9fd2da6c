"""How many bytes may all threads together use for pictures?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryBudget:
    """A number of bytes that all threads share.

    Whoever asks for more than the whole budget waits until nobody else holds any of it. Threads
    are served in the order in which they ask, so a large request does not wait for ever.

    Args:
        num_bytes: what may be reserved at the same time.
    """

    def __init__(self, num_bytes: int) -> None:
        self._total = self._free = num_bytes
        self._changed = threading.Condition()
        self._queue = threading.Lock()

    @contextmanager
    def reserved(self, num_bytes: int) -> Iterator[None]:
        """Waits until so many bytes are free, and holds them inside the `with` block."""
        wanted = min(max(num_bytes, 0), self._total)
        with self._queue, self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()
