"""A run folder on a store that fails at one request: the right outcome all the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from infra.store import StoreUnreachable, open_store
from tasks.results.publishing import publish
from tasks.runs.faults import StoreTrouble
from tests.audit import audit
from tests.fault_proxy import Fault, FaultProxy
from tests.s3_server import S3Server
from tests.tasks.runs import download, prepare, work_here

pytestmark = pytest.mark.s3


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def run(pictures, s3_bucket, proxy, monkeypatch) -> Any:
    """A planned run of one shard on S3; from here on all requests pass the proxy."""
    run = prepare(pictures, output__uri=f"s3://{s3_bucket}/run", limits={"max_items": 2})
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    return run


def held(run: Any, proxy: FaultProxy, folder: Any, **options: bool) -> dict[str, int]:
    """The counts of the run as its files tell them, once the network is well again."""
    proxy.faults = []
    return audit(download(run.uri, folder), **options).counts


BEAT = ("PUT", "/1.json")
"""Also how a first attempt is begun and ended."""

PATHS = [r"/data/.*\.tar", r"/data/.*\.parquet", "/commits/"]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *((kind, path) for kind in ("slowdown", "ack_lost") for path in PATHS),
        *((kind, "/commits/") for kind in ("error500", "reset")),
    ],
)
def test_one_failed_write_goes_unnoticed(run, proxy, tmp_path, kind, path):
    proxy.faults = [Fault(kind, method="PUT", path=path, first=1)]
    assert work_here(run.uri).num_committed == 1
    assert proxy.num_injected == 1
    publish(run.uri)
    assert held(run, proxy, tmp_path / "copy")["ok"] == 2


@pytest.mark.parametrize("path", PATHS)
def test_a_store_that_stays_busy_ends_the_worker_and_the_next_one_succeeds(
    run, proxy, tmp_path, monkeypatch, path
):
    proxy.faults = [Fault("slowdown", method="PUT", path=path)]
    monkeypatch.setattr("tasks.work.patience.AWAY_SECONDS", 0.0)
    with pytest.raises(StoreTrouble):
        work_here(run.uri)
    assert held(run, proxy, tmp_path / "1", published=False, complete=False)["pending"] == 2
    assert "attempts/00000/1.json" in {one.key for one in open_store(run.uri).list()}
    assert work_here(run.uri).num_committed == 1
    publish(run.uri)
    assert held(run, proxy, tmp_path / "2")["ok"] == 2


def test_a_commit_whose_answers_are_all_lost_is_settled_by_reading_it_back(run, proxy, tmp_path):
    proxy.faults = [Fault("ack_lost", method="PUT", path="/commits/")]
    assert work_here(run.uri).num_committed == 1
    publish(run.uri)
    assert held(run, proxy, tmp_path / "copy")["ok"] == 2


def test_a_store_that_is_away_is_an_error_of_the_store_and_no_property_of_items(
    run, proxy, tmp_path
):
    proxy.faults = [Fault("reset")]
    with pytest.raises(StoreUnreachable, match="does not answer"):
        work_here(run.uri)
    assert held(run, proxy, tmp_path / "1", published=False, complete=False)["pending"] == 2


def test_a_shard_costs_at_most_seven_requests_of_a_real_server(
    pictures, s3_bucket, proxy, monkeypatch
):
    """Besides beats, which rewrite an attempt that has begun, and the page of a complete run."""
    uri = f"s3://{s3_bucket}/run"
    run = prepare(pictures, output__uri=uri, compute__shard_items=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

    def requests(num_shards: int) -> int:
        proxy.faults = []
        assert work_here(run.uri, max_shards=num_shards).num_committed == num_shards
        beats = [method for method, path in proxy.requests if (method, path[-7:]) == BEAT]
        return len(proxy.requests) - max(0, len(beats) - 2 * num_shards)

    at_the_start = requests(1)
    assert requests(4) - at_the_start <= 3 * 7
