"""How much of its time does a worker wait for pictures, and for what it has made to be stored?

    python -m tests.tasks.waiting
    python -m tests.tasks.waiting --job grid --store s3 --latency 0.2

The commits of a real run say it: real pictures, the embedded model, a rendering process, and where
asked a real S3 server behind a proxy that answers every request of inputs and outputs late.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from infra.store import open_store
from manifests.commits import read_commit
from manifests.job import Compute
from manifests.shard_stats import ShardStats
from tasks.runs.run_folder import open_run
from tasks.work.child import ChildProcess
from tasks.work.events import Committed, Phase, WorkEvent
from tasks.work.worker import work
from tests.bad_images import picture
from tests.fault_proxy import Fault, FaultProxy
from tests.s3_server import memory_folder, start_s3_server
from tests.tasks.runs import prepare

MOST_WAITED = 0.02
"""The share of its time that a worker may wait for inputs of a sound job."""


def main() -> None:
    """Renders a job and prints where its worker's time went; 1 where it waited for too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=("style", "grid"), default="style")
    parser.add_argument("--items", type=int, default=48, help="a grid has 6 x items/6")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--source-size", type=int, default=1024, help="pixels")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--shard-items", type=int, default=16)
    parser.add_argument("--store", choices=("local", "s3"), default="local")
    parser.add_argument("--latency", type=float, default=0.0, help="of the store, in seconds")
    options = parser.parse_args()
    with _place(options.store, options.latency) as (folder, uri):
        seconds, stats = _rendered(options, folder, uri)
        _print(stats, seconds)
    sys.exit((ShardStats.total(stats).share_waited or 0.0) > MOST_WAITED)


@contextmanager
def _place(store: str, latency: float) -> Iterator[tuple[Path, str]]:
    """A local folder, and where inputs and outputs lie: in it, or on a slow S3."""
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(dir=memory_folder())
        folder = Path(stack.enter_context(temporary))
        if store == "local":
            yield folder, str(folder)
            return
        server = next(serving := start_s3_server(folder / "server"))
        stack.callback(serving.close)  # type: ignore[attr-defined]
        os.environ.update(server.env())
        bucket = server.make_bucket()
        proxy = stack.enter_context(FaultProxy(server.port))
        proxy.faults = [Fault("latency", seconds=latency)]
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        yield folder, f"s3://{bucket}"


def _rendered(
    options: argparse.Namespace, folder: Path, uri: str
) -> tuple[float, list[ShardStats]]:
    """Seconds from the first shard's rendering to the last commit, and figures of each shard."""
    num_styles = 6 if options.job == "grid" else 1
    _write(uri, "style", num_styles, options.source_size)
    _write(uri, "content", options.items // num_styles, options.source_size)
    changes: dict[str, Any] = {
        "inputs": {"content": f"{uri}/content", "style": f"{uri}/style"},
        "output": {"uri": f"{uri}/run", "size": options.size},
        "settings": {"num_inference_steps": options.steps},
        "backbone": "embedded",
        "compute": {"shard_items": options.shard_items, "device": "cpu"},
    }
    run = prepare(folder, **changes)
    store, _ = open_run(run.uri)
    began: list[float] = []
    committed: list[float] = []

    def tell(event: WorkEvent) -> None:
        if isinstance(event, Phase) and event.name == "rendering":
            began.append(time.monotonic())
        elif isinstance(event, Committed):
            committed.append(time.monotonic())

    with ChildProcess(int(os.environ.get("OMP_NUM_THREADS", "0")) or None) as renderer:
        work(
            run.uri,
            device="cpu",
            compute=Compute(batch_size=options.batch_size),
            renderer=renderer,
            should_stop=lambda: False,
            tell=tell,
        )
    commits = sorted(one.key for one in store.list("commits/"))
    return committed[-1] - began[0], [
        read_commit(store.get(key), Path(key).stem).stats for key in commits
    ]


def _write(uri: str, role: str, number: int, size: int) -> None:
    store = open_store(f"{uri}/{role}")
    for seed in range(number):
        made = Image.fromarray(picture(seed=seed + 100 * (role == "style"))).resize((size, size))
        with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
            made.save(file, "JPEG", quality=92)
            store.put(f"{seed}.jpg", Path(file.name))


def _print(stats: list[ShardStats], seconds: float) -> None:
    names = [name for name in ShardStats.model_fields if "seconds" in name]
    for name in names:
        cells = " ".join(f"{getattr(one, name) or 0.0:8.2f}" for one in stats)
        total = getattr(ShardStats.total(stats), name) or 0.0
        sys.stdout.write(f"{name:<24} {cells}  all {total:8.2f} s {100 * total / seconds:6.1f} %\n")
    share = ShardStats.total(stats).share_waited or 0.0
    between = seconds - (ShardStats.total(stats).seconds_worked or 0.0)
    sys.stdout.write(
        f"from the first shard to the last commit {seconds:.1f} s, {100 * share:.2f} % of a "
        f"worker's time waited for pictures, {between:.1f} s between shards and at the end\n"
    )


if __name__ == "__main__":
    main()
