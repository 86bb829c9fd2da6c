"""How near does `stylefarm estimate` come to the run that follows? Not in the suite: it takes time.

`python -m tests.tasks.estimate_against_run [CASE …] [--times 3] [--idle 1.0]` prints for each kind
of job what the estimate said and what the run took, of rendering and of the worker's time, and the
ratio. It waits until the machine is idle, and is only as good as the machine stays so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.command_line import NO_PREFECT, command_environment

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "manifests" / "examples" / "images"

IDLE_SECONDS = 600.0
"""So long an idle machine is waited for."""

GRID = {"content": "content", "style": "style"}
TEXTURES = {"texture": "texture"}
PROMPTS = ["a fox", "a lighthouse", "a bowl of fruit", "a street in the rain"]


def _job(task: str, inputs: dict[str, Any], size: int, **changes: Any) -> dict[str, Any]:
    job: dict[str, Any] = {"task": task, "inputs": inputs, "output": {"uri": "run", "size": size}}
    return job | changes


CASES: dict[str, dict[str, Any]] = {
    "grid": _job("style-transfer", GRID, 96, settings={"num_inference_steps": 10}),
    "grid-long": _job("style-transfer", GRID, 96, settings={"num_inference_steps": 80}),
    "grid-24": _job("style-transfer", GRID, 96, settings={"num_inference_steps": 60}, variants=2),
    "one-by-one": _job(
        *("style-transfer", GRID, 96),
        settings={"num_inference_steps": 20},
        compute={"batch_size": 1},
    ),
    "small-shards": _job(
        *("style-transfer", GRID, 96),
        settings={"num_inference_steps": 20},
        compute={"shard_items": 3},
    ),
    "draft": _job("style-transfer-draft", GRID, 96),
    "texture-sample": _job(
        "texture-sample", TEXTURES, 96, settings={"num_inference_steps": 20}, variants=3
    ),
    "texture-optimize": _job(
        "texture-optimize", TEXTURES, 96, settings={"num_inference_steps": 60}, variants=5
    ),
    "texture-expand": _job(
        *("texture-expand", TEXTURES, 128),
        settings={"num_inference_steps": 3, "reference_size": 128, "view_size": 8}
        | {"view_stride": 4},
        variants=3,
    ),
    "decoder": _job(
        *("texture-sample", TEXTURES, 96),
        settings={"num_inference_steps": 8, "decoder_epochs": 3},
        variants=3,
    ),
    "style-t2i": _job(
        *("style-t2i-sd15", {"style": "style", "prompt": PROMPTS}, 96),
        settings={"num_inference_steps": 10},
    ),
    "sweep": _job(
        *("style-transfer", GRID, 96),
        settings={"num_inference_steps": 15},
        sweep=[
            {"label": "weak", "content_weight": 0.1},
            {"label": "long", "num_inference_steps": 40},
        ],
    ),
    "two-sizes": _job(
        *("style-transfer", GRID, 96),
        settings={"num_inference_steps": 30},
        output={"uri": "run", "size": 96, "resize_mode": "keep_ratio"},
    ),
    "quilting": _job("baseline-quilting", TEXTURES, 96, variants=3),
}


@dataclass(frozen=True)
class Ratio:
    """What was estimated over what a run took."""

    render: float
    device: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], default=[])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--idle", type=float, default=0.5, help="load average to wait for")
    parser.add_argument("--threads", default=str(os.cpu_count()))
    given = parser.parse_args()
    for name in given.cases or CASES:
        for _ in range(given.times):
            with tempfile.TemporaryDirectory() as folder:
                wait_until_idle(given.idle)
                ratio = compared(Path(folder), CASES[name], given.threads)
                _say(f"{name}: render {ratio.render:.2f}, worker {ratio.device:.2f}")


def compared(folder: Path, job: dict[str, Any], threads: str) -> Ratio:
    """Estimates a job and runs it, in a folder of its own."""
    for role, number in (("content", 4), ("style", 3), ("texture", 4)):
        (folder / role).mkdir()
        for file in sorted((IMAGES / role).glob("*.jpg"))[:number]:
            shutil.copy(file, folder / role)
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    document = json.loads(_called(folder, threads, "estimate", "job.yaml", "--json"))
    _called(folder, threads, "run", "job.yaml")
    stats = json.loads((folder / "run" / "index.json").read_text())["stats"]
    total = document["total"]
    worked = stats["load_seconds"] + stats["seconds_worked"]
    _say(
        f"  {document['items']} items: render {total['render_seconds']:.1f} s estimated, "
        f"{stats['render_seconds']:.1f} s taken; worker {3600 * total['device_hours']:.1f} s "
        f"estimated, {worked:.1f} s taken; load {os.getloadavg()[0]:.1f}"
    )
    return Ratio(
        render=total["render_seconds"] / stats["render_seconds"],
        device=3600 * total["device_hours"] / worked,
    )


def wait_until_idle(load: float) -> None:
    """Waits until the machine's load is no more than this, or a while."""
    deadline = time.monotonic() + IDLE_SECONDS
    while os.getloadavg()[0] > load and time.monotonic() < deadline:
        time.sleep(2.0)


def _called(folder: Path, threads: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=folder,
        env=command_environment(NO_PREFECT)
        | {"OMP_NUM_THREADS": threads, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
