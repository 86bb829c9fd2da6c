"""A real Prefect server, with everything that one for people does: schedules, late runs, triggers.

Its loops are short, so that a test waits for seconds where people wait for minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.prefect_server import PrivateServer, private_server
from tests.shared import made_once

_ALL_SERVICES = {
    f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "true"
    for name in (
        "CANCELLATION_CLEANUP",
        "FOREMAN",
        "LATE_RUNS",
        "PAUSE_EXPIRATIONS",
        "SCHEDULER",
        "TRIGGERS",
    )
}
_SHORT_LOOPS = {
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    # SQLite serves one writer at a time, and the machine may be busy.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    # A proxy of the machine that runs the tests is not asked.
    "NO_PROXY": "127.0.0.1,localhost",
}


@contextmanager
def full_server(folder: Path, *, ui: bool = False, **settings: str) -> Iterator[PrivateServer]:
    """A server on a free port of this machine until the end of the block.

    Args:
        folder: its PREFECT_HOME, with its database; of its own for each server.
        ui: whether a browser is shown pages, at the URL of the API without `/api`.
        settings: more of Prefect's, such as PREFECT_SERVER_API_AUTH_STRING.
    """
    home = {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
        "PREFECT_SERVER_UI_API_URL": "/api",
    }
    with private_server(folder, _ALL_SERVICES | _SHORT_LOOPS | home | settings) as server:
        yield server


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of a full server, shared by the tests of a session."""
    with made_once(tmp_path_factory, "prefect-server", _url(tmp_path_factory)) as url:
        yield url


@contextmanager
def _url(factory: pytest.TempPathFactory) -> Iterator[str]:
    with full_server(factory.mktemp("prefect")) as server:
        yield server.url
