"""Makes the run folders in `third/`, whose task draws noise, with the last code of one stream.

    git worktree add OLD ec44c3a && PYTHONPATH=OLD python tests/old_runs/make_third.py

The pictures are those of the first layout, here the styles of a prompt. In `complete` every shard
is committed, those of an extension by `late` included; `half` lacks two of the first shards, and no
extension has begun.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import boto3

from manifests.job import Compute, load_job
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.plans.extending import extend
from tasks.plans.planning import plan_items, store_plan
from tasks.results.publishing import publish
from tasks.work.child import InThisProcess
from tasks.work.worker import work
from tests.s3_server import start_s3_server

HERE = Path(__file__).parent
BUCKET = "stylefarm-old-run"


def upload(client: Any, folder: Path) -> None:
    """Puts pictures where the job looks for them."""
    for path in sorted(folder.rglob("*.png")):
        key = path.relative_to(folder).as_posix()
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())


def render(uri: str, max_shards: int | None) -> None:
    work(
        uri,
        device="cpu",
        compute=Compute(device="cpu"),
        renderer=InThisProcess(),
        max_shards=max_shards,
        should_stop=lambda: False,
        tell=lambda event: None,
    )


def job_of(home: Path) -> ResolvedJob:
    return resolve_job(load_job(HERE / "third" / "job.yaml"), str(home))


def make_run(client: Any, name: str) -> None:
    """Plans the job in `third/name/run`, and renders all or one of its shards."""
    home = HERE / "third" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    client.delete_object(Bucket=BUCKET, Key="content/d.png")
    resolved = job_of(home)
    uri = store_plan(resolved, plan_items(resolved)).uri
    render(uri, 1 if name == "half" else None)
    if name == "complete":
        upload(client, HERE / "late")
        extend(job_of(home))
        render(uri, None)
    publish(uri)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server_life = start_s3_server(Path(folder))
        os.environ.update(next(server_life).env())
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        upload(client, HERE / "pictures")
        for name in ("complete", "half"):
            make_run(client, name)
        client.close()
        server_life.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
