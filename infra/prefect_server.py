"""A private Prefect server: how does it start and end?

It listens on loopback only, keeps a record of its own, so that nothing which an earlier run left
delays it, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.request import urlopen

from infra.prefect_record import Record, new_record

START_SECONDS = 120.0
"""How long a private server may take to start on a busy machine; 3 to 6 is usual."""

_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PYTHONWARNINGS": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    # Nothing is scheduled, late or cancelled here.
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
    # Task states pass through queues in the server; larger batches lose none in bursts.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}


class ServerFailed(RuntimeError):
    """A private server did not start; the message says why."""


@dataclass(frozen=True)
class PrivateServer:
    """A server that answers.

    Attributes:
        url: of its API.
        record: the SQLite file that it writes; None where Prefect's settings name a database.
    """

    url: str
    record: Path | None
    _process: subprocess.Popen[bytes]

    def loss(self) -> str | None:
        """What has ended it since it started, if anything has."""
        if (code := self._process.poll()) is not None:
            return f"its private server has ended (exit code {code})"
        if self.record and not self.record.exists():
            return f"its record {self.record} is gone"
        return None

    def close(self) -> None:
        """Ends it, in order if that is possible."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


@contextmanager
def private_server(
    folder: Path | None, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[PrivateServer]:
    """A server that lives as long as the block, and never longer than this process.

    Args:
        folder: where it keeps its record; None where Prefect's settings name a database.
        settings: of Prefect, in place of those of a server that only shows a run.

    Raises:
        ServerFailed: it did not start.
        OSError: the folder cannot be written.
    """
    with tempfile.TemporaryFile() as log:
        if folder is None:
            with closing(_start(log, None, settings)) as server:
                yield server
            return
        with new_record(folder) as record:
            with closing(_start_on(record, log, settings)) as server:
                yield server
            record.finish()


def _start_on(record: Record, log: IO[bytes], settings: Mapping[str, str]) -> PrivateServer:
    try:
        server = _start(log, record.path, {**settings, **record.begin()})
    except ServerFailed:
        if not record.empty.exists():
            raise
        server = _start(log, record.path, {**settings, **record.begin_anew()})
    record.keep_empty()
    return server


def _start(log: IO[bytes], record: Path | None, settings: Mapping[str, str]) -> PrivateServer:
    """Starts a server and waits until it answers."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log.truncate(0)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(port), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        | _SETTINGS
        | dict(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
    )
    try:
        _wait_until_healthy(url, process, log)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return PrivateServer(url, record, process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), urlopen(f"{url}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        if server.poll() is not None:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            reason = last[0] if last else f"exit code {server.returncode}"
            raise ServerFailed(f"the private Prefect server did not start: {reason}")
        if time.monotonic() > deadline:
            raise ServerFailed(
                f"the private Prefect server did not answer within {START_SECONDS:.0f} s"
            )
        time.sleep(0.1)


def _serve(port: int, parent: int) -> None:
    """The server's own process: serves until its parent is gone."""

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=port,
        log_level="error",
        lifespan="on",
    )


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
