"""What is damaged in a run folder is named, all of it and nothing else, and comes back the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.store import open_store
from manifests.errors import RunFolderError
from tasks.inputs.resolving import resolve_job
from tasks.keeping.repairing import Mended, mend
from tasks.keeping.verifying import Verified, verify
from tasks.plans.extending import extend
from tasks.plans.planning import open_prepared
from tasks.plans.retrying import retry
from tasks.results.failures import find_failures
from tasks.results.publishing import publish
from tasks.runs.committed import current_index
from tasks.runs.run_folder import open_run
from tasks.work import render as rendering
from tests.audit import audit
from tests.conftest import write_pictures
from tests.tasks.runs import download, files_of, make_job, prepare, work_here

JOB: dict[str, Any] = {"compute": {"shard_items": 1, "device": "cpu"}}

Damage = Callable[[Path, Path], object]
"""Damages a file; the second one is the same file of another shard."""


def truncate(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def make_a_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_nowhere(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Damage] = {
    "truncated": truncate,
    "flipped": flip_a_bit,
    "emptied": lambda path, other: path.write_bytes(b""),
    "longer": lambda path, other: path.write_bytes(path.read_bytes() + b"\n"),
    "another shard's": lambda path, other: path.write_bytes(other.read_bytes()),
    "deleted": lambda path, other: path.unlink(),
    "a folder": make_a_folder,
    "a link": link_to_nowhere,
}


def file_of(run: Path, kind: str, shard: str) -> Path:
    """The commit of a shard, or the tar or Parquet part that it names."""
    commit = run / "commits" / f"{shard}.json"
    return commit if kind == "commit" else run / json.loads(commit.read_bytes())[kind]["name"]


def with_pictures(run: Path) -> list[str]:
    """The shards that have a tar and count."""
    found = audit(run)
    return sorted(shard for shard, commit in found.commits.items() if commit["tar"])


def resolved_at(base: Path):
    return resolve_job(make_job(**JOB), str(base))


def finish_again(base: Path):
    """Renders what is pending in the run, and publishes."""
    prepared = open_prepared(resolved_at(base))
    assert prepared is not None
    work_here(prepared.uri)
    return publish(prepared.uri)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of two generations, a shard an item: 6 pictures, then one more for each style.

    The content c was cut short when it was planned first: its items have failed.
    """
    home = write_pictures(tmp_path_factory.mktemp("sound"))
    data = (home / "content" / "c.png").read_bytes()
    (home / "content" / "c.png").write_bytes(data[:100])
    work_here(prepare(home, **JOB).uri)
    (home / "content" / "d.png").write_bytes(data)
    extend(resolved_at(home))
    index = finish_again(home)
    assert index.complete
    assert (index.counts.ok, index.counts.failed) == (6, 2)
    return home


