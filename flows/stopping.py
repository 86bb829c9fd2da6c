"""How a command ends when it is told to: by Ctrl-C, by SIGTERM, or because its terminal closed.

The command works in a thread of its own, and the main thread only waits. Python runs signal
handlers in the main thread, so a signal is answered at once, whatever the command does. Prefect
installs its own handler of SIGTERM where a flow runs in the main thread; here it does not.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from flows.terminal import Terminal
from tasks.progress import board
from tasks.scratch import is_scratch_in_use, remove_scratch

EXIT_INCOMPLETE = 4

SHARD_SECONDS = 10.0
"""How long the current shard may take to stop at a step, or to finish its commit."""

FAREWELL_SECONDS = 1.5
"""How long Prefect may take to hear that the run has ended."""

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def run_stoppable(work: Callable[[], int], terminal: Terminal) -> int:
    """Runs a command and returns its exit code; a signal ends the process with exit code 4.

    After the first signal the current shard stops at its next step and is given up; nothing else
    is waited for. What is committed stays: a commit is one write. A second signal ends at once.
    """
    # Only the put of a SimpleQueue may be called by a signal handler at any moment.
    events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    signals_received = 0

    def work_and_report() -> None:
        code = 1
        try:
            code = work()
        finally:
            events.put(code)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals_received
        signals_received += 1
        if signals_received > 1:
            _end_now(terminal)
        events.put(None)

    worker = threading.Thread(target=work_and_report, name="stylefarm", daemon=True)
    handlers = _install(on_signal)
    try:
        worker.start()
        code = events.get()
        if code is None:
            _stop(worker, terminal)
        worker.join()
        return code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Sets the handler; returns those before. `nohup` keeps its meaning."""
    ignored = [
        number
        for number in _SIGNALS
        if number not in (signal.SIGINT, signal.SIGTERM)
        and signal.getsignal(number) is signal.SIG_IGN
    ]
    return {number: signal.signal(number, handler) for number in _SIGNALS if number not in ignored}


def _stop(worker: threading.Thread, terminal: Terminal) -> NoReturn:
    """Ends this process as soon as no shard is half done."""
    _end_at_the_latest(SHARD_SECONDS + FAREWELL_SECONDS + 1)
    board.stop()
    deadline = time.monotonic() + SHARD_SECONDS
    if is_scratch_in_use():
        terminal.say("Stopping at the next step; a second signal stops at once.", "yellow")
    while is_scratch_in_use() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.join(FAREWELL_SECONDS)
    terminal.say("Stopped; run the same command again to finish.", "yellow")
    _end_now(terminal)


def _end_at_the_latest(seconds: float) -> None:
    """Ends this process after so long, even where printing waits for a reader for ever."""
    timer = threading.Timer(seconds, lambda: (remove_scratch(), os._exit(EXIT_INCOMPLETE)))
    timer.daemon = True
    timer.start()


def _end_now(terminal: Terminal) -> NoReturn:
    """Ends this process without waiting for its threads. The private Prefect server ends too."""
    remove_scratch()
    terminal.restore()
    os._exit(EXIT_INCOMPLETE)
