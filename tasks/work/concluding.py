"""What happens to rendered pictures while others render: they are measured and encoded.

Threads of their own do that, so that slow measuring holds up no loading. Memory: pictures that wait
share `WAITING_BYTES`, or one is alone; each thread adds what measuring one picture takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Generic, Self, TypeVar

from ad_lib.pictures.memory import MemoryBudget
from tasks.runs.environment import num_cores

WAITING_BYTES = 256 << 20
"""Of pictures that are rendered and not yet encoded."""

T = TypeVar("T")


class Conclusions(Generic[T]):
    """Concludes pictures, many at a time; asked by one thread.

    Args:
        num_threads: that measure and encode; more than there are cores are of no use.
        most_waiting: pictures that may wait; fewer of large ones.
    """

    def __init__(self, num_threads: int, most_waiting: int) -> None:
        num_threads = min(num_threads, num_cores())
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="concluding")
        self._budget = MemoryBudget(WAITING_BYTES)
        self._least_bytes = WAITING_BYTES // max(1, most_waiting)
        self._waiting: deque[Future[T]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, conclude: Callable[[], T], num_bytes: int) -> None:
        """Concludes a picture in a while; waits first until there is room for it.

        Args:
            conclude: measures and encodes it.
            num_bytes: that it takes meanwhile.
        """
        share = ExitStack()
        share.enter_context(self._budget.reserved(max(num_bytes, self._least_bytes)))

        def act() -> T:
            with share:
                return conclude()

        self._waiting.append(self._pool.submit(act))

    def ended(self) -> Iterator[T]:
        """What has become of those that are done, in order; raises what they raised."""
        while self._waiting and self._waiting[0].done():
            yield self._waiting.popleft().result()

    def all(self) -> Iterator[T]:
        """What becomes of all that were added; waits for them."""
        while self._waiting:
            yield self._waiting.popleft().result()