@pytest.fixture
def home(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(sound, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Path:
    return home / "run"


def names(verified: Verified) -> list[str]:
    return [one.name for one in verified.findings]


def test_a_sound_run_is_sound_and_reading_it_writes_nothing(run):
    before = files_of(run)
    verified = verify(str(run))
    assert verified.findings == ()
    assert (verified.num_shards, verified.num_pending) == (8, 0)
    assert mend(str(run), verified) == Mended()
    assert files_of(run) == before


@pytest.mark.parametrize("kind", ["tar", "parquet", "commit"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_file_is_named_and_no_other(run, kind, damage):
    *_, other, shard = with_pictures(run)
    path = file_of(run, kind, shard)
    DAMAGES[damage](path, file_of(run, kind, other))
    verified = verify(str(run))
    assert names(verified) == [path.relative_to(run).as_posix()]
    (found,) = verified.findings
    assert found.shard == shard
    assert found.sentence.startswith(f"{found.name} ")
    comes_back_by_itself = kind == "commit" and damage == "deleted"
    assert found.remedy == ("render" if comes_back_by_itself else "repair")


def damaged_in_every_way(run: Path) -> list[str]:
    """Damages every shard in another way, in both generations; what is damaged."""
    first, second, third, fourth, fifth, sixth = with_pictures(run)
    one, other = sorted(audit(run).commits.keys() - set(with_pictures(run)))
    chosen = [
        (file_of(run, "tar", first), "flipped"),
        (file_of(run, "parquet", first), "deleted"),
        (file_of(run, "commit", second), "truncated"),
        (file_of(run, "commit", third), "a folder"),
        (file_of(run, "commit", fourth), "emptied"),
        (file_of(run, "commit", fifth), "flipped"),
        (file_of(run, "commit", sixth), "a link"),
        (file_of(run, "parquet", one), "truncated"),
        (file_of(run, "commit", other), "deleted"),
    ]
    for path, damage in chosen:
        DAMAGES[damage](path, path)
    return sorted(path.relative_to(run).as_posix() for path, _ in chosen)


def test_all_that_is_damaged_is_named_at_once_and_comes_back_as_it_was(home, run):
    whole = json.loads((run / "index.json").read_bytes())
    damaged = damaged_in_every_way(run)
    with pytest.raises(RunFolderError, match="stylefarm verify"):
        publish(str(run))
    verified = verify(str(run))
    assert names(verified) == damaged
    (generation,) = mend(str(run), verified).generations
    assert (generation.kind, generation.num_items) == ("repair", 7)
    assert [one.remedy for one in verify(str(run)).findings] == ["render"]
    index = finish_again(home)
    assert index.complete
    assert index.content_digest == whole["content_digest"]
    assert index.counts.model_dump() == whole["counts"]
    assert verify(str(run)).findings == ()
    assert audit(run).content_digest == whole["content_digest"]

    # Everybody goes on beside damaged commits of superseded shards.
    (home / "content" / "e.png").write_bytes((home / "content" / "a.png").read_bytes())
    assert extend(resolved_at(home)) is not None
    assert current_index(*open_run(str(run))).counts.pending == 2
    assert sum(find_failures(str(run)).by_class.values()) == 2
    assert retry(str(run)).by_class == {}


def test_of_two_who_mend_at_once_one_plans_the_repair(run):
    path = file_of(run, "tar", with_pictures(run)[0])
    path.unlink()
    verified = verify(str(run))
    with ThreadPoolExecutor(4) as pool:
        mended = list(pool.map(lambda _: mend(str(run), verified), range(4)))
    assert {one.number for each in mended for one in each.generations} == {2}
    assert len(list(run.glob("generations/*.json"))) == 2


def test_what_the_newer_of_two_lost_shards_changed_is_what_comes_back(pictures, monkeypatch):
    job = {"inputs": {"content": "content/a.png", "style": "style/x.png"}, **JOB}
    run = prepare(pictures, **job)

    def fail(*requests: Any, **options: Any):
        raise ValueError("a planted fault")

    with monkeypatch.context() as patch:
        patch.setattr(rendering, "render", fail)
        work_here(run.uri)
    retry(run.uri, overrides={"backbone.dtype": "bfloat16"})
    work_here(run.uri)
    whole = publish(run.uri)
    assert (whole.complete, whole.counts.ok) == (True, 1)
    for path in Path(run.uri).glob("data/*.parquet"):
        path.unlink()
    (generation,) = mend(run.uri, verify(run.uri)).generations
    assert generation.superseded == ("00000", "g0001-00000")
    assert (generation.num_items, generation.changes) == (1, {"dtype": "bfloat16"})
    work_here(run.uri)
    assert publish(run.uri).content_digest == whole.content_digest
    assert verify(run.uri).findings == ()


def test_a_lost_shard_whose_items_are_all_replaced_brings_none_of_them_back(pictures):
    job = {"inputs": {"content": "content/a.png", "style": "style/x.png"}, **JOB}
    run = prepare(pictures, **job)
    work_here(run.uri)
    shutil.copy(pictures / "content" / "b.png", pictures / "content" / "a.png")
    extend(resolve_job(make_job(**job), str(pictures)))
    work_here(run.uri)
    whole = publish(run.uri)
    assert whole.counts.planned == 1
    file_of(Path(run.uri), "tar", "00000").unlink()
    (generation,) = mend(run.uri, verify(run.uri)).generations
    assert generation.superseded == ("00000",)
    work_here(run.uri)
    index = publish(run.uri)
    assert (index.complete, index.content_digest) == (True, whole.content_digest)
    assert verify(run.uri).findings == ()
    audit(run.uri)


@pytest.mark.parametrize(
    "name", ["plan/*.parquet", "generations/0001.json", "sources/*.parquet", "run.json"]
)
def test_what_only_a_copy_brings_back_is_named_and_nothing_is_written(run, name):
    path = sorted(run.glob(name))[-1]
    file_of(run, "tar", with_pictures(run)[0]).unlink()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"stylefarm", b"stylefern") if name == "run.json" else data[:-20])
    verified = verify(str(run))
    (found,) = [one for one in verified.findings if one.remedy == "restore"]
    assert found.name == path.relative_to(run).as_posix()
    assert len(verified.findings) == 2
    before = files_of(run)
    assert mend(str(run), verified) == Mended()
    assert files_of(run) == before


def test_a_generation_that_is_gone_is_missed_and_its_commits_are_not_foreign(run):
    (run / "generations/0001.json").unlink()
    (found,) = verify(str(run)).findings
    assert (found.name, found.remedy) == ("generations/0001.json", "restore")
    (run / "index.json").unlink()
    (found,) = verify(str(run)).findings
    assert (found.name, found.remedy) == ("generations/0001.json", "restore")


def test_folders_where_a_pending_shard_would_be_written_have_it_planned_under_another_name(run):
    shard = with_pictures(run)[0]
    tar, commit = file_of(run, "tar", shard), file_of(run, "commit", shard)
    commit.unlink()
    make_a_folder(tar, tar)
    verified = verify(str(run))
    assert names(verified) == [path.relative_to(run).as_posix() for path in (commit, tar)]
    (generation,) = mend(str(run), verified).generations
    assert generation.superseded == (shard,)
    assert verify(str(run)).findings == ()


@pytest.mark.parametrize("name", ["99999", "g0007-00000"])
def test_a_foreign_commit_is_moved_away_and_none_that_lies_there_is_lost(run, name):
    foreign, aside = run / "commits" / f"{name}.json", run / "foreign" / "commits"
    for text in ("one", "other"):
        record = json.loads((run / "commits" / "00000.json").read_bytes())
        foreign.write_text(json.dumps({**record, "shard": name, "worker": text}))
        with pytest.raises(RunFolderError, match="stylefarm verify"):
            publish(str(run))
        verified = verify(str(run))
        assert [(one.name, one.remedy) for one in verified.findings] == [
            (f"commits/{name}.json", "set aside")
        ]
        mend(str(run), verified)
        assert verify(str(run)).findings == ()
    workers = {json.loads(path.read_bytes())["worker"] for path in aside.iterdir()}
    assert workers == {"one", "other"}


def test_a_commit_that_went_with_the_index_is_missed_for_its_attempt(run):
    shard = with_pictures(run)[0]
    file_of(run, "commit", shard).unlink()
    (run / "index.json").unlink()
    (found,) = verify(str(run)).findings
    assert (found.name, found.remedy) == (f"commits/{shard}.json", "render")


@pytest.mark.parametrize("damage", ["flipped", "deleted"])
def test_damaged_derived_files_are_named_and_made_again(run, damage):
    before = files_of(run)
    index = json.loads((run / "index.json").read_bytes())
    rows = [run / file["name"] for file in index["metadata"]]
    damaged = [run / "index.json"] if damage == "flipped" else rows
    for path in damaged:
        DAMAGES[damage](path, path)
    verified = verify(str(run))
    assert names(verified) == [path.relative_to(run).as_posix() for path in damaged]
    assert mend(str(run), verified).removed == tuple(names(verified))
    publish(str(run))
    assert files_of(run) == before
    assert verify(str(run)).findings == ()


def test_what_nobody_has_committed_yet_is_no_damage(pictures):
    run = prepare(pictures, **JOB)
    work_here(run.uri, max_shards=2)
    verified = verify(run.uri)
    assert verified.findings == ()
    assert (verified.num_shards, verified.num_pending) == (2, 4)


@pytest.mark.s3
def test_damage_in_a_bucket_is_named_and_comes_back_as_it_was(home, run, s3_bucket, tmp_path):
    whole = json.loads((run / "index.json").read_bytes())
    uri = f"s3://{s3_bucket}/run"
    store = open_store(uri)
    for name, data in files_of(run).items():
        store.put(name, data)
    first, second, third, *_ = with_pictures(run)
    tar, part, commit = (
        file_of(run, kind, shard).relative_to(run).as_posix()
        for kind, shard in (("tar", first), ("parquet", second), ("commit", third))
    )
    store.put(tar, store.get(tar)[:-1] + b"!")
    store.delete(part)
    store.put(commit, b"")
    store.put("commits/g0007-00000.json", store.get("commits/00000.json"))
    verified = verify(uri)
    assert names(verified) == sorted([tar, part, commit, "commits/g0007-00000.json"])
    mend(uri, verified)
    work_here(uri)
    index = publish(uri)
    assert (index.complete, index.content_digest) == (True, whole["content_digest"])
    assert verify(uri).findings == ()
    audit(download(uri, tmp_path / "copy"))
