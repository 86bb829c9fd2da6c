"""What `stylefarm deploy` and `stylefarm automations` have made works: real workers, real runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import temporary_settings
from prefect.states import Pending, Running

from flows.automations import Told, contents, write_automation
from flows.deploying import TAG, Asked, Kind, deploy_job
from flows.job import work_on_run
from flows.terminal import Terminal
from manifests.job import load_job
from tasks.inputs.output_place import OutputPlace
from tests.audit import audit
from tests.bad_images import write_truncated_jpeg
from tests.command_line import command_environment, run_command
from tests.conftest import write_pictures
from tests.flows.jobs import write_job
from tests.prefect_server import full_server

pytestmark = pytest.mark.slow

PATIENCE = 240.0
"""Seconds on a busy machine; a quiet one needs a tenth."""


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `what` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain"
        time.sleep(0.1)
    return found


class Receiver:
    """Whoever is notified: an HTTP server that keeps what it is told."""

    def __init__(self, url: str, told: list[dict[str, str]]) -> None:
        self.url = url
        self.told = told

    def about(self, words: str) -> list[dict[str, str]]:
        """What was told, with those words in the subject."""
        return [one for one in self.told if words in one["subject"]]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """One on a free port of this machine, until the end of the block."""
    told: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Receiver(f"http://127.0.0.1:{server.server_port}/", told)
        server.shutdown()
        thread.join()


def block_of(notified: Receiver) -> UUID:
    """A notification block that tells a receiver."""
    told = {"subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="any", url=notified.url, json_data=told)
    return block.save(f"receiver-{uuid4().hex}")


@contextmanager
def worker(url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool `gpu` in an empty folder, until the end of the block."""
    folder.mkdir()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "gpu"]
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            command,
            cwd=folder,
            env=command_environment(url) | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield started
        finally:
            for number in (signal.SIGCONT, signal.SIGKILL):
                os.killpg(started.pid, number)
            started.wait()


def start(client: SyncPrefectClient, name: str) -> Any:
    """A flow run of a deployment, to be started by a worker."""
    deployment = client.read_deployment_by_name(name)
    return client.create_flow_run_from_deployment(deployment.id)


def state_of(client: SyncPrefectClient, run: Any) -> Any:
    return client.read_flow_run(run.id).state


def process_of(run: Any) -> int | None:
    """The process of a flow run on this machine."""
    mark = f"PREFECT__FLOW_RUN_ID={run.id}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
        except OSError:
            continue
    return None


def is_complete(run_folder: Path) -> bool:
    index = run_folder / "index.json"
    return index.exists() and json.loads(index.read_text())["complete"]


def deploy(folder: Path, name: str, only: Kind) -> None:
    """Deploys a small job from this process."""
    deploy_job(
        Terminal(),
        load_job(write_job(folder)),
        name=name,
        base=str(folder),
        place=OutputPlace(str(folder / "run")),
        asked=Asked(only=only),
    )


def deployed(folder: Path, url: str, **changes: Any) -> Path:
    """The run folder of a job that the command has deployed."""
    job = write_job(folder, **changes)
    answer = run_command("deploy", job, folder=folder.parent, server=url)
    assert answer.code == 0, answer
    return folder / "run"


def test_automations_notify_of_a_standstill_of_a_completion_of_lateness_and_once_of_a_failure(
    tmp_path: Path,
):
    good, bad = tmp_path / "good", tmp_path / "bad"
    for folder in (good, bad):
        folder.mkdir()
        write_pictures(folder)
    write_truncated_jpeg(bad / "content")
    with (
        full_server(tmp_path / "server") as server,
        temporary_settings({"api.url": server.url}),
        get_client(sync_client=True) as client,
        receiver() as notified,
        worker(server.url, tmp_path / "elsewhere"),
    ):
        block = block_of(notified)
        for name, content in contents().items():
            if name in ("stylefarm-no-progress", "stylefarm-late"):
                content["trigger"]["within"] = 10  # the least that Prefect takes
            write_automation(client, content, Told(block, "send-notification"))
        deploy(good, "good", only="run")
        run = start(client, "stylefarm-run/good")
        process = wait_for(lambda: process_of(run))
        wait_for(lambda: state_of(client, run).type.value == "RUNNING")
        os.kill(process, signal.SIGSTOP)
        waiting = start(client, "stylefarm-run/good")
        standstill, *_ = wait_for(lambda: notified.about("no progress of good"))
        assert "committed" in standstill["body"]
        (late,) = wait_for(lambda: notified.about("no worker takes a flow run of good"))
        assert "prefect worker start --pool gpu" in late["body"]
        assert str(waiting.id) in late["body"]
        client.delete_flow_run(waiting.id)
        os.kill(process, signal.SIGCONT)
        wait_for(lambda: state_of(client, run).is_completed())
        (complete,) = wait_for(lambda: notified.about("is complete"))
        assert str(good / "run") in complete["body"]
        audit(good / "run")

        deploy(bad, "bad", only="extend")
        run = start(client, "stylefarm-extend/bad")
        wait_for(lambda: state_of(client, run).is_failed())
        wait_for(lambda: notified.about("failed"))
        time.sleep(3)  # the state of the flow run is told within that time, or not at all
        (failed,) = notified.about("failed")
        assert str(bad / "run") in failed["body"]


