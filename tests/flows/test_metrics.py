"""What workers serve for Prometheus, asked for over HTTP while they work."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.crew import LocalCrew
from flows.metrics_server import metrics_served
from flows.stopping import Stopping
from infra.store import open_store
from manifests.commits import Commit, Counts, commit_name, read_commit
from manifests.items import ErrorClass
from manifests.job import Compute
from manifests.shard_stats import ShardStats
from tasks.work.events import (
    Began,
    Committed,
    CommittedElsewhere,
    Ended,
    ItemDone,
    Pending,
    Phase,
    Restarted,
    WorkEvent,
)
from tasks.work.fork_server import ForkServer
from tasks.work.metrics import WorkerMetrics
from tests.bad_images import write_truncated_jpeg
from tests.conftest import write_pictures
from tests.flows.running import wait_until
from tests.tasks.runs import prepare

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]

NUM_WORKERS = 2


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens at now."""
    while True:
        with closing(socket.create_server(("", 0))) as first:
            port = first.getsockname()[1]
        try:
            for one in range(port, port + number):
                socket.create_server(("", one)).close()
        except (OSError, OverflowError):
            continue
        return port


def figures(text: str) -> Figures:
    """The samples of a page, by name and labels; all of them name one run."""
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    assert len({sample.labels.pop("run") for sample in samples}) == 1
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(found: Figures, name: str, **labels: str) -> float:
    return found[f"stylefarm_{name}", frozenset(labels.items())]


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.read().decode()


def served(
    port: int,
    tell: Callable[[WorkEvent], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AbstractContextManager[Callable[[WorkEvent], None]]:
    """The figures of a worker that works on no run."""
    return metrics_served("run", Compute(metrics_port=port), 0, tell, should_stop)


@dataclass
class Watched:
    """A run of two workers, what each served as it began and as it ended, and what it told."""

    uri: str
    first_port: int
    told: list[WorkEvent] = field(default_factory=list)
    at_start: dict[str, Figures] = field(default_factory=dict)
    at_end: dict[str, Figures] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, event: WorkEvent) -> None:
        """Scrapes whoever begins or ends; that worker waits meanwhile."""
        self.told.append(event)
        for kind, pages in ((Began, self.at_start), (Ended, self.at_end)):
            if isinstance(event, kind):
                pages[event.worker] = self.served_by(event.worker)

    def served_by(self, worker: str) -> Figures:
        for port in range(self.first_port, self.first_port + NUM_WORKERS):
            try:
                text = scrape(port)
            except OSError:
                continue
            if f'worker="{worker}"' in text:
                return figures(text)
        raise AssertionError(f"{worker} serves nothing")

    def commits_of(self, worker: str) -> list[Commit]:
        store = open_store(self.uri)
        shards = [
            event.shard
            for event in self.told
            if isinstance(event, Committed) and event.worker == worker
        ]
        return [read_commit(store.get(commit_name(shard)), shard) for shard in shards]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, shared_server: ForkServer) -> Watched:
    folder = write_pictures(tmp_path_factory.mktemp("metrics"))
    write_truncated_jpeg(folder / "content")
    port = free_ports(NUM_WORKERS)
    run = prepare(folder, compute__shard_items=1)
    watched = Watched(run.uri, port)
    compute = Compute(
        workers=NUM_WORKERS, metrics_port=port, price_per_hour=3600.0, device="cpu", batch_size=1
    )
    with LocalCrew(
        *(run.uri, ["cpu"] * NUM_WORKERS, compute),
        server=shared_server,
        stopping=Stopping(),
        tell=watched.tell,
    ) as crew:
        assert not crew.wait()
    return watched


@pytest.fixture(params=range(NUM_WORKERS))
def worker(request: pytest.FixtureRequest, watched: Watched) -> str:
    return sorted(watched.at_end)[request.param]


def test_every_worker_serves_from_its_start_to_its_end(watched: Watched):
    assert len(watched.at_start) == len(watched.at_end) == NUM_WORKERS
    for page in watched.at_start.values():
        assert value(page, "items_total", status="ok") == 0
        for name in ErrorClass:
            assert value(page, "item_failures_total", error_class=name) == 0
    for port in range(watched.first_port, watched.first_port + NUM_WORKERS):
        with pytest.raises(OSError, match="refused"):
            scrape(port)


