"""What do `status` and `report` cost in a run of many commits? Pictures are drawn, not rendered.

python -m tests.tasks.many_commits --commits 10000
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from itertools import groupby, islice
from pathlib import Path

from PIL import Image

from manifests.commits import commit_name
from manifests.items import ErrorClass, Item, Problem
from manifests.outcomes import Outcome, OutputFile
from manifests.shard_stats import ShardStats
from tasks.plans.planning import PreparedRun
from tasks.runs.run_folder import open_run, pending_shards
from tasks.runs.run_plan import open_plan
from tasks.work import commit
from tasks.work.commit import Attempt, pack_shard, provenance_of
from tests.bad_images import picture
from tests.tasks.runs import prepare

COMMAND = """
import re, sys, time
from pathlib import Path
from flows.cli import main
try:
    main()
finally:
    (peak,) = re.findall(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
    print(f"\\n{time.process_time():.2f}", peak, file=sys.stderr)
"""
"""Runs a command, then tells its CPU seconds and its peak memory in KiB."""

FAILED = 50
"""Of so many items one fails."""


def main() -> None:
    """Makes a run and prints what it costs to look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=1, help="of each shard")
    parser.add_argument("--keep", type=Path, help="where the run is made, and stays")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = options.keep or Path(scratch)
        commit.check_shard = lambda *_: None  # what is written is not read back
        base.mkdir(exist_ok=True)
        run = make_run(base, options.commits, options.items)
        for name in ("index.json", "report.html"):
            (Path(run.uri) / name).unlink(missing_ok=True)
        for name in ("status", "report", "status", "report"):
            is_warm = (Path(run.uri) / "index.json").exists()
            print_cost(f"{name}, {'warm' if is_warm else 'cold'}", [name, run.uri])


def print_cost(title: str, arguments: Sequence[str]) -> None:
    """Prints the CPU seconds and the peak memory of a command."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds, kilobytes = done.stderr.splitlines()[-1].split()
    sys.stdout.write(f"{title:<14} {float(seconds):6.2f} CPU s {int(kilobytes) >> 10:6} MB\n")


def make_run(base: Path, num_commits: int, items_per_shard: int) -> PreparedRun:
    """A complete run of so many shards; every picture is the same one."""
    for role in ("content", "style"):
        (base / role).mkdir()
        Image.fromarray(picture(seed=1)).save(base / role / "x.png")
    shutil.copy(base / "content" / "x.png", base / "picture.png")
    run = prepare(
        base,
        variants=num_commits * items_per_shard,
        compute={"shard_items": items_per_shard, "device": "cpu"},
    )
    commit_pending(run.uri, base / "picture.png")
    return run


def commit_pending(run_uri: str, result: Path, most: int | None = None) -> None:
    """Commits the shards that have no commit, `most` of them at most, without rendering."""
    folder, (store, run) = Path(run_uri), open_run(run_uri)
    plan = open_plan(store, run)
    for name in ("data", "commits"):
        (folder / name).mkdir(exist_ok=True)
    pending = pending_shards(store, plan)
    shards = groupby(plan.iter_items(), key=lambda item: item.shard)
    wanted = ((shard, list(items)) for shard, items in shards if shard in pending)
    for shard, items in islice(wanted, most):
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            outcomes = [_outcome(item, result, Path(scratch)) for item in items]
            attempt = Attempt(shard=shard, attempt_id=uuid.uuid4().hex)
            provenance = provenance_of(run, attempt.attempt_id, "none", plan.generation(shard))
            stats = ShardStats(render_seconds=1.0)
            packed = pack_shard(attempt, outcomes, provenance, Path(scratch), stats)
            for file in packed.commit.files:
                packed.path_of(file).rename(folder / file.name)
            written = Path(scratch) / "commit.json"  # readers never see half of one
            written.write_bytes(packed.commit.to_bytes())
            written.rename(folder / commit_name(shard))


def _outcome(item: Item, result: Path, scratch: Path) -> Outcome:
    if item.variant % FAILED == 1 and not item.first_retry:
        return Outcome(item, problem=Problem(ErrorClass.OOM, "planted"))
    name = f"{item.key}.png"
    (scratch / name).hardlink_to(result)
    data = result.read_bytes()
    output = OutputFile(name, hashlib.sha256(data).hexdigest(), len(data), 64, 64)
    return Outcome(item, outputs=(output,), retries=item.first_retry, seconds=0.5)


if __name__ == "__main__":
    main()