@pytest.mark.parametrize("action", ["send-notification", "call-webhook"])
def test_what_several_flow_runs_tell_of_one_run_is_told_once(prefect_server: str, action: str):
    uris = [f"/{action}/one", f"/{action}/two"]
    name = f"monet-{uuid4().hex}"  # other runs end on the same server, and are told of, too
    with (
        temporary_settings({"api.url": prefect_server}),
        get_client(sync_client=True) as client,
        receiver() as notified,
    ):
        if action == "call-webhook":
            block = Webhook.model_validate({"url": notified.url}).save(f"hook-{uuid4().hex}")
        else:
            block = block_of(notified)
        write_automation(client, contents()["stylefarm-completion"], Told(block, action))
        time.sleep(2)  # the server's triggers hear of a new automation a moment later
        for uri in (uris[0], *uris):
            event = {
                "id": str(uuid4()),
                "event": "stylefarm.run.complete",
                "occurred": datetime.now(UTC).isoformat(),
                "resource": {
                    "prefect.resource.id": "stylefarm.run.0123456789ab",
                    "prefect.resource.name": name,
                    "stylefarm.run_uri": uri,
                },
                "payload": {"message": 'all "good"'},
            }
            client.request("POST", "/events", json=[event])
        wait_for(lambda: len(notified.about(name)) == 2)
        time.sleep(2)
    assert {one["subject"] for one in notified.about(name)} == {f"stylefarm: {name} is complete"}
    assert sorted(one["body"].split() for one in notified.about(name)) == [
        ["all", '"good"', "Run", "folder:", uri] for uri in uris
    ]


def test_a_flow_run_whose_worker_is_gone_before_it_began_is_marked_as_crashed(prefect_server: str):
    content = contents()["stylefarm-never-began"]
    content["trigger"]["within"] = 10  # the least that Prefect takes
    with (
        temporary_settings({"api.url": prefect_server}),
        get_client(sync_client=True) as client,
    ):
        write_automation(client, content)
        time.sleep(2)  # the server's triggers hear of a new automation a moment later
        runs = [
            client.create_flow_run(work_on_run, parameters={"run": "any"}, tags=[TAG])
            for _ in range(2)
        ]
        for run in runs:
            client.set_flow_run_state(run.id, Pending(name="Submitting"))
        client.set_flow_run_state(runs[1].id, Running())
        wait_for(lambda: state_of(client, runs[0]).is_crashed())
        assert state_of(client, runs[1]).is_running()
        for one in client.read_automations_by_name(content["name"]):
            client.delete_automation(one.id)  # other tests' flow runs may take longer to begin


def test_work_in_hand_is_committed_though_its_queue_and_then_the_server_are_gone(tmp_path: Path):
    folder = tmp_path / "job"
    folder.mkdir()
    write_pictures(folder)
    with worker_and_server(tmp_path) as (server, client):
        run_folder = deployed(folder, server.url, name="job", settings={"num_inference_steps": 12})
        first, second = (start(client, f"stylefarm-{flow}/job") for flow in ("run", "extend"))
        wait_for(lambda: any((run_folder / "attempts").glob("*/*.json")))
        states = {state_of(client, one).type.value for one in (first, second)}
        assert states == {"RUNNING", "SCHEDULED"}, "one at a time in the job's queue"
        queue = client.read_work_queue_by_name("job", "gpu")
        client.delete_work_queue_by_id(queue.id)
        server.close()
        wait_for(lambda: is_complete(run_folder))
    audit(run_folder)


@contextmanager
def worker_and_server(folder: Path) -> Iterator[tuple[Any, SyncPrefectClient]]:
    with (
        full_server(folder / "server") as server,
        temporary_settings({"api.url": server.url}),
        get_client(sync_client=True) as client,
        worker(server.url, folder / "elsewhere"),
    ):
        yield server, client
