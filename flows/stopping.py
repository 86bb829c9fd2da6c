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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from flows.exit_codes import ExitCode
from flows.terminal import Terminal

STEP_SECONDS = 15.0
"""How long the current step may take to end: a child has 10 to stop, then it is killed."""

FAREWELL_SECONDS = 1.5
"""How long Prefect may take to hear that the run has ended, or a step to be given up."""

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Stopping:
    """Whether somebody has asked this process to stop, and what has to end in order before it does.

    One object for the whole command, handed to whatever works.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._changed = threading.Condition()
        self._num_steps = 0
        self._give_up: list[Callable[[], None]] = []

    def ask(self) -> None:
        """Asks whatever works to stop at its next step."""
        self._asked.set()

    def asked(self) -> bool:
        """Whether somebody has asked; the `should_stop` of workers."""
        return self._asked.is_set()

    @contextmanager
    def step(self, give_up: Callable[[], None] = lambda: None) -> Iterator[None]:
        """A block that may end in order after the first signal.

        Args:
            give_up: called by another thread at the second signal; makes the block end at once.
        """
        with self._changed:
            self._num_steps += 1
            self._give_up.append(give_up)
        try:
            yield
        finally:
            with self._changed:
                self._num_steps -= 1
                self._give_up.remove(give_up)
                self._changed.notify_all()

    def in_step(self) -> bool:
        """Whether a block is being worked on."""
        return self._num_steps > 0

    def wait_for_steps(self, seconds: float) -> bool:
        """Waits until no block is being worked on; False where that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.in_step(), seconds)

    def give_up(self) -> None:
        """Makes the blocks end at once, and waits a moment for what they remove behind them."""
        for give_up in list(self._give_up):
            give_up()
        self.wait_for_steps(FAREWELL_SECONDS)


def run_stoppable(command: Callable[[Stopping], int], terminal: Terminal) -> int:
    """Runs a command and returns its exit code; a signal ends the process with exit code 4.

    After the first signal the current step is finished and nothing more is begun. What is committed
    stays: a commit is one write. A second signal ends at once; the child processes end too.
    """
    # Only the put of a SimpleQueue may be called by a signal handler at any moment.
    events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stopping = Stopping()
    num_signals = 0

    def work_and_report() -> None:
        code = 1
        try:
            code = command(stopping)
        finally:
            events.put(code)

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal num_signals
        num_signals += 1
        if num_signals == 1:
            events.put(None)
        elif num_signals == 2:
            _end_now(terminal, stopping)
        else:
            os._exit(ExitCode.INCOMPLETE)

    worker = threading.Thread(target=work_and_report, name="stylefarm", daemon=True)
    _install(on_signal)
    worker.start()
    code = events.get()
    if code is None:
        _stop(worker, terminal, stopping)
    worker.join()
    _install(lambda number, frame: os._exit(code))  # the work is done, and its code stands
    return code


def _install(handler: Callable[[int, FrameType | None], object]) -> None:
    """Sets the handler. `nohup` keeps its meaning."""
    for number in _SIGNALS:
        may_be_ignored = number not in (signal.SIGINT, signal.SIGTERM)
        if not (may_be_ignored and signal.getsignal(number) is signal.SIG_IGN):
            signal.signal(number, handler)


def _stop(worker: threading.Thread, terminal: Terminal, stopping: Stopping) -> NoReturn:
    """Ends this process as soon as no step is half done."""
    _end_at_the_latest(STEP_SECONDS + 2 * FAREWELL_SECONDS + 1)
    stopping.ask()
    if stopping.in_step():
        terminal.say("Stopping: finishing this step; once more to stop now.", "yellow")
    stopping.wait_for_steps(STEP_SECONDS)
    worker.join(FAREWELL_SECONDS)
    terminal.say("Stopped; run the same command again to finish.", "yellow")
    _end_now(terminal, stopping)


def _end_at_the_latest(seconds: float) -> None:
    """Ends this process after so long, even where printing waits for a reader for ever."""
    timer = threading.Timer(seconds, lambda: os._exit(ExitCode.INCOMPLETE))
    timer.daemon = True
    timer.start()


def _end_now(terminal: Terminal, stopping: Stopping) -> NoReturn:
    """Ends this process without waiting for its threads; its child processes end with it."""
    _end_at_the_latest(2 * FAREWELL_SECONDS)
    stopping.give_up()
    terminal.restore()
    os._exit(ExitCode.INCOMPLETE)
