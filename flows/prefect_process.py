"""What does the process do that shows a command's run in Prefect?

It finds an API, shows what it is told until the run has ended, and ends. Whatever goes wrong with
Prefect ends this process alone, with one sentence for the command.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

from flows.progress import RunEnd, Snapshot
from flows.shown_run import ShownRun
from flows.telling import Said, Standing, Told
from infra.prefect_api import PrefectApi, PrefectUnavailable, configured_url, prefect_api

NICENESS = 10
"""What is rendered comes first."""

LATE_SECONDS = 10.0
"""How long a configured server may let itself be waited for before that is told."""

LOOK_SECONDS = 1.0
"""The time between two looks at whether an API still answers."""

SILENT_SECONDS, SILENT_AT_END_SECONDS = 30.0, 8.0
"""How long an API may be silent while the run goes on, and once it has ended."""

MAX_UNSHOWN = 100
"""Where so much waits for a slow or a late server, it is not told how far the run was meanwhile."""

LAST_SECONDS = 30.0
"""How long this process may go on after the end of the run: to start a server, and to record it."""

SETTLE_SECONDS = 5.0
"""How long a private server may take to record the task states that were sent to it."""


def main(number: int, name: str, server: str, run: ShownRun) -> NoReturn:
    """Shows a run, then ends this process and its private server.

    Args:
        number: of the connection to the command, which sends what is told of the run, and is sent
            what is `Said`.
        name: what Prefect calls the flow run.
        server: "any", or "configured" where no private server is to be started.
        run: which run.
    """
    os.nice(NICENESS)
    _ignore_signals()
    speaker = _Speaker(Connection(number))
    logging.raiseExceptions = False  # a log line that Prefect cannot store is nobody's trouble
    ours = logging.getLogger("infra")
    ours.setLevel(logging.DEBUG)
    ours.addHandler(speaker)
    try:
        listener = _Listener(speaker.connection)
        if server == "configured" and configured_url() is None:
            speaker.stand(Standing.RECORDED)  # there is nobody to show it to
        else:
            _show(speaker, listener, name, run)
    except BaseException as error:
        kind = "" if isinstance(error, PrefectUnavailable) else f"{type(error).__name__}: "
        speaker.complain(f"{kind}{error}")
    _end()


class _Speaker(logging.Handler):
    """Speaks to the command: one sentence at most of what is the matter, and log lines."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self._sending = threading.Lock()
        self._has_complained = False

    def complain(self, sentence: str) -> None:
        """Says that Prefect does not work, and why."""
        if not self._has_complained:
            self._has_complained = True
            self._send(sentence)

    def stand(self, standing: Standing) -> None:
        """Says how far this process is."""
        self._send(standing)

    def emit(self, record: logging.LogRecord) -> None:
        """Passes on what a module of ours logs."""
        self._send((record.levelno, record.getMessage()))

    def _send(self, said: Said) -> None:
        with self._sending, suppress(OSError):
            self.connection.send(said)


class _Listener:
    """Takes in at once what the command tells, so that it never waits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self.has_ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def told(self) -> Iterator[Told]:
        """What was told, in order, waiting for what comes."""
        while True:
            yield self._told.get()

    def _listen(self) -> None:
        """Listens until the end of the run, or of the command, and then ends this process soon."""
        end = RunEnd(is_good=False, message="the command was killed; run it again to finish")
        with suppress(EOFError, OSError):
            while not isinstance(one := self._connection.recv(), RunEnd):
                if not (isinstance(one, Snapshot) and self._told.qsize() > MAX_UNSHOWN):
                    self._told.put(one)
            end = one
        self._told.put(end)
        self.has_ended.set()
        time.sleep(LAST_SECONDS)
        _end()


def _show(speaker: _Speaker, listener: _Listener, name: str, run: ShownRun) -> None:
    began = time.monotonic()

    def on_wait(reason: str) -> None:
        if listener.has_ended.is_set():
            raise PrefectUnavailable(reason)
        if time.monotonic() - began > LATE_SECONDS:
            speaker.complain(reason)

    def on_start() -> None:
        speaker.stand(Standing.STARTING)

    def on_answer() -> None:
        speaker.stand(Standing.REACHED)

    with prefect_api(on_wait, on_start, on_answer) as api:
        threading.Thread(
            target=_watch, args=[api, speaker, listener.has_ended], daemon=True
        ).start()
        try:
            from flows.showing import send_all, show_flow_run

            speaker.stand(Standing.SHOWING)
            show_flow_run(name, run, listener.told())
        except Exception as error:
            if loss := api.loss() or _gone(api):
                raise PrefectUnavailable(loss) from error
            raise
        speaker.stand(Standing.RECORDED)
        send_all()
        if api.record is not None:
            _settle(api.url)


def _watch(api: PrefectApi, speaker: _Speaker, has_ended: threading.Event) -> None:
    """Ends this process when the API is lost: Prefect would try again and again in silence."""
    answered = time.monotonic()
    while True:
        time.sleep(LOOK_SECONDS)
        loss, gone = api.loss(), _gone(api)
        patience = SILENT_AT_END_SECONDS if has_ended.is_set() else SILENT_SECONDS
        if gone is None:
            answered = time.monotonic()
        elif time.monotonic() - answered > patience:
            loss = loss or gone
        if loss is not None:
            speaker.complain(loss)
            _end()


def _gone(api: PrefectApi) -> str | None:
    silence = api.silence()
    return None if silence is None else f"{api.url} does not answer any more ({silence})"


def _settle(url: str) -> None:
    """Waits until a private server has recorded the task states on their way."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if _count_running_tasks(url) == 0:
            return
        time.sleep(0.1)


def _count_running_tasks(url: str) -> int:
    body = json.dumps({"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}})
    request = urllib.request.Request(
        f"{url}/task_runs/count", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SETTLE_SECONDS) as answer:
        return int(answer.read())


def _ignore_signals() -> None:
    """Leaves to the command what is sent to all processes of a session."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end() -> NoReturn:
    """Ends this process and its private server: they are a process group of their own."""
    with suppress(OSError):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    _, number, given_name, given_server, uri, fingerprint, job_name = sys.argv
    main(int(number), given_name, given_server, ShownRun(uri, fingerprint, job_name))
