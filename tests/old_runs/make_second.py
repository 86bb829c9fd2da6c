"""Makes the run folders in `second/`, of `run.json`'s second schema, with the first code of it.

    git worktree add OLD 42450a6 && PYTHONPATH=OLD python tests/old_runs/make_second.py

The job and the pictures are those of the first layout; `late` holds what an extension found. In
`complete` every shard of both generations is committed. `half` lacks one of the first shards, at
which an attempt ended badly, and its extension has not begun.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import boto3
from PIL import Image

from infra.store import Store
from manifests.job import Compute, load_job
from tasks.inputs.resolving import ResolvedJob, resolve_job
from tasks.plans.extending import extend
from tasks.plans.planning import plan_items, store_plan
from tasks.results.report import publish
from tasks.runs.run_folder import open_run
from tasks.runs.worker_identity import this_worker
from tasks.work.child import InThisProcess
from tasks.work.holding import take
from tasks.work.worker import work
from tests.bad_images import picture
from tests.s3_server import start_s3_server

HERE = Path(__file__).parent
BUCKET = "stylefarm-old-run"


def write_late_picture() -> None:
    """The picture that comes after the first plan; its bytes are kept, as those of the others."""
    path = HERE / "late" / "content" / "d.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.fromarray(picture(seed=ord("d"))).resize((48, 48)).save(path)


def upload(folder: Path) -> None:
    """Puts pictures where the job looks for them."""
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*.png")):
        key = path.relative_to(folder).as_posix()
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    client.close()


def remove_late_picture() -> None:
    client = boto3.client("s3")
    client.delete_object(Bucket=BUCKET, Key="content/d.png")
    client.close()


def job_of(home: Path) -> ResolvedJob:
    return resolve_job(load_job(HERE / "job.yaml"), str(home))


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


def leave_attempt(store: Store) -> None:
    """An attempt at the first shard that is not committed, which the store ended."""
    taken = {found.key for found in store.list("commits/")}
    shard = next(f"0000{n}" for n in range(3) if f"commits/0000{n}.json" not in taken)
    holding = take(store, shard, 1, this_worker("cpu"))
    holding.end("infra", "StoreBusy: the store did not answer")


def make_run(name: str) -> None:
    """Plans the job in `second/name/run`, extends it, and renders all or two of its shards."""
    home = HERE / "second" / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    remove_late_picture()
    resolved = job_of(home)
    uri = store_plan(resolved, plan_items(resolved)).uri
    render(uri, 2 if name == "half" else None)
    upload(HERE / "late")
    extend(job_of(home))
    if name == "half":
        leave_attempt(open_run(uri)[0])
    else:
        render(uri, None)
    publish(uri)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server_life = start_s3_server(Path(folder))
        os.environ.update(next(server_life).env())
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        client.close()
        write_late_picture()
        upload(HERE / "pictures")
        for name in ("complete", "half"):
            make_run(name)
        server_life.close()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
