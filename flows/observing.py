"""How does a command show its run in Prefect, and never wait for it?

Prefect works in a process of its own, which is told what happens through a pipe. Whatever becomes
of that process, the command says one sentence at most and goes on. At the end it waits some seconds
at most until Prefect has recorded how the run ended. A run that ends while a private server still
starts waits for nothing: the process records it when the command is gone, and ends. So it does
where a configured server answers and Prefect itself takes long to be imported.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from types import TracebackType
from typing import IO

from flows.progress import Readable, RunEnd
from flows.shown_run import ShownRun
from flows.stopping import FAREWELL_SECONDS, Stopping
from flows.telling import Said, Standing, Telling
from manifests.wording import safe_line, safe_text
from tasks.runs.faults import Stopped
from tasks.work.events import WorkEvent

logger = logging.getLogger(__name__)

RECORD_SECONDS = 10.0
"""How long Prefect may take to record the end of a run that it shows."""

ANSWER_SECONDS = 5.0
"""How long it may take to say whether it shows a run that has ended already."""

MAX_REASON_LETTERS = 500

_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PYTHONWARNINGS": "ignore",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_DEBUG_LEVEL": "CRITICAL",
}


class Observer:
    """Prefect, told of a run from `with` to the end of the block; its methods never raise."""

    def __init__(
        self,
        name: str,
        run: ShownRun,
        progress: Readable,
        *,
        stopping: Stopping,
        say: Callable[[str], None],
        may_start_server: bool = True,
    ) -> None:
        """Prepares to show a run.

        Args:
            name: what Prefect calls the flow run.
            run: which run.
            progress: how far the run is.
            stopping: a command that is asked to stop waits a moment only.
            say: is told a sentence, once, where Prefect does not work.
            may_start_server: whether a private server is started where none is configured; else
                the run is not shown then.
        """
        self._name, self._run = name, run
        self._server = "any" if may_start_server else "configured"
        self._telling, self._stopping, self._say = Telling(progress), stopping, say
        self._end: RunEnd | None = None
        self._has_spoken = self._is_quiet = False
        self._changed = threading.Condition()
        self._standing: Standing | None = None
        self._all_told = threading.Event()
        self._is_over = False

    def __enter__(self) -> Observer:
        try:
            self._start()
        except OSError as error:
            self._speak(f"its process did not start: {error}")
            self._is_over = True
        return self

    def tell(self, event: WorkEvent) -> None:
        """Passes on what a worker tells, without waiting."""
        if not self._is_over:
            self._telling.tell(event)

    def tell_end(self, end: RunEnd) -> None:
        """Passes on how the run has ended."""
        self._end = end
        self._telling.end(end)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        is_stop = isinstance(error, Stopped)
        if self._end is None:
            message = safe_text(str(error)) or "ended by a fault"
            self.tell_end(RunEnd(is_good=False, message=message, is_part=is_stop))
        seconds = FAREWELL_SECONDS if self._stopping.asked() else RECORD_SECONDS
        self._is_quiet = error is not None  # what ended the run is said, and not this too
        if is_stop and self._standing is not Standing.SHOWING:
            self._kill()  # there is nothing to show
        elif not (
            self._wait_for(self._has_answered, min(seconds, ANSWER_SECONDS))
            or self._standing is Standing.REACHED  # then it records the end by itself
        ):
            self._kill()  # too slow for so short a run, which is no fault
        elif self._standing is Standing.SHOWING and not self._wait_for(self._is_recorded, seconds):
            self._give_up(f"it did not record the end of the run within {RECORD_SECONDS:.0f} s")
        elif not self._wait_for(self._all_told.is_set, FAREWELL_SECONDS):
            self._give_up("its process does not listen")
        self._has_spoken = True  # whatever comes now, nobody listens any more

    def _has_answered(self) -> bool:
        return self._has_spoken or self._standing not in (None, Standing.REACHED)

    def _is_recorded(self) -> bool:
        return self._standing is Standing.RECORDED

    def _wait_for(self, moment: Callable[[], bool], seconds: float) -> bool:
        """Waits so long for a moment, or for the end of the process; False where neither came."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over or moment(), seconds)

    def _give_up(self, reason: str) -> None:
        if not self._stopping.asked():
            self._speak(reason)
        self._kill()

    def _start(self) -> None:
        ours, theirs = Pipe()
        self._connection, self._log = ours, _log_file()
        with theirs:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "flows.prefect_process"),
                    *(str(theirs.fileno()), self._name, self._server),
                    *(self._run.uri, self._run.fingerprint, self._run.name),
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                | _SETTINGS,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        self._process = process
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()

    def _write(self) -> None:
        """Writes what is told until the end of the run; a full pipe holds up this thread alone."""
        with suppress(OSError):
            for one in self._telling:
                self._connection.send(one)
        with self._changed:
            self._all_told.set()
            self._changed.notify_all()

    def _listen(self) -> None:
        """Takes in what the process says until it ends."""
        with suppress(EOFError, OSError):
            while True:
                self._hear(self._connection.recv())
        self._end_group()
        code = self._process.wait()
        words = self._last_words()
        self._speak(f"its process ended with exit code {code}" + (words and f": {words}"))
        self._log.close()
        self._connection.close()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _hear(self, said: Said) -> None:
        if isinstance(said, tuple):
            logger.log(*said)
            return
        if isinstance(said, str):
            self._speak(said)
        with self._changed:
            if isinstance(said, Standing):
                self._standing = said
            self._changed.notify_all()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _kill(self) -> None:
        """Ends the process, and waits a moment until it has ended."""
        if not self._is_over:
            self._has_spoken = True  # its end is no news
            self._end_group()
            self._wait_for(lambda: False, FAREWELL_SECONDS)

    def _end_group(self) -> None:
        """Kills the process, and its private server, which is of the same group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _speak(self, reason: str) -> None:
        if self._has_spoken or self._is_recorded():
            return
        self._has_spoken = True
        if not self._is_quiet:
            self._say(
                "This run goes on without Prefect, which only shows it: "
                f"{safe_line(reason, MAX_REASON_LETTERS)}"
            )


def _log_file() -> IO[bytes]:
    return tempfile.TemporaryFile()
