"""Prefect only watches: whatever is the matter with it is one sentence, and holds nobody up."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flows import observing
from flows.observing import Observer
from flows.progress import RunEnd, Snapshot
from flows.shown_run import ShownRun
from flows.stopping import Stopping
from infra.prefect_server import private_server
from manifests.commits import Counts
from manifests.shard_stats import ShardStats
from tasks.work.events import Began, Committed, Ended, ItemDone
from tests.flows.running import living, wait_until

GOOD = RunEnd(
    is_good=True, message="2 ok", counts=Counts(planned=2, ok=2), digest="the rows of the run"
)


class Halfway:
    """The progress of a run that stands still."""

    def read(self) -> Snapshot:
        return Snapshot(phase="rendering", done=1, total=2, figures="1/2 items")


@dataclass
class Shown:
    """A run of which Prefect is told, without a run; what is said of Prefect is in `sentences`."""

    folder: Path
    sentences: list[str] = field(default_factory=list)
    fingerprint: str = field(default_factory=lambda: uuid4().hex)
    stopping: Stopping = field(default_factory=Stopping)
    end: RunEnd = GOOD

    def __post_init__(self) -> None:
        self._open = ExitStack()

    def __enter__(self) -> Shown:
        before = children()
        self.observer = Observer(
            *("nightly", ShownRun(str(self.folder / "run"), self.fingerprint, "monet"), Halfway()),
            stopping=self.stopping,
            say=self.sentences.append,
        )
        self._open.enter_context(self.observer)
        (self.pid,) = children() - before
        self.observer.tell(Began("a", host="here", device="cpu"))
        return self

    def commit(self, shard: str = "00000") -> None:
        counts = Counts(planned=1, ok=1)
        stats = ShardStats(errors={"decode": 1})
        self.observer.tell(Committed("a", shard=shard, counts=counts, seconds=1.0, stats=stats))

    def __exit__(self, *_: object) -> None:
        self.observer.tell(Ended("a"))
        self.observer.tell_end(self.end)
        self._open.close()
        wait_until(lambda: not living(self.pid))


def children() -> set[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PREFECT_HOME whose empty record is made once."""
    home = tmp_path_factory.mktemp("home")
    with private_server(home / "stylefarm"):
        return home


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Waits as long as a busy machine needs; what tests a limit sets its own."""
    for limit in ("ANSWER_SECONDS", "RECORD_SECONDS", "FAREWELL_SECONDS"):
        monkeypatch.setattr(observing, limit, 60.0)
    return Shown(tmp_path)


@pytest.fixture
def private(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No server is configured; the folder where a private one keeps its record."""
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv("PREFECT_HOME", str(home))
    return home / "stylefarm"


def asked(server: str, kind: str, **body: Any) -> list[dict[str, Any]]:
    """What a server has on record: its `flow_runs`, `task_runs`, `logs`, `events`, `artifacts`."""
    headers = {"content-type": "application/json"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server}/{kind}/filter", data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    return found["events"] if isinstance(found, dict) else found


