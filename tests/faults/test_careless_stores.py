"""A store that does not honour conditional writes is found by the probe and holds to one worker."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from infra.store import SettledStore, open_store
from manifests.errors import RunFolderError
from manifests.job import Compute
from tasks.inputs.devices import devices_of_run
from tasks.results.publishing import publish
from tasks.work.child import InThisProcess
from tasks.work.shard_work import ShardWork, Watch
from tasks.work.worker import Worked, work
from tests.audit import audit
from tests.s3_server import S3Server
from tests.tasks.runs import download, prepare, work_here


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["careless", "racing"])
def test_of_writers_at_the_same_time_one_is_the_first_though_the_store_takes_all(
    s3_server: S3Server, s3_bucket: str, kind: str
):
    store = SettledStore(open_store(f"s3://{s3_server.make_bucket(kind)}/run"))
    texts = [b"writer %d" % number for number in range(6)]
    with ThreadPoolExecutor(len(texts)) as pool:
        won = list(pool.map(lambda text: store.put_if_absent("key", text), texts))
    assert won.count(True) == 1
    assert store.get("key") == texts[won.index(True)]
    assert not store.put_if_absent("key", b"too late")


@pytest.mark.s3
def test_of_workers_that_begin_at_once_one_stays_and_finishes_the_run(
    s3_server: S3Server, s3_bucket: str, pictures: Path, tmp_path: Path
):
    uri = f"s3://{s3_server.make_bucket('careless')}/run"
    assert not prepare(pictures, output__uri=uri, compute__shard_items=3).run.conditional_put
    all_are_ready = Barrier(2)

    class Ready(InThisProcess):
        def render(self, work: ShardWork, watch: Watch, *, hang_seconds: float) -> None:
            if work.items:
                super().render(work, watch, hang_seconds=hang_seconds)
            else:  # only the model is to be loaded
                all_are_ready.wait(60)

    def works(number: int) -> Worked | RunFolderError:
        try:
            return work(
                uri,
                device="cpu",
                compute=Compute(),
                renderer=Ready(),
                should_stop=lambda: False,
                tell=lambda event: None,
            )
        except RunFolderError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(works, range(2)))
    (refused,) = (one for one in outcomes if isinstance(one, RunFolderError))
    assert "does not honour conditional writes, so one worker at a time" in str(refused)
    (stayed,) = (one for one in outcomes if isinstance(one, Worked))
    assert (stayed.num_lost, stayed.stopped) == (0, False)
    publish(uri)
    assert audit(download(uri, tmp_path / "copy")).counts["ok"] == 6


def test_a_filesystem_without_hard_links_bears_one_worker_too(pictures: Path, monkeypatch):
    def refuses(path: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("infra.settled_store.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(Path, "hardlink_to", refuses)
    run = prepare(pictures)
    assert not run.run.conditional_put
    assert work_here(run.uri).num_committed == 3
    publish(run.uri)
    assert audit(run.uri).counts["ok"] == 6


def test_a_machine_with_several_devices_takes_one_of_them_and_says_so(pictures: Path, caplog):
    run = prepare(pictures).run
    compute = Compute(device="cpu", workers=3)
    assert devices_of_run(run, compute) == ["cpu"] * 3
    careless = run.model_copy(update={"conditional_put": False})
    assert devices_of_run(careless, compute) == ["cpu"]
    assert "one worker, on cpu, instead of 3: the store of this run does not honour" in caplog.text