def test_what_a_worker_serves_is_the_sum_of_its_commits(watched: Watched, worker: str):
    page, commits = watched.at_end[worker], watched.commits_of(worker)
    stats = ShardStats.total(commit.stats for commit in commits)
    counts = sum((commit.counts for commit in commits), Counts())
    assert value(page, "items_total", status="ok") == counts.ok
    assert value(page, "items_total", status="failed") == counts.failed
    failures = {
        dict(labels)["error_class"]: number
        for (name, labels), number in page.items()
        if name == "stylefarm_item_failures_total"
    }
    assert failures == dict.fromkeys(ErrorClass, 0) | stats.errors
    assert value(page, "shards_total", outcome="committed") == len(commits)
    seconds = {
        "load": stats.load_seconds,
        "wait_for_input": stats.seconds_wait_for_input,
        "render": stats.render_seconds,
        "wait_for_output": stats.seconds_wait_for_output,
        "encode": stats.encode_seconds,
        "upload": stats.seconds_upload,
    }
    for phase, expected in seconds.items():
        assert value(page, "phase_seconds_total", phase=phase) == pytest.approx(expected or 0.0)
    assert value(page, "device_seconds_total") == pytest.approx(stats.device_seconds)
    assert value(page, "cost_total") == pytest.approx(stats.device_seconds), "a second costs 1"
    assert value(page, "output_bytes_total") == stats.output_bytes
    if stats.peak_memory_bytes is not None:
        assert value(page, "peak_memory_bytes") == stats.peak_memory_bytes


def test_a_complete_run_has_nothing_pending(watched: Watched, worker: str):
    pending = [one for one in watched.told if isinstance(one, Pending) and one.worker == worker]
    assert 0 < pending[0].shards <= pending[0].items <= 8
    assert value(watched.at_end[worker], "pending_shards") == 0
    assert value(watched.at_end[worker], "pending_items") == 0


def test_commits_on_a_cpu_say_what_their_renderer_held_at_most(watched: Watched):
    commits = [one for worker in watched.at_end for one in watched.commits_of(worker)]
    assert len(commits) == 8
    for commit in commits:
        held = commit.stats.peak_memory_bytes
        assert (held is None) == (commit.counts.ok == 0)
        assert held is None or 50 << 20 < held < 8 << 30, "torch and a tiny model"


def test_what_was_lost_or_taken_over_or_begun_anew_is_counted_once():
    metrics = WorkerMetrics("run")

    def count(name: str, label: str = "") -> dict[str, float]:
        samples = [sample for one in metrics.collect() for sample in one.samples]
        named = [one for one in samples if one.name == f"stylefarm_{name}_total"]
        return {one.labels.get(label, ""): one.value for one in named if one.value}

    for shard in ("lost", "elsewhere"):
        metrics.tell(ItemDone("w", shard, shard=shard))
    metrics.tell(Phase("w", name="committing", shard="lost"))
    metrics.tell(Phase("w", name="loading", shard="elsewhere"))
    for shard in ("lost", "elsewhere"):
        metrics.tell(CommittedElsewhere("w", shard=shard))
    assert count("shards", "outcome") == {"lost": 1}
    metrics.tell(ItemDone("w", "a", "oom", shard="mine"))  # an earlier worker made the others
    stats = ShardStats(errors={"oom": 1, "decode": 1}, largest_batch=1)
    counts = Counts(planned=5, ok=3, failed=2)
    metrics.tell(Committed("w", shard="mine", counts=counts, seconds=1.0, stats=stats))
    assert count("items", "status") == {"ok": 2 + 3, "failed": 2}
    assert count("item_failures", "error_class") == {"oom": 1, "decode": 1}
    assert count("shards", "outcome") == {"committed": 1, "lost": 1}
    metrics.tell(Restarted("w", shard="next", reason="it died"))
    assert count("restarts") == {"": 1}


def test_a_job_without_a_price_serves_no_money(tmp_path: Path):
    port = free_ports(1)
    with served(port):
        text = scrape(port)
    assert value(figures(text), "device_seconds_total") == 0
    assert "cost" not in text


@pytest.fixture
def taken_port() -> Iterator[int]:
    port = free_ports(3)
    with closing(socket.create_server(("", port))):
        yield port


