"""Which Prefect API a run reports to: the configured one, or a private server of this process.

A private server listens on loopback only, keeps its record in Prefect's usual database, and ends
with the process that started it, however that process ends.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

START_SECONDS = 120.0
"""How long a private server may take to start on a busy machine; 10 is usual."""

SETTLE_SECONDS = 15.0
"""How long a private server may take to record the task states that were sent to it."""

NUM_TRIES = 3
TRY_SECONDS = 3.0
"""How often, and how long each time, a configured server is asked whether it answers."""

# Task states pass through queues in the server; larger batches lose none in bursts.
SERVER_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PYTHONWARNINGS": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
}


class PrefectUnavailable(RuntimeError):
    """No Prefect API answers; the message says what was tried and what to do."""


@contextmanager
def prefect_api() -> Iterator[str]:
    """The URL of an API that answers; Prefect uses it inside the block.

    Raises:
        PrefectUnavailable: Prefect's settings are damaged, the configured server does not answer,
            or the private server did not start.
    """
    _spare_loopback_from_proxies()
    configured = _configured_url()
    if configured:
        _check_answers(configured)
        yield configured
        return
    from prefect.settings import temporary_settings

    with private_server() as url:
        # Where the private server ends early, asking it again and again only delays the run.
        with temporary_settings({"api.url": url, "client.max_retries": 1}):
            yield url
        _settle(url)


def _spare_loopback_from_proxies() -> None:
    """A proxy that the environment names cannot reach this machine's own addresses."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if spared.strip() != "*":
        names = [*filter(None, spared.split(",")), "127.0.0.1", "localhost"]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(names))


def _configured_url() -> str | None:
    """What PREFECT_API_URL or the active profile names."""
    from pydantic import ValidationError

    try:
        from prefect.settings import get_current_settings

        return get_current_settings().api.url
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        name = ".".join(map(str, wrong["loc"])) or "a setting"
        raise PrefectUnavailable(
            f"Prefect refuses its settings ({name}: {wrong['msg']}); correct the PREFECT_ "
            "variables of the environment and the profile"
        ) from error


def _check_answers(url: str) -> None:
    reason: Exception | str = "it is no http:// or https:// URL"
    for _ in range(NUM_TRIES if url.startswith(("http://", "https://")) else 0):
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=TRY_SECONDS).close()
            return
        except urllib.error.HTTPError:
            return  # something answers; Prefect's client says what is wrong with it
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLError):
                return  # Prefect has settings of its own for certificates
            time.sleep(0.5)
    raise PrefectUnavailable(
        f"PREFECT_API_URL (in the environment or the active profile) names {url}, which does not "
        f"answer ({reason}); start that server, or remove PREFECT_API_URL"
    )


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
            raise PrefectUnavailable(
                f"the private Prefect server did not start: {reason}; if its database "
                f"{_database()} is of another version of Prefect or damaged, move it away, or set "
                "PREFECT_HOME to another folder"
            )
        if time.monotonic() > deadline:
            raise PrefectUnavailable(
                f"the private Prefect server did not answer within {START_SECONDS:.0f} s; start "
                "one with 'prefect server start' and set PREFECT_API_URL"
            )
        time.sleep(0.1)


def _database() -> str:
    """Where Prefect keeps its record, for a message."""
    from prefect.settings import get_current_settings

    if "PREFECT_SERVER_DATABASE_CONNECTION_URL" in os.environ:
        return "(PREFECT_SERVER_DATABASE_CONNECTION_URL)"
    return str(get_current_settings().home / "prefect.db")


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
