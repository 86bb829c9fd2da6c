"""Run folders of the first layout, written by the code that had it, are read, finished and grow."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest

from manifests.job import load_job
from tasks.extending import extend
from tasks.planning import open_prepared
from tasks.publishing import publish
from tasks.resolving import ResolvedJob, resolve_job
from tasks.source_changes import source_changes
from tests.audit import audit
from tests.tasks.runs import files_of, finish

pytestmark = pytest.mark.s3

HOME = Path(__file__).parents[1] / "old_runs"
BUCKET = "stylefarm-old-run"


@pytest.fixture
def pictures_in_bucket(s3_bucket) -> None:
    """The pictures where the old plans look for them."""
    client = boto3.client("s3")
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET)
    for path in (HOME / "pictures").rglob("*.png"):
        key = path.relative_to(HOME / "pictures").as_posix()
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.close()


@pytest.fixture
def old_run(pictures_in_bucket, tmp_path, request) -> ResolvedJob:
    """The job of a copied run folder, `complete` or `half`."""
    shutil.copytree(HOME / request.param / "run", tmp_path / "run")
    return resolve_job(load_job(HOME / "job.yaml"), str(tmp_path))


def run_json(resolved: ResolvedJob) -> dict[str, object]:
    return json.loads((Path(resolved.output_uri) / "run.json").read_bytes())


@pytest.mark.parametrize("old_run", ["complete"], indirect=True)
def test_a_finished_run_of_the_first_layout_is_recognised_and_reported(old_run):
    before = files_of(old_run.output_uri)
    prepared = open_prepared(old_run)
    assert prepared is not None
    index = publish(old_run.output_uri)
    assert index.complete
    assert index.counts.ok == 2
    assert audit(old_run.output_uri).counts["failed"] == 1
    after = files_of(old_run.output_uri)
    derived = {"index.json", "report.html", *(file.name for file in index.metadata)}
    assert after.keys() - before.keys() <= derived
    assert all(after[name] == data for name, data in before.items() if name not in derived)


@pytest.mark.parametrize("old_run", ["half"], indirect=True)
def test_a_half_finished_run_of_the_first_layout_is_finished_as_it_was_planned(old_run):
    record = run_json(old_run)
    prepared = open_prepared(old_run)
    assert prepared is not None
    index = finish(prepared)
    assert index.complete
    assert run_json(old_run) == record
    whole = audit(HOME / "complete" / "run").rows
    rows = audit(old_run.output_uri).rows
    assert [identity(row) for row in rows] == [identity(row) for row in whole]


@pytest.mark.parametrize("old_run", ["complete"], indirect=True)
def test_a_run_of_the_first_layout_grows_by_what_is_new_and_names_what_changed(old_run):
    client = boto3.client("s3")
    client.copy_object(Bucket=BUCKET, Key="content/d.png", CopySource=f"{BUCKET}/content/a.png")
    late = resolve_job(load_job(HOME / "job.yaml"), str(Path(old_run.output_uri).parent))
    prepared = open_prepared(late)
    assert prepared is not None
    assert source_changes(late, prepared.plan).sentences[0] == (
        f"content: 1 file came (s3://{BUCKET}/content/d.png)"
    )
    extension = extend(late)
    read: list[Any] = []
    assert extend(late, read.append) is None  # its sources are recorded now
    assert read == []
    client.delete_object(Bucket=BUCKET, Key="content/d.png")
    client.close()
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (1, 0)
    prepared = open_prepared(late)
    assert prepared is not None
    (item,) = prepared.plan.plans[-1].iter_items()
    assert (item.inputs[0].key, item.variant) == ("d", 1)
    assert audit(old_run.output_uri, published=False, complete=False).counts["pending"] == 1


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row says on every machine; pixels follow a processor's rounding."""
    return (row["item_id"], row["key"], row["seed"], row["status"], row["params"])
