"""A rendered shard and a store that cannot take it: it is kept, found again, and never lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import tasks.work.patience as patience
from infra.store import LocalStore, open_store
from manifests.items import ErrorClass, Problem
from manifests.outcomes import Outcome
from manifests.shard_stats import ShardStats
from tasks.keeping.collecting import collect
from tasks.runs.faults import ScratchFull, Stopped, StoreTrouble
from tasks.runs.run_folder import find_commit, load_plan, open_run
from tasks.runs.scratch import scratch_folder, scratch_home
from tasks.work.commit import Attempt, PackedShard, pack_shard, provenance_of
from tasks.work.offer import find_kept, forget_kept, offer
from tests.fault_proxy import Fault, FaultProxy
from tests.s3_server import S3Server
from tests.tasks.runs import prepare

SHARD = "00000"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    """A temporary folder of the test's own, and short waits."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(patience, "REFUSAL_SECONDS", 0.01)
    monkeypatch.setattr(patience, "PAUSES", (0.05,))
    return folder


def packed_shard(run: Any, folder: Path, message: str = "planted") -> PackedShard:
    """A shard of failed items, which needs no rendering."""
    store, record = open_run(run.uri)
    items = load_plan(store, record).items(SHARD)
    outcomes = [Outcome(item, problem=Problem(ErrorClass.CRASH, message)) for item in items]
    provenance = provenance_of(record, "attempt", "cpu")
    return pack_shard(Attempt(SHARD, "attempt"), outcomes, provenance, folder, ShardStats())


def offer_now(run: Any, packed: PackedShard, stop: bool = False) -> Any:
    return offer(open_store(run.uri), packed, lambda: stop, lambda reason: None)


def kept(run: Any) -> PackedShard | None:
    _, record = open_run(run.uri)
    uri = open_store(run.uri).uri
    return find_kept(uri, record.fingerprint, record.plan_digest, SHARD)


@contextmanager
def refusing(run: Any) -> Iterator[None]:
    """Inside the block a file stands in the place of the folder that data goes to."""
    place = Path(run.uri) / "data"
    place.write_bytes(b"")
    yield
    place.unlink()


def keep(run: Any) -> None:
    with scratch_folder() as folder:
        packed = packed_shard(run, folder)
        with refusing(run), pytest.raises(StoreTrouble):
            offer_now(run, packed)