def test_a_run_is_a_flow_run_with_a_task_run_an_event_for_each_commit_and_its_progress(
    prefect_server: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # not asked for this machine's server
    with shown:
        shown.commit()
        shown.observer.tell(ItemDone("a", "boat", "decode", message="it ends early"))
    assert shown.sentences == []
    (flow_run,) = [run for run in asked(prefect_server, "flow_runs") if run["name"] == "nightly"]
    assert flow_run["state"]["type"] == "COMPLETED"
    assert flow_run["state"]["message"] == "2 ok"

    def of_flow_run(kind: str) -> list[dict[str, Any]]:
        return [one for one in asked(prefect_server, kind) if one["flow_run_id"] == flow_run["id"]]

    wait_until(lambda: [run["state_type"] for run in of_flow_run("task_runs")] == ["COMPLETED"])
    assert [run["name"] for run in of_flow_run("task_runs")] == ["work-0-cpu"]
    (task_run,) = of_flow_run("task_runs")
    assert task_run["state"]["message"] == "1 ok of 1 item in 1 shard, 1.0 s"
    lines = [log["message"] for log in of_flow_run("logs")]
    assert "shard 00000 is committed after 1.0 s: 1 ok of 1 item" in lines
    assert "item boat failed: decode: it ends early" in lines
    artifacts = {one["key"] for one in of_flow_run("artifacts")}
    assert artifacts == {
        *("stylefarm-progress", "stylefarm-counts", "stylefarm-failures", "stylefarm-report")
    }

    def events(name: str) -> list[dict[str, Any]]:
        chosen = {"event": {"name": [f"stylefarm.{name}"]}}
        return [
            event
            for event in asked(prefect_server, "events", filter=chosen)
            if any(flow_run["id"] in one["prefect.resource.id"] for one in event["related"])
        ]

    (progress,) = [one for one in of_flow_run("artifacts") if one["key"] == "stylefarm-progress"]
    assert float(progress["data"]) == 50.0
    assert progress["description"] == "2 ok"  # it was made halfway, and is what it was in the end
    run_id = f"stylefarm.run.{shown.fingerprint[:12]}"
    wait_until(lambda: len(events("shard.committed")) == len(events("run.complete")) == 1)
    (committed,), (complete,) = events("shard.committed"), events("run.complete")
    told = {key: committed["payload"][key] for key in ("shard", "seconds", "errors")}
    assert told == {"shard": "00000", "seconds": 1.0, "errors": {"decode": 1}}
    assert committed["payload"]["counts"]["ok"] == 1
    assert run_id in [one["prefect.resource.id"] for one in committed["related"]]
    assert complete["resource"]["prefect.resource.id"] == run_id
    assert complete["resource"]["prefect.resource.name"] == "monet"
    assert complete["resource"]["stylefarm.run_uri"] == complete["payload"]["run_uri"]
    assert complete["payload"]["counts"]["ok"] == 2
    assert complete["payload"]["message"] == "2 ok"

    with shown:  # somebody else sees the same end
        pass
    with Shown(shown.folder, fingerprint=shown.fingerprint) as failing:
        failing.end = RunEnd(is_good=False, message="the disk is full")
    with Shown(shown.folder, fingerprint=shown.fingerprint) as stopped:
        stopped.end = RunEnd(is_good=False, message="stopped", is_part=True)

    def ends() -> list[str]:
        chosen = {"event": {"prefix": ["stylefarm.run."]}, "resource": {"id": [run_id]}}
        return sorted(one["event"] for one in asked(prefect_server, "events", filter=chosen))

    wait_until(lambda: "stylefarm.run.failed" in ends())
    assert ends() == ["stylefarm.run.complete", "stylefarm.run.failed"]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts whoever comes and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/api"


class _Answers(BaseHTTPRequestHandler):
    status, body = 500, b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status if "health" not in self.path else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


class _OtherVersion(_Answers):
    status, body = 200, b'"2.20.9"'


class _NoPrefect(_Answers):
    status, body = 200, b"<html>Welcome!</html>"


@pytest.fixture
def answering() -> Iterator[Callable[[type[_Answers]], str]]:
    """Starts a server that answers as it is told to; gives its URL."""
    with ExitStack() as servers:

        def start(handler: type[_Answers]) -> str:
            server = servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            servers.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/api"

        yield start


@pytest.mark.parametrize("handler", [_Answers, _OtherVersion, _NoPrefect])
def test_a_server_that_is_broken_or_of_another_version_is_one_sentence(
    answering: Callable[[type[_Answers]], str],
    handler: type[_Answers],
    shown: Shown,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PREFECT_API_URL", answering(handler))
    with shown:
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert "goes on without Prefect" in shown.sentences[0]


def test_a_server_that_never_answers_is_named_and_holds_nobody_up(
    silent: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_URL", silent)
    with shown:
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert f"names {silent}, which does not answer (timed out)" in shown.sentences[0]


def test_a_server_that_comes_late_shows_the_run_from_its_beginning(
    prefect_server: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    with closing(socket.socket()) as place:
        place.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{place.getsockname()[1]}/api")
        with shown:
            shown.commit("00007")
            time.sleep(1)
            place.listen()
            host, port = prefect_server.removeprefix("http://").removesuffix("/api").split(":")
            threading.Thread(target=forward, args=[place, (host, int(port))], daemon=True).start()
    assert shown.sentences == []
    assert "shard 00007 is committed" in " ".join(
        log["message"] for log in asked(prefect_server, "logs", sort="TIMESTAMP_DESC")
    )


def forward(place: socket.socket, target: tuple[str, int]) -> None:
    """Passes all connections on to another address, both ways, until the place is closed."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            try:
                while data := source.recv(1 << 16):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    while True:
        try:
            client, _ = place.accept()
        except OSError:
            return
        server = socket.create_connection(target)
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def shown_on_record(folder: Path, before: set[Path]) -> Path:
    """Waits until a private server has a flow run on the record that has come into the folder."""

    def has_flow_run() -> bool:
        for record in set(folder.glob("*.db")) - before:
            with closing(sqlite3.connect(record)) as database, suppress(sqlite3.Error):
                return bool(database.execute("select count(*) from flow_run").fetchone()[0])
        return False

    wait_until(has_flow_run)
    (record,) = set(folder.glob("*.db")) - before
    return record


def test_a_private_server_whose_record_is_deleted_in_the_middle_is_one_sentence(
    private: Path, shown: Shown
):
    before = set(private.glob("*.db"))
    with shown:
        record = shown_on_record(private, before)
        for path in private.glob(f"{record.name}*"):
            path.unlink()
        wait_until(lambda: bool(shown.sentences))
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert f"its record {record} is gone" in shown.sentences[0]


def test_a_private_server_that_is_killed_in_the_middle_is_one_sentence(private: Path, shown: Shown):
    before = set(private.glob("*.db"))
    with shown:
        shown_on_record(private, before)
        shown.commit()
        (server,) = set(living(shown.pid)) - {shown.pid}
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: bool(shown.sentences))
        shown.commit("00001")
    assert len(shown.sentences) == 1, shown.sentences
    assert "its private server has ended (exit code -9)" in shown.sentences[0]


def test_a_private_server_that_stands_still_is_left_behind(
    private: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    before = set(private.glob("*.db"))
    with shown:
        shown_on_record(private, before)
        (server,) = set(living(shown.pid)) - {shown.pid}
        os.kill(server, signal.SIGSTOP)
        monkeypatch.setattr(observing, "RECORD_SECONDS", 2.0)
    assert len(shown.sentences) == 1, shown.sentences
    assert "it did not record the end of the run within 2 s" in shown.sentences[0]


def test_a_process_that_stands_still_takes_no_events_and_holds_up_nobody(
    private: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    before = set(private.glob("*.db"))
    with shown:
        shown_on_record(private, before)
        os.kill(shown.pid, signal.SIGSTOP)
        for number in range(20_000):  # more than a pipe holds
            shown.commit(f"{number:05d}")
        monkeypatch.setattr(observing, "RECORD_SECONDS", 0.5)
    assert len(shown.sentences) == 1, shown.sentences


def test_an_empty_record_that_is_damaged_is_made_again_and_the_run_is_shown(
    private: Path, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    home = tmp_path / "home"
    (home / "stylefarm").mkdir(parents=True)
    (empty,) = private.glob("empty-*")
    (home / "stylefarm" / empty.name).write_bytes(b"no database" * 1000)
    (home / "prefect.db").write_bytes(b"Prefect's own record is not read")
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with shown:
        shown_on_record(home / "stylefarm", set())
    assert shown.sentences == []
    assert f"{home / 'stylefarm' / empty.name} is damaged, and is made again" in caplog.text


def test_a_prefect_that_cannot_be_imported_is_one_sentence(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "__init__.py").write_text("raise SystemExit('out of order')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "")
    with shown:
        wait_until(lambda: bool(shown.sentences))
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert "SystemExit: out of order" in shown.sentences[0]


def test_settings_that_prefect_refuses_are_named(
    prefect_server: str, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PREFECT_API_REQUEST_TIMEOUT", "soon")
    with shown:
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert "Prefect refuses its settings (request_timeout" in shown.sentences[0]


def test_a_command_that_is_asked_to_stop_leaves_a_server_that_stands_still_without_a_word(
    private: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(observing, "FAREWELL_SECONDS", 0.2)
    with shown:
        os.kill(shown.pid, signal.SIGSTOP)
        shown.stopping.ask()
    assert shown.sentences == []


def test_a_process_that_is_killed_is_one_sentence(private: Path, shown: Shown):
    with shown:
        os.kill(shown.pid, signal.SIGKILL)
        wait_until(lambda: bool(shown.sentences))
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert "its process ended with exit code -9" in shown.sentences[0]


def test_a_home_of_prefect_that_cannot_be_written_is_named(
    shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "stylefarm").write_text("a file where a folder should be")
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    with shown:
        wait_until(lambda: bool(shown.sentences))
        shown.commit()
    assert len(shown.sentences) == 1, shown.sentences
    assert "set PREFECT_HOME to another folder" in shown.sentences[0]


def test_a_run_that_ends_before_its_server_is_up_does_not_wait_for_it_and_is_recorded(
    private: Path, shown: Shown
):
    before = set(private.glob("*.db"))
    with shown:
        shown.commit()
    assert shown.sentences == []
    with closing(sqlite3.connect(shown_on_record(private, before))) as database:
        (state,) = database.execute("select state_type from flow_run").fetchone()
    assert state == "COMPLETED"
