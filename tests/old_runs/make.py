"""Makes the run folders of the first layout that lie beside this file, with the code that wrote it.

    git worktree add OLD 5d4bbc7 && PYTHONPATH=OLD python tests/old_runs/make.py

The pictures lie in a bucket, so that a plan holds no path of a machine. One of them is cut short:
its item is a failed row. `complete` is finished; of `half` one shard is committed, and an attempt
at another has left its note.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import boto3
from PIL import Image

from manifests.job import load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items, store_plan
from tasks.results.publishing import publish
from tasks.runs.run_folder import load_plan, open_run, pending_shards
from tasks.work.commit import Attempt, record_failure
from tasks.work.render import render_shard
from tests.bad_images import picture
from tests.s3_server import start_s3_server

HERE = Path(__file__).parent
BUCKET = "stylefarm-old-run"


def write_pictures() -> None:
    """Small pictures; their bytes are kept, because another encoder would write others."""
    for role, names in (("content", "abc"), ("style", "x")):
        folder = HERE / "pictures" / role
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            image = Image.fromarray(picture(seed=ord(name))).resize((48, 48))
            image.save(folder / f"{name}.png")
    cut_short = HERE / "pictures/content/c.png"
    cut_short.write_bytes(cut_short.read_bytes()[:500])


def upload() -> None:
    """Puts the pictures where the job looks for them."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in sorted((HERE / "pictures").rglob("*.png")):
        key = path.relative_to(HERE / "pictures").as_posix()
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.close()


def make_run(name: str) -> None:
    """Plans the job in `name/run`, and renders all or one of its shards."""
    home = HERE / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    resolved = resolve_job(load_job(HERE / "job.yaml"), str(home))
    uri = store_plan(resolved, plan_items(resolved)).uri
    store, run = open_run(uri)
    shards = sorted(pending_shards(store, load_plan(store, run)))
    for shard in shards[1:2] if name == "half" else shards:
        render_shard(uri, shard, {"device": "cpu"})
    if name == "half":
        record_failure(store, Attempt(shards[2], "0" * 32), "StoreBusy: the store did not answer")
    publish(uri)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server_life = start_s3_server(Path(folder))
        os.environ.update(next(server_life).env())
        write_pictures()
        upload()
        for name in ("complete", "half"):
            make_run(name)
        server_life.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
