"""Which Prefect API a run reports to: the configured one, or a private server of this process.

A private server listens on loopback only, keeps its record in Prefect's usual database, and ends
with the process that started it, however that process ends.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

START_SECONDS = 180.0
SETTLE_SECONDS = 15.0

# Task states pass through queues in the server; larger batches lose none in bursts.
SERVER_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
}


class PrefectUnavailable(RuntimeError):
    """No Prefect API answers; the message says what was tried."""


@contextmanager
def prefect_api() -> Iterator[str]:
    """The URL of an API that answers, current for the time of the block.

    Raises:
        PrefectUnavailable: the private server did not start.
    """
    from prefect.settings import get_current_settings, temporary_settings

    configured = get_current_settings().api.url
    if configured:
        yield configured
        return
    with private_server() as url, temporary_settings({"api.url": url}):
        yield url
        _settle(url)


@contextmanager
def private_server() -> Iterator[str]:
    """The API URL of a server that lives as long as the block, and never longer than this process.

    Raises:
        PrefectUnavailable: it did not start.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "infra.prefect_api", str(port), str(os.getpid())],
            env={**os.environ, **SERVER_SETTINGS},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_until_healthy(url, server, log)
            yield url
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            if answer.status == 200:
                return
        if server.poll() is not None:
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            reason = last[0] if last else f"exit code {server.returncode}"
            raise PrefectUnavailable(f"the private Prefect server did not start: {reason}")
        if time.monotonic() > deadline:
            raise PrefectUnavailable(
                f"the private Prefect server did not answer within {START_SECONDS:.0f} s; start "
                "one with 'prefect server start' and set PREFECT_API_URL"
            )
        time.sleep(0.1)


def _settle(url: str) -> None:
    """Sends the logs, then waits until the server has recorded the task states on their way."""
    from prefect.logging.handlers import APILogHandler

    APILogHandler().flush()
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError):
            if _count_running_tasks(url) == 0:
                return
        time.sleep(0.2)


def _count_running_tasks(url: str) -> int:
    body = json.dumps({"task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}})
    request = urllib.request.Request(
        f"{url}/task_runs/count", body.encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.read())


def _serve(port: int, parent: int) -> None:
    """The private server's own process: serves until its parent is gone."""
    import uvicorn

    def watch_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()
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
