"""A Prefect server asked over HTTP, and processes that serve flows or work on a pool of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.job import load_job
from tests.flows.running import slow_environment

PATIENCE_SECONDS = 300
"""For the whole of a night on a busy machine; a test that waits longer fails."""

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Prefect:
    """A server, by the URL of its API."""

    url: str

    def ask(self, path: str, body: Any = None, *, method: str = "") -> Any:
        """What it answers; asked again where its database is busy.

        Raises:
            HTTPError: it refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}{path}", data, headers, method=method or ("POST" if data else "GET")
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with opener.open(request, timeout=PATIENCE_SECONDS) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as refused:
                if refused.code != 503 or time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def begin(self, deployment: str, **flow_run: Any) -> str:
        """Starts a flow run of a deployment; its id."""
        found = self.ask(f"/deployments/name/{deployment}")
        state = {"type": "SCHEDULED"}
        path = f"/deployments/{found['id']}/create_flow_run"
        return self.ask(path, {"state": state, **flow_run})["id"]

    def cancel(self, flow_run: str) -> None:
        """What the button of a flow run does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask(f"/flow_runs/{flow_run}/set_state", {"state": state})

    def state(self, flow_run: str) -> dict[str, Any]:
        """The state of a flow run."""
        return self.ask(f"/flow_runs/{flow_run}")["state"]

    def end_of(self, flow_run: str) -> dict[str, Any]:
        """The state that a flow run has ended with."""
        wait_for(lambda: self.state(flow_run)["type"] in FINAL, f"the end of {flow_run}")
        return self.state(flow_run)

    def log_of(self, flow_run: str) -> list[str]:
        """What a flow run has logged, in order."""
        chosen = {"flow_run_id": {"any_": [flow_run]}}
        found = self.ask("/logs/filter", {"logs": chosen, "sort": "TIMESTAMP_ASC"})
        return [line["message"] for line in found]


def job_parameters(path: Path) -> dict[str, Any]:
    """The parameters of a flow that do what a job file says."""
    job = load_job(path).model_dump(mode="json", exclude_unset=True)
    return {"job": job, "base": str(path.parent)}


def start_python(
    code: str, *arguments: str, folder: Path, server: str, **environment: str
) -> subprocess.Popen[bytes]:
    """Python in a session of its own, with a Prefect home of its own; polls every second."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    around = slow_environment(scratch, server) | {
        "STYLEFARM_PLANTED_SECONDS": "0",
        "STYLEFARM_PLANTED_NOTHING": "1",
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # the least
        "PREFECT_CLIENT_MAX_RETRIES": "10",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=around | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait_for(moment: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits for a moment; fails where it does not come."""
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.2)


def processes_of(flow_run: str) -> list[int]:
    """The processes that were started for a flow run, and what they have started."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            is_dead = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue  # it has ended meanwhile
        if flow_run.encode() in environment and not is_dead:
            found.append(int(process.name))
    return sorted(found)


def attempts(folder: Path) -> list[dict[str, Any]]:
    """What workers have written of their attempts at shards of a run."""
    found: list[dict[str, Any]] = []
    for path in folder.glob("attempts/*/*.json"):
        try:
            found.append(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue  # it is being written
    return found


def end(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a process and its group, and kills them where they stay."""
    for one in (number, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, one)
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
            return