def fill(disk: Path) -> Path:
    """Leaves no room on a disk; returns the file that takes it."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", 0) as file:
        while file.write(b"\0" * 4096):
            pass
    return filler


def folders() -> list[str]:
    return sorted(path.name.split("-")[0] for path in scratch_home().iterdir() if path.is_dir())


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 200 kB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_packed_shard_is_stored_declared_and_leaves_nothing_behind(pictures):
    run = prepare(pictures)
    with scratch_folder() as folder:
        commit, won = offer_now(run, packed_shard(run, folder))
    assert won
    assert find_commit(open_store(run.uri), SHARD) == commit
    assert folders() == []


def test_what_a_full_disk_cannot_take_is_kept_and_stored_by_the_next_worker(pictures, small_disk):
    run = prepare(pictures, output__uri=str(small_disk / "run"))
    filler = fill(small_disk)
    with scratch_folder() as folder, pytest.raises(StoreTrouble) as raised:
        offer_now(run, packed_shard(run, folder))
    assert "no room" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert folders() == ["kept"]
    filler.unlink()
    found = kept(run)
    assert found is not None
    commit, won = offer_now(run, found)
    assert won
    assert commit.attempt_id == found.commit.attempt_id
    assert commit.stats.seconds_upload is not None
    assert folders() == []
    assert kept(run) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_what_a_read_only_folder_cannot_take_is_kept(pictures):
    run = prepare(pictures)
    Path(run.uri).chmod(0o500)
    try:
        with scratch_folder() as folder, pytest.raises(StoreTrouble, match="no permission"):
            offer_now(run, packed_shard(run, folder))
    finally:
        Path(run.uri).chmod(0o700)
    assert kept(run) is not None


def test_what_a_read_only_disk_cannot_take_is_kept(pictures, small_disk):
    run = prepare(pictures, output__uri=str(small_disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with scratch_folder() as folder, pytest.raises(StoreTrouble, match="no permission"):
        offer_now(run, packed_shard(run, folder))
    assert kept(run) is not None


@pytest.mark.s3
def test_a_store_that_goes_away_and_comes_back_is_offered_the_shard_again(
    pictures, s3_bucket, s3_server: S3Server, monkeypatch
):
    run = prepare(pictures, output__uri=f"s3://{s3_bucket}/run")
    reasons: list[str] = []
    with FaultProxy(s3_server.port) as proxy, scratch_folder() as folder:
        packed = packed_shard(run, folder)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        proxy.faults = [Fault("reset")]

        def come_back(reason: str) -> None:
            reasons.append(reason)
            if len(reasons) == 3:
                proxy.faults = []

        assert offer(open_store(run.uri), packed, lambda: False, come_back)[1]
    assert "does not answer" in reasons[0]
    assert folders() == []


def test_who_is_asked_to_stop_while_the_store_is_away_keeps_the_shard(pictures):
    run = prepare(pictures)
    with scratch_folder() as folder:
        packed = packed_shard(run, folder)
        with refusing(run), pytest.raises(Stopped):
            offer_now(run, packed, stop=True)
    assert kept(run) is not None


def test_a_kept_shard_that_is_damaged_is_not_offered(pictures):
    run = prepare(pictures)
    keep(run)
    found = kept(run)
    assert found is not None
    path = found.path_of(found.commit.parquet)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert kept(run) is None
    assert folders() == []


def test_a_kept_shard_is_that_of_its_run_and_plan_alone(pictures):
    run, other = prepare(pictures), prepare(pictures, output__uri="other", seed=5)
    keep(run)
    assert kept(other) is None
    _, record = open_run(run.uri)
    uri = open_store(run.uri).uri
    forget_kept(uri, record.fingerprint, record.plan_digest, committed={"00001"})
    assert kept(run) is not None
    forget_kept(uri, record.fingerprint, record.plan_digest, committed={SHARD})
    assert kept(run) is None


@pytest.mark.parametrize("end", ["committed", "lost"])
def test_a_kept_shard_is_garbage_once_it_is_committed_or_its_run_is_gone(pictures, end):
    run, other = prepare(pictures), prepare(pictures, output__uri="other", seed=5)
    keep(run)
    [folder] = scratch_home().glob("kept-*")

    def garbage(uri: str) -> list[str]:
        found = collect(uri, older_than=timedelta(0), delete=True).garbage
        return [one.name for one in found if one.kind == "kept"]

    assert garbage(run.uri) == garbage(other.uri) == []
    if end == "committed":
        away = shutil.copytree(folder, folder.with_name("away"))
        offer_now(run, kept(run))
        away.rename(folder)
    else:
        shutil.rmtree(run.uri)
    assert garbage(run.uri if end == "committed" else other.uri) == [str(folder)]
    assert not folder.exists()


def test_a_kept_shard_that_another_worker_stores_first_is_its_commit(pictures, monkeypatch):
    run = prepare(pictures)
    keep(run)
    first, second = kept(run), kept(run)
    put = LocalStore.put

    def slower(store: LocalStore, key: str, data: Any) -> None:
        monkeypatch.setattr(LocalStore, "put", put)
        offer_now(run, first)
        store.put(key, data)

    monkeypatch.setattr(LocalStore, "put", slower)
    commit, won = offer_now(run, second)
    assert not won
    assert commit == find_commit(open_store(run.uri), SHARD)


def test_who_comes_second_takes_the_winners_commit_and_keeps_nothing(pictures):
    run = prepare(pictures)
    with scratch_folder() as folder:
        first, _ = offer_now(run, packed_shard(run, folder))
    with scratch_folder() as folder:
        second, won = offer_now(run, packed_shard(run, folder, "other"))
    assert not won
    assert second == first
    assert folders() == []


def test_a_full_scratch_disk_is_one_sentence(pictures, small_disk, monkeypatch):
    run = prepare(pictures)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))

    def pack() -> None:
        with scratch_folder() as folder:
            fill(folder)
            packed_shard(run, folder)

    def plan() -> None:
        fill(small_disk)
        load_plan(*open_run(run.uri))

    for step in (pack, plan):
        with pytest.raises(ScratchFull) as raised:
            step()
        assert "TMPDIR" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_scratch_that_a_killed_process_left_is_removed_by_the_next_one(scratch):
    code = "import os; from tasks.runs.scratch import scratch_folder; "
    code += "folder = scratch_folder(); print(folder.__enter__(), flush=True); os._exit(9)"
    environment = {**os.environ, "TMPDIR": str(scratch)}
    dead = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert dead.returncode == 9
    left = Path(dead.stdout.strip())
    assert left.stat().st_mode & 0o077 == 0
    assert scratch_home().stat().st_mode & 0o077 == 0
    with scratch_folder() as first:
        assert not left.exists()
        with scratch_folder():
            assert first.exists(), "what is in use stays"


def test_scratch_is_never_put_into_a_folder_that_others_can_open(scratch):
    home = scratch_home()
    home.chmod(0o755)
    with pytest.raises(ScratchFull, match="this user alone"), scratch_folder():
        pass
