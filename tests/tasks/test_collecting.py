"""What `gc` deletes, and what it must never touch, whoever is at work."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from PIL import Image

from infra.local_store import LocalStore
from infra.store import Store, open_store
from manifests.attempts import AttemptRecord, Worker
from manifests.errors import RunFolderError
from tasks.inputs.resolving import resolve_job
from tasks.keeping.collecting import Collected, collect
from tasks.plans.extending import extend
from tasks.plans.planning import PreparedRun, plan_items
from tasks.results.publishing import publish
from tasks.runs.committed import read_commits
from tasks.runs.scratch import scratch_folder, scratch_home
from tasks.runs.spending import spent_seconds
from tests.audit import audit
from tests.bad_images import picture
from tests.faults.workers import (
    DEAD,
    extend_and_die,
    plan_and_die,
    run_to_end,
    start,
    start_fork_server,
    wait_for,
    with_environment,
    work_and_die,
)
from tests.tasks.runs import download, files_of, finish, make_job, prepare, work_here

NOW = timedelta(0)
SHA = "0123456789ab"

UNNEEDED = (
    f"data/00000-{SHA}.tar",
    f"data/00000-{SHA}.parquet",
    f"data/g0007-00000-{SHA}.tar",
    f"data/99999-{SHA}.parquet",
    f"plan/{SHA}.parquet",
    "plan/plan.parquet",
    f"sources/{SHA}.parquet",
    "probe-" + 32 * "0",
    "publishing.json",
)
NEEDED = (
    f"data/00002-{SHA}.tar",  # its shard is not committed
    f"data/00002-{SHA}.parquet",
    "attempts/00002/1.json",
)
NOT_OURS = (
    "data/00000-0123456789AB.tar",
    f"data/00000-{SHA}.tar.bak",
    "commits/00000.json~",
    "plan/notes.txt",
    f"sources/{SHA}/a.png",
    "metadata/readme.md",
)
STRANGE = ("notes.txt", "probe-mine", "sign-" + 32 * "0", "pictures/data/00000.tar", "latest")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    """A temporary folder of the test's own; the server that forks workers has the usual one."""
    start_fork_server()
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def few(pictures: Path) -> Path:
    """Pictures for two items, which are one shard."""
    for name in ("content/c.png", "style/y.png"):
        (pictures / name).unlink()
    return pictures


def gc(run: PreparedRun | str, older_than: timedelta = NOW, *, delete: bool = True) -> Collected:
    uri = run if isinstance(run, str) else run.uri
    return collect(uri, older_than=older_than, delete=delete)


def names(collected: Collected) -> list[str]:
    return sorted(one.name for one in collected.garbage)


def grow(pictures: Path, name: str = "d") -> None:
    Image.fromarray(picture(seed=ord(name))).save(pictures / "content" / f"{name}.png")


def extend_run(pictures: Path) -> None:
    extend(resolve_job(make_job(), str(pictures), for_extension=True))


def leave_unfinished(store: Store, key: str) -> None:
    """What a writer leaves that was killed in the middle of this object."""
    if isinstance(store, LocalStore):
        Path(store.uri, Path(key).parent, f".stylefarm-{32 * '0'}.tmp").write_bytes(b"half")
        return
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{key}")
    client.close()


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_exactly_what_nobody_needs_goes(kind, request, pictures, tmp_path):
    uri = f"s3://{request.getfixturevalue('s3_bucket')}/a run" if kind == "s3" else "run"
    run = prepare(pictures, output__uri=uri)
    while "commits/00000.json" not in files_of(run.uri):
        work_here(run.uri, max_shards=1)
    store = open_store(run.uri)
    if "commits/00002.json" in files_of(run.uri):
        store.delete("commits/00002.json")
    for key in (*UNNEEDED, *NEEDED, *NOT_OURS, *STRANGE):
        store.put(key, b"{}")
    leave_unfinished(store, f"data/00000-{SHA}.tar")
    before = files_of(run.uri)

    told = gc(run, delete=False)
    assert files_of(run.uri) == before
    assert len(list(store.unfinished())) == 1
    assert {one.name for one in told.garbage if one.kind != "unfinished"} == set(UNNEEDED)
    assert [one.kind for one in told.garbage].count("unfinished") == 1
    assert set(told.not_ours) == set(NOT_OURS)

    spared = gc(run, timedelta(hours=1))
    assert files_of(run.uri) == before
    assert spared.num_younger == len(told.garbage)
    assert not spared.garbage

    assert names(gc(run)) == names(told)
    assert files_of(run.uri) == {name: before[name] for name in before if name not in UNNEEDED}
    assert list(store.unfinished()) == []
    assert not gc(run).garbage

    for key in (*NOT_OURS, *STRANGE):
        store.delete(key)
    store.delete("attempts/00002/1.json")
    work_here(run.uri)
    publish(run.uri)
    gc(run)
    folder = Path(run.uri) if kind == "local" else download(run.uri, tmp_path / "copy")
    assert audit(folder).orphans == []


