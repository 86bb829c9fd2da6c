"""Workers on several machines share nothing but the store, and need nothing else."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.store import Store, open_store
from tests.audit import audit
from tests.bad_images import picture
from tests.conftest import TINY_BACKBONE
from tests.faults.machines import Machine, kill, machine, why_not
from tests.s3_server import S3Server
from tests.tasks.runs import download

pytestmark = [pytest.mark.s3, pytest.mark.slow]

LEASE_SECONDS = 6.0
NUM_SHARDS = 10
PATIENCE_SECONDS = 180.0

Attempt = dict[str, Any]


@pytest.fixture
def machines(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> Iterator[list[Machine]]:
    """Two machines before one server."""
    if reason := why_not():
        pytest.skip(reason)
    settings = s3_server.env() | {
        "STYLEFARM_PLANTED_LEASE": str(LEASE_SECONDS),
        "STYLEFARM_PLANTED_NOTHING": "yes",
        "STYLEFARM_PLANTED_GATE": str(tmp_path / "gate"),
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(machine(number, s3_server.port, tmp_path / f"{number}", settings))
            for number in range(2)
        ]


@pytest.fixture
def run(s3_bucket: str, tmp_path: Path) -> Store:
    """Where the run is to be, in a bucket that holds its pictures; `job.yaml` says how."""
    store = open_store(f"s3://{s3_bucket}")
    for role, number in (("content", NUM_SHARDS), ("style", 1)):
        for seed in range(number):
            store.put(f"photos/{role}/{seed:02d}.png", _png(seed))
    job = {
        "task": "style-transfer",
        "inputs": {role: f"s3://{s3_bucket}/photos/{role}" for role in ("content", "style")},
        "output": {"uri": f"s3://{s3_bucket}/run", "size": 64},
        "settings": {"num_inference_steps": 2},
        "backbone": str(TINY_BACKBONE),
        "compute": {"shard_items": 1, "batch_size": 1, "device": "cpu"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return open_store(f"s3://{s3_bucket}/run")


def _png(seed: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.fromarray(picture(seed=seed)).save(file, "PNG")
    return file.getvalue()


def attempts(run: Store) -> list[Attempt]:
    listed = [one.key for one in run.list("attempts/")]
    return [json.loads(run.get(key)) for key in listed]


def wait_until(moment: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not moment():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def said(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return printed


def test_two_runs_and_two_workers_on_two_machines_finish_one_folder_whatever_dies_or_is_cut_off(
    machines: list[Machine], run: Store, tmp_path: Path
):
    _, far = machines
    runs = [one.start("run", str(tmp_path / "job.yaml")) for one in machines]
    wait_until(lambda: run.find("run.json") is not None, *runs)
    dying, staying = (one.start("work", run.uri, "--device", "cpu") for one in machines)
    wait_until(lambda: len({one["worker"]["id"] for one in attempts(run)}) == 4, *runs)
    kill(dying)
    far.cut()
    (tmp_path / "gate").touch()
    time.sleep(1.5 * LEASE_SECONDS)
    far.mend()
    for process in (*runs, staying):
        printed = said(process)
        assert process.returncode == 0, printed
        assert ("10 of 10 items ok" if process in runs else "The run is complete") in printed

    found = audit(download(run.uri, tmp_path / "copy"))
    assert found.counts == {"planned": 10, "ok": 10, "failed": 0, "skipped": 0, "pending": 0}
    told = [attempt for shard in found.attempts.values() for attempt in shard]
    assert {attempt["worker"]["host"] for attempt in told} == {"farm-0", "farm-1"}
    assert len({attempt["worker"]["pid_namespace"] for attempt in told}) == 4
    assert [one for one in told if one["took_over"]], "nobody took over what the dead worker held"
