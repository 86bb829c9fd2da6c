"""Run folders that earlier code wrote are read, finished, mended, and grow.

Those in `second` and `third` are of `run.json`'s second schema, the others of the first layout. The
task of `third` draws noise, from one stream as versions did before noise had numbers.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from PIL import Image

from ad_lib.settings import Settings
from manifests.items import Item
from manifests.job import load_job
from tasks.inputs.resolving import ResolvedJob, differences_to, resolve_job
from tasks.keeping.repairing import mend
from tasks.keeping.verifying import verify
from tasks.plans.extending import extend
from tasks.plans.planning import open_prepared, plan_items
from tasks.plans.retrying import retry
from tasks.plans.source_changes import source_changes
from tasks.results.publishing import publish
from tasks.runs.run_folder import open_run
from tasks.runs.run_plan import open_plan
from tests.audit import audit
from tests.tasks.runs import files_of, finish

pytestmark = pytest.mark.s3

HOME = Path(__file__).parents[1] / "old_runs"
BUCKET = "stylefarm-old-run"
LATE = "content/d.png"


LAYOUTS = ("", "second/")
EXTENDED = ("second/complete", "second/half", "third/complete")


@pytest.fixture
def pictures_in_bucket(s3_bucket) -> None:
    """The pictures where the old plans look for them, without the one that came later."""
    client = boto3.client("s3")
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for path in (HOME / "pictures").rglob("*.png"):
        key = path.relative_to(HOME / "pictures").as_posix()
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.delete_object(Bucket=BUCKET, Key=LATE)
    client.close()


@pytest.fixture
def old_run(pictures_in_bucket, tmp_path, request) -> ResolvedJob:
    """The job of a copied run folder, `complete` or `half`; some were extended."""
    shutil.copytree(HOME / request.param / "run", tmp_path / "run")
    if request.param in EXTENDED:
        put_picture(LATE, HOME / "late" / LATE)
    return job_at(tmp_path, "third/" if request.param.startswith("third") else "")


def put_picture(key: str, path: Path) -> None:
    client = boto3.client("s3")
    client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.close()


def job_at(folder: Path, layout: str = "", **overrides: str) -> ResolvedJob:
    """The job of the old runs, its sources listed now; `settings__x` is the key `settings.x`."""
    changes = {name.replace("__", "."): text for name, text in overrides.items()}
    return resolve_job(load_job(HOME / layout / "job.yaml", changes), str(folder))


def run_json(resolved: ResolvedJob) -> dict[str, object]:
    return json.loads((Path(resolved.output_uri) / "run.json").read_bytes())


@pytest.mark.parametrize(
    "old_run", [f"{one}complete" for one in (*LAYOUTS, "third/")], indirect=True
)
def test_a_finished_old_run_is_recognised_reported_and_sound(old_run):
    before = files_of(old_run.output_uri)
    assert open_run(old_run.output_uri)[1].png_strategy == "default"
    prepared = open_prepared(old_run)
    assert prepared is not None
    index = publish(old_run.output_uri)
    assert index.complete
    assert index.counts.ok == len(prepared.plan.shards) - 1
    assert audit(old_run.output_uri).counts["failed"] == 1
    assert verify(old_run.output_uri).findings == ()
    after = files_of(old_run.output_uri)
    derived = {"index.json", "report.html", *(file.name for file in index.metadata)}
    assert after.keys() - before.keys() <= derived
    assert all(after[name] == data for name, data in before.items() if name not in derived)


@pytest.mark.parametrize(
    ("old_run", "whole"),
    [(f"{one}half", f"{one}complete") for one in LAYOUTS],
    indirect=["old_run"],
)
def test_a_half_finished_old_run_is_finished_as_it_was_planned_then_mended_and_extended(
    old_run, whole, tmp_path
):
    record, run = run_json(old_run), Path(old_run.output_uri)
    prepared = open_prepared(old_run)
    assert prepared is not None
    assert finish(prepared).complete
    assert run_json(old_run) == record
    assert_same_pictures(run, HOME / whole / "run")
    assert retry(str(run)).by_class == {}

    tar, part = sorted(run.glob("data/*.tar"))[-1], min(run.glob("data/*.parquet"))
    tar.write_bytes(tar.read_bytes()[:-512])
    part.unlink()
    verified = verify(str(run))
    assert [run / one.name for one in verified.findings] == sorted([tar, part])
    mend(str(run), verified)
    put_picture("content/c.png", HOME / "late" / LATE)
    extension = extend(job_at(tmp_path))
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (1, 1)
    prepared = open_prepared(job_at(tmp_path))
    assert prepared is not None
    index = finish(prepared)
    assert (index.complete, index.counts.failed) == (True, 0)
    assert verify(str(run)).findings == ()
    assert_same_pictures(run, HOME / whole / "run", but="c-x-")


@pytest.mark.parametrize("old_run", ["third/half"], indirect=True)
def test_a_run_with_one_stream_of_noise_is_finished_and_extended_with_that_stream(
    old_run, tmp_path
):
    record, run, whole = run_json(old_run), Path(old_run.output_uri), HOME / "third/complete/run"
    assert "noise" not in record["settings"]
    prepared = open_prepared(old_run)
    assert prepared is not None
    assert finish(prepared).complete
    assert_same_pictures(run, whole, but="d-")
    put_picture(LATE, HOME / "late" / LATE)
    extension = extend(job_at(tmp_path, "third/"))
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (1, 0)
    prepared = open_prepared(job_at(tmp_path, "third/"))
    assert prepared is not None
    assert finish(prepared).complete
    assert_same_pictures(run, whole)
    assert run_json(old_run) == record


@pytest.mark.parametrize("old_run", ["third/half"], indirect=True)
@pytest.mark.parametrize(
    ("overrides", "differing"),
    [
        ({}, None),
        ({"settings__noise": "stream"}, None),
        ({"settings__noise": "by_draw"}, "  settings.noise: the run folder has None"),
        ({"backbone__deterministic": "false"}, None),
        ({"backbone__deterministic": "true"}, "  backbone.deterministic: the run folder has None"),
    ],
)
def test_a_job_that_states_what_its_old_run_does_not_do_is_another_job(
    old_run, tmp_path, overrides, differing
):
    job = job_at(tmp_path, "third/", **overrides)
    lines = differences_to(open_run(old_run.output_uri)[1], job)
    assert len(lines) == (differing is not None)
    assert all(line.startswith(differing) for line in lines)


def test_of_runs_with_dates_one_of_an_earlier_version_is_gone_on_with_as_it_began(
    pictures_in_bucket, tmp_path
):
    begun = tmp_path / "runs" / "2026-11-26"
    shutil.copytree(HOME / "third/half/run", begun)
    job = job_at(tmp_path, "third/", output__uri="runs/{date}")
    assert (job.output_uri, job.settings.noise) == (str(begun), "stream")
    other = job_at(tmp_path, "third/", output__uri="runs/{date}", settings__noise="by_draw")
    assert (Path(other.output_uri).parent, other.settings.noise) == (begun.parent, "by_draw")
    assert other.output_uri != str(begun)


def test_a_new_run_of_the_same_job_draws_by_number_and_has_other_items(
    pictures_in_bucket, tmp_path
):
    job = job_at(tmp_path, "third/")
    assert job.settings.noise == "by_draw"
    assert job.identity["settings.noise"] == "by_draw"
    old = {item.item_id for item in old_items(HOME / "third/complete/run")}
    plan = plan_items(job)
    assert old.isdisjoint(item.item_id for item in plan.iter_items())
    plan.close()


def old_items(run: Path) -> list[Item]:
    return [item for plan in open_plan(*open_run(str(run))).plans for item in plan.iter_items()]


@pytest.mark.parametrize("old_run", ["complete"], indirect=True)
def test_a_run_of_the_first_layout_grows_by_what_is_new_and_names_what_changed(old_run):
    client = boto3.client("s3")
    client.copy_object(Bucket=BUCKET, Key=LATE, CopySource=f"{BUCKET}/content/a.png")
    late = job_at(Path(old_run.output_uri).parent)
    prepared = open_prepared(late)
    assert prepared is not None
    assert source_changes(late, prepared.plan).sentences[0] == (
        f"content: 1 file came (s3://{BUCKET}/content/d.png)"
    )
    extension = extend(late)
    read: list[Any] = []
    assert extend(late, read.append) is None  # its sources are recorded now
    assert read == []
    client.delete_object(Bucket=BUCKET, Key=LATE)
    client.close()
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (1, 0)
    prepared = open_prepared(late)
    assert prepared is not None
    (item,) = prepared.plan.plans[-1].iter_items()
    assert (item.inputs[0].key, item.variant) == ("d", 1)
    assert audit(old_run.output_uri, published=False, complete=False).counts["pending"] == 1


def assert_same_pictures(run: Path, whole: Path, *, but: str = "-") -> None:
    """The rows of two runs tell of the same items, and their pictures differ by rounding alone.

    Args:
        but: how the keys begin of items that are left out.
    """
    ours, theirs = (
        {key: row for key, row in sorted(audit(one).by_key().items()) if not key.startswith(but)}
        for one in (run, whole)
    )
    assert list(map(identity, ours.values())) == list(map(identity, theirs.values()))
    for key, row in ours.items():
        if row["status"] == "ok":
            differences = pixels(run, row) - pixels(whole, theirs[key])
            assert abs(differences).mean() < 1


def pixels(run: Path, row: dict[str, Any]) -> Any:
    commit = json.loads((run / "commits" / f"{row['shard']}.json").read_bytes())
    (output,) = row["outputs"]
    with tarfile.open(run / commit["tar"]["name"]) as tar:
        member = tar.extractfile(output["name"])
        assert member is not None
        with Image.open(member) as picture:
            return np.asarray(picture, np.int16)


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row says on every machine; pixels follow a processor's rounding.

    A setting that a version did not know is at its default.
    """
    params = json.loads(row["params"])
    settings = Settings(**params.pop("settings"))
    return (row["item_id"], row["key"], row["seed"], row["status"], settings, params)