@pytest.mark.s3
def test_an_upload_for_a_shard_that_is_not_committed_is_let_be(pictures, s3_bucket):
    run = prepare(pictures, output__uri=f"s3://{s3_bucket}/run")
    store = open_store(run.uri)
    for key in (f"data/00000-{SHA}.tar", "somebody/elses.bin"):
        leave_unfinished(store, key)
    assert not gc(run).garbage
    work_here(run.uri)
    assert names(gc(run)) == [f"data/00000-{SHA}.tar"]
    assert [found.key for found in store.unfinished()] == ["somebody/elses.bin"]


def test_of_a_shard_whose_commit_cannot_be_read_everything_stays_and_that_is_told(few):
    run = prepare(few)
    finish(run)
    store = open_store(run.uri)
    store.put("commits/00000.json", b"{")
    before = files_of(run.uri)
    collected = gc(run)
    assert not collected.garbage
    assert "shard 00000 stay: commits/00000.json is damaged" in collected.sentences[0]
    assert files_of(run.uri) == before


def test_who_cannot_know_what_is_planned_deletes_nothing(few):
    run = prepare(few)
    finish(run)
    store = open_store(run.uri)
    store.put(f"data/99999-{SHA}.tar", b"")
    for name in (run.run.plan_name, "generations/0001.json"):
        held = files_of(run.uri)
        store.put(name, b"damaged")
        with pytest.raises(RunFolderError, match="damaged"):
            gc(run)
        assert files_of(run.uri).keys() == held.keys() | {name}
        for key, data in held.items():
            store.put(key, data)


@pytest.mark.parametrize("told_by", ["index", "commits"])
def test_a_run_that_has_lost_a_generation_keeps_all_that_belongs_to_it(few, told_by):
    run = prepare(few)
    work_here(run.uri)
    grow(few)
    extend_run(few)
    (publish if told_by == "index" else work_here)(run.uri)
    (Path(run.uri) / "generations/0001.json").unlink()
    before = files_of(run.uri)
    with pytest.raises(RunFolderError, match=r"generations/0001\.json is missing"):
        gc(run)
    assert files_of(run.uri) == before


def test_files_that_a_commit_names_stay_even_where_no_plan_has_its_shard(few):
    run = prepare(few)
    finish(run)
    store = open_store(run.uri)
    foreign = json.loads(store.get("commits/00000.json")) | {"shard": "99999"}
    for kind in ("tar", "parquet"):
        name = foreign[kind]["name"].replace("00000", "99999")
        foreign[kind] |= {"name": name}
        store.put(name, b"")
    store.put("commits/99999.json", json.dumps(foreign).encode())
    store.put(f"data/99999-{SHA}.tar", b"")
    assert names(gc(run)) == [f"data/99999-{SHA}.tar"]
    store.put("foreign/commits/99999.json", store.get("commits/99999.json"))
    store.delete("commits/99999.json")
    assert names(gc(run)) == []


def test_a_link_in_a_run_folder_leads_no_deletion_out_of_it(few, tmp_path):
    run = prepare(few)
    finish(run)
    elsewhere = tmp_path / "elsewhere"
    for name in ("attempts/00000/1.json", f"metadata/{SHA}/part-00000.parquet"):
        place, held = Path(run.uri, name).parent, elsewhere / name
        held.parent.mkdir(parents=True)
        held.write_bytes(b"{}")
        os.utime(held, (0, 0))
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(held.parent)
        with pytest.raises(RunFolderError, match="link that leads elsewhere"):
            gc(run)
        assert held.exists()
        place.unlink()


def test_attempts_of_a_complete_run_go_once_nobody_can_hold_them_any_more(pictures):
    run = prepare(pictures)
    work_here(run.uri, max_shards=1)
    attempts = list(Path(run.uri).glob("attempts/*/*.json"))
    for path in attempts:
        os.utime(path, (time.time() - 1000,) * 2)
    assert not gc(run).garbage, "the run is not complete"
    finish(run)
    assert len(gc(run).garbage) == len(attempts)
    assert len(list(Path(run.uri).glob("attempts/*/*.json"))) == 3 - len(attempts)
    assert not gc(run).garbage, "the others may still be written to"
    audit(run.uri)


def test_what_a_run_has_spent_in_vain_is_known_after_gc_too(pictures):
    run = prepare(pictures)
    vain = AttemptRecord(
        **{"shard": "00000", "number": 1, "attempt_id": "vain", "worker": Worker(id="gone")},
        **{"ending": "stopped", "device_seconds": 15.0},
    )
    store = open_store(run.uri)
    store.put("attempts/00000/1.json", vain.to_bytes())
    finish(run)
    for path in Path(run.uri).glob("attempts/*/*.json"):
        os.utime(path, (time.time() - 1000,) * 2)
    spent = spent_seconds(store, read_commits(store).values())
    assert spent > 15
    assert len(gc(run).garbage) == 2, "of the shards that were committed at the first attempt"
    assert spent_seconds(store, read_commits(store).values()) == spent


