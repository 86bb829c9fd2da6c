"""How much time and memory does it take to plan many items? Preflight is left out.

python -m tests.tasks.plan_scale --contents 1000 --styles 1000
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from manifests.items import Input
from manifests.job import Job
from tasks.inputs.resolving import resolve_job
from tasks.plans import planning
from tasks.plans.planning import plan_items, put_plan
from tests.conftest import TINY_BACKBONE


def main() -> None:
    """Plans contents times styles small pictures of which only names and sizes are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contents", type=int, default=1000)
    parser.add_argument("--styles", type=int, default=1000)
    parser.add_argument("--random-sizes", action="store_true", help="each content another size")
    parser.add_argument("--seconds-per-item", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: Any) -> None:
    """Prints the figures of one planning."""
    planning.inspect_inputs = lambda images, **_: inspected(images, options.random_sizes)
    for role, number in (("content", options.contents), ("style", options.styles)):
        (folder / role).mkdir()
        for count in range(number):
            (folder / role / f"{role}-{count:06d}.png").touch()
    job = Job.model_validate(
        {
            "task": "style-transfer",
            "inputs": {"content": "content", "style": "style"},
            "output": {"uri": "run", **({} if options.random_sizes else {"size": 64})},
            "backbone": str(TINY_BACKBONE),
            "compute": {"device": "cpu", "seconds_per_item": options.seconds_per_item},
        }
    )
    resolved = resolve_job(job, str(folder))
    sys.stderr.write(f"before: {peak_megabytes():.0f} MB\n")
    started = time.process_time()
    plan = plan_items(resolved)
    put_plan(planning.open_store(resolved.output_uri), plan, b"")
    told = {
        "items": plan.num_items,
        "shards": len(plan.shards),
        "cpu_seconds": round(time.process_time() - started, 1),
        "peak_rss_mb": round(peak_megabytes()),
        "plan_mb": round(plan.path.stat().st_size / 1e6, 1),
    }
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in told.items()) + "\n")


def inspected(images: Iterable[Input], random_sizes: bool) -> dict[Input, Input]:
    """The images as preflight would give them back."""
    draw = random.Random(7)
    sizes = {
        image: (draw.randrange(480, 6000), draw.randrange(480, 6000)) if random_sizes else (64, 64)
        for image in images
    }
    return {
        image: replace(
            image,
            sha256=hashlib.sha256(image.uri.encode()).hexdigest(),
            width=width,
            height=height,
            num_bytes=1000,
        )
        for image, (width, height) in sizes.items()
    }


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
