"""Where rendering runs: how many shards at a time, and on which Prefect task runner."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

Work = TypeVar("Work")


def task_runner(num_workers: int) -> TaskRunner[Any]:
    """Threads of this process, one per device. They share its loaded model."""
    return ThreadPoolTaskRunner(max_workers=num_workers)


def sliding_window(
    submit: Callable[[Work], PrefectFuture[Any]], work: Iterable[Work], size: int
) -> Iterator[PrefectFuture[Any]]:
    """Submits work, at most `size` pieces at a time, and yields each future as it finishes.

    So Prefect's record is complete and the memory of this process small, however much work there
    is.
    """
    finished: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()
    remaining = iter(work)
    in_flight = 0

    def submit_next() -> int:
        for piece in remaining:
            submit(piece).add_done_callback(finished.put)
            return 1
        return 0

    while in_flight < size and submit_next():
        in_flight += 1
    while in_flight:
        future = finished.get()
        in_flight += submit_next() - 1
        yield future
