"""A private Prefect server: how it starts, where it keeps its record, and how it ends.

It listens on loopback only, keeps the record of one run in a file of its own, so that nothing which
an earlier run left delays this one, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO
from urllib.request import urlopen

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""How long a private server may take to start on a busy machine; 3 to 6 is usual."""

NUM_KEPT, KEPT_SECONDS = 20, 86_400.0
"""So many records of earlier runs stay, and each of them for a day at least."""

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
_CONNECTION = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
_MIGRATED = {
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
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
def private_server(folder: Path | None) -> Iterator[PrivateServer]:
    """A server that lives as long as the block, and never longer than this process.

    Args:
        folder: where it keeps its record; None where Prefect's settings name a database.

    Raises:
        ServerFailed: it did not start.
        OSError: the folder cannot be written.
    """
    with tempfile.TemporaryFile() as log:
        server = _start(log, None, {}) if folder is None else _start_with_record(log, folder)
        try:
            yield server
        finally:
            server.close()


def _start_with_record(log: IO[bytes], folder: Path) -> PrivateServer:
    """Starts a server on a fresh record, a copy of an empty one that an earlier server made."""
    import prefect

    folder.mkdir(parents=True, exist_ok=True)
    _forget_old(folder)
    record = folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.db"
    logger.debug("Prefect keeps its record of this run in %s", record)
    empty = folder / f"empty-{prefect.__version__}.sqlite"
    if _copied(empty, record):
        with suppress(ServerFailed):
            return _start(log, record, _on(record) | _MIGRATED)
        logger.warning("Prefect's empty record %s does not serve, and is made again", empty)
        for path in (empty, record):
            path.unlink(missing_ok=True)
    server = _start(log, record, _on(record))
    _copied(record, empty)
    return server


def _on(record: Path) -> dict[str, str]:
    return {_CONNECTION: f"sqlite+aiosqlite:///{record}"}


def _copied(database: Path, copy: Path) -> bool:
    """Copies a database that may be in use, whole or not at all; False where there is none."""
    if not database.exists():
        return False
    part = copy.with_suffix(f".{os.getpid()}.part")
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as target:
            source.backup(target)
        part.replace(copy)
    except (sqlite3.Error, OSError) as error:
        logger.warning("%s could not be copied, and is made again: %s", database, error)
        part.unlink(missing_ok=True)
        return False
    return True


def _forget_old(folder: Path) -> None:
    """Removes all but the newest records."""
    found = sorted(folder.glob("*.db"), key=_modified, reverse=True)
    for record in found[NUM_KEPT:]:
        if _modified(record) < time.time() - KEPT_SECONDS:
            for path in folder.glob(f"{record.name}*"):  # SQLite has two more beside it
                path.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # another run has removed it
        return 0.0


def _start(log: IO[bytes], record: Path | None, settings: dict[str, str]) -> PrivateServer:
    """Starts a server and waits until it answers."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    log.truncate(0)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(port), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        | _SETTINGS
        | settings,
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