def test_final_rows_of_earlier_states_go_and_those_of_the_present_one_stay(few):
    run = prepare(few)
    [first] = {one.name.rpartition("/")[0] for one in finish(run).metadata}
    grow(few)
    extend_run(few)
    assert not gc(run).garbage, "the index names them still"
    work_here(run.uri)
    [second] = {one.name.rpartition("/")[0] for one in publish(run.uri).metadata}
    assert {one.name.rpartition("/")[0] for one in gc(run).garbage} == {first}
    (Path(run.uri) / "index.json").unlink()  # as long as its publisher has not come so far
    assert not gc(run).garbage
    assert [path.name for path in Path(run.uri).glob("metadata/*")] == [second.split("/")[1]]
    publish(run.uri)
    audit(run.uri)


def test_a_plan_that_a_generation_names_as_it_is_deleted_is_put_back(few, monkeypatch):
    run = prepare(few)
    finish(run)
    grow(few)
    job = make_job().model_dump(mode="json", exclude_unset=True)
    ended = run_to_end(extend_and_die, str(few), job, "before", "generations/")
    assert ended == DEAD
    found = [one.name.split("/")[0] for one in gc(run, delete=False).garbage if one.kind == "plans"]
    assert found == ["plan", "sources"]

    delete = LocalStore.delete

    def extended_first(store: LocalStore, key: str) -> None:
        monkeypatch.setattr(LocalStore, "delete", delete)
        extend_run(few)
        store.delete(key)

    monkeypatch.setattr(LocalStore, "delete", extended_first)
    gc(run)
    finish(run)
    assert audit(run.uri).counts["ok"] == 3


def test_a_plan_that_is_deleted_before_its_generation_names_it_is_stored_again(few, monkeypatch):
    run = prepare(few)
    finish(run)
    grow(few)
    put_if_absent = LocalStore.put_if_absent

    def collected_first(store: LocalStore, key: str, data: bytes) -> bool:
        if key.startswith("generations/"):
            assert len(gc(run).garbage) == 2
        return put_if_absent(store, key, data)

    monkeypatch.setattr(LocalStore, "put_if_absent", collected_first)
    extend_run(few)
    finish(run)
    assert audit(run.uri).counts["ok"] == 3


def test_workers_lose_nothing_beside_it(pictures):
    run = prepare(pictures, compute={"shard_items": 1, "device": "cpu"})
    env = dict(os.environ)
    dead = run_to_end(with_environment, env, work_and_die, run.uri, "before", "commits/")
    workers = [start(with_environment, env, work_here, run.uri) for _ in range(2)]
    while any(worker.is_alive() for worker in workers):
        gc(run)
    assert [dead, *map(wait_for, workers)] == [DEAD, 0, 0]
    gc(run)
    found = audit(run.uri)
    assert found.counts["ok"] == 6
    assert found.orphans == []


@pytest.mark.parametrize("dead", ["worker", "planner"])
def test_scratch_of_a_killed_process_goes_with_the_next_one_whichever_its_run(
    pictures, scratch, dead
):
    run = prepare(pictures)
    other = make_job(output__uri="other", seed=6)
    alive = set(scratch_home().glob("work-*"))
    if dead == "worker":
        die: tuple[Any, ...] = (work_and_die, run.uri, "before", ".tar")
    else:
        job = other.model_dump(mode="json", exclude_unset=True)
        die = (plan_and_die, str(pictures), job, "before", "plan/")
    assert run_to_end(with_environment, {"TMPDIR": str(scratch)}, *die) == DEAD
    left = set(scratch_home().glob("work-*")) - alive
    assert {path.is_dir() for path in left} == {dead == "worker"}
    if dead == "worker":
        plan_items(resolve_job(other, str(pictures))).close()
    else:
        work_here(run.uri, max_shards=1)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in alive)


def test_scratch_of_killed_processes_goes_at_any_age_and_that_of_living_ones_stays(
    pictures, scratch: Path
):
    run = prepare(pictures)
    assert (
        run_to_end(
            with_environment, {"TMPDIR": str(scratch)}, work_and_die, run.uri, "before", ".tar"
        )
        == DEAD
    )
    left = [path for path in scratch_home().glob("work-*") if path.is_dir()]
    away = scratch / "away"
    away.mkdir()
    for path in left:
        path.rename(away / path.name)
    with scratch_folder() as alive:
        for path in left:
            (away / path.name).rename(path)
        told = {one.name for one in gc(run, timedelta(days=9)).garbage if one.kind == "scratch"}
        assert told == {str(path) for path in left}
        assert alive.exists()
    assert left
    assert not any(path.exists() for path in left)