def test_where_a_port_is_taken_the_next_free_one_serves_and_a_sentence_says_so(
    taken_port: int, caplog: pytest.LogCaptureFixture
):
    with (
        served(taken_port) as tell,
        served(taken_port),
    ):
        tell(Began("first", host="h", device="cpu"))
        assert 'worker="first"' in scrape(taken_port + 1)
        assert 'worker="first"' not in scrape(taken_port + 2)
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == 2
    assert f"port {taken_port} is not free" in warnings[0]
    assert f"served at port {taken_port + 1}" in warnings[0]


def test_without_any_free_port_the_work_goes_on(
    taken_port: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.metrics_server.MAX_WORKERS", 0)
    told: list[WorkEvent] = []
    with served(taken_port, told.append) as tell:
        tell(Ended("first"))
    assert told == [Ended("first")]
    (warning,) = (one.getMessage() for one in caplog.records)
    assert f"none of the ports {taken_port} to {taken_port} is free" in warning
    assert "this worker serves no metrics" in warning


def test_a_client_that_goes_away_concerns_nobody(capfd: pytest.CaptureFixture[str]):
    port = free_ports(1)
    with served(port):
        for _ in range(3):
            with closing(socket.create_connection(("127.0.0.1", port))) as client:
                client.sendall(b"GET /metrics HTTP/1.0\r\n")
        assert "stylefarm_items_total" in scrape(port)
    assert capfd.readouterr().err == ""


def test_a_client_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("flows.metrics_server.CLIENT_SECONDS", 0.05)
    port = free_ports(1)
    with (
        served(port),
        closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as client,
    ):
        assert client.recv(1) == b""


@contextmanager
def asked_regularly(port: int) -> Iterator[list[str]]:
    """The pages that somebody gets who asks until nobody answers; two or more when it begins."""
    pages: list[str] = []

    def ask() -> None:
        with suppress(OSError):
            while True:
                pages.append(scrape(port))
                time.sleep(0.1)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: len(pages) > 1)
    yield pages
    asking.join()


def test_who_asks_regularly_gets_the_last_figures():
    port = free_ports(1)
    with ExitStack() as asking, served(port) as tell:
        pages = asking.enter_context(asked_regularly(port))
        tell(Pending("w", shards=7, items=70))
    assert value(figures(pages[-1]), "pending_shards") == 7


def test_who_is_told_to_stop_waits_for_nobody(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    port = free_ports(1)
    with served(port, should_stop=lambda: True) as tell:
        scrape(port)
        scrape(port)
        tell(Pending("w", shards=7, items=70))
    assert "metrics of this worker" in caplog.text
    assert "the last figures" not in caplog.text


DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "stylefarm.json"


def test_every_name_and_label_of_the_dashboard_is_served(watched: Watched):
    board = json.loads(DASHBOARD.read_text())
    found = {key for page in watched.at_end.values() for key in page}
    names = {name for name, _ in found}
    labels = {label for _, pairs in found for label, _ in pairs} | {"run"}
    queries = [
        target["expr"] for panel in board["panels"] for target in panel.get("targets", ())
    ] + [variable["query"]["query"] for variable in board["templating"]["list"][1:]]
    assert len(queries) > 10
    for query in queries:
        assert set(re.findall(r"stylefarm_\w+", query)) <= names, query
        for asked in re.findall(r"(?:by|group_left) \(([^)]*)\)", query):
            assert set(filter(None, re.split(r",\s*", asked))) <= labels, query


def test_the_dashboard_asks_for_its_data_source_and_shows_what_an_operator_looks_for():
    board = json.loads(DASHBOARD.read_text())
    kinds = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert kinds == {"datasource": "datasource", "run": "query"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in board["panels"])
    shown = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    assert not re.findall(r'stylefarm_\w+(?!\w|{run=~"\$run"})', shown), "of the chosen runs only"
    for name in (
        *("items_total", "item_failures_total", "phase_seconds_total", "pending_items"),
        *("pending_shards", "peak_memory_bytes", "cost_total"),
    ):
        assert f"stylefarm_{name}" in shown
    (stacked,) = (panel for panel in board["panels"] if panel["title"] == "Where the time goes")
    assert stacked["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
