"""A run that is told to stop: at every moment it ends soon, and the same command finishes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.audit import audit
from tests.command_line import Cli, command_environment
from tests.flows.jobs import write_job

PATIENCE_SECONDS = 120
"""Until a moment comes; a test that waits longer fails."""


def is_planned(folder: Path) -> bool:
    return (folder / "run" / "run.json").exists()


def is_rendering(folder: Path) -> bool:
    return any((folder / "scratch").glob("stylefarm-*"))


def has_committed(folder: Path) -> bool:
    return any((folder / "run" / "commits").glob("*"))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "at once": lambda folder: True,
    "planned": is_planned,
    "rendering": is_rendering,
    "after the first commit": has_committed,
}


def start(job: Path, server: str, **environment: str) -> subprocess.Popen[str]:
    """The command as a process, with a folder of its own for what it keeps for a while."""
    scratch = job.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(job)],
        env=command_environment(server) | {"TMPDIR": str(scratch)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def stop(
    process: subprocess.Popen[str], folder: Path, moment: Callable[[Path], bool], number: int
) -> str:
    """Sends the signal once the moment has come; what the command printed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not moment(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if moment is MOMENTS["at once"]:
        time.sleep(1.0)  # so that Python itself has started
    process.send_signal(number)
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return printed


def long_job(pictures: Path) -> Path:
    return write_job(
        pictures,
        settings={"num_inference_steps": 25},
        compute={"shard_items": 1, "batch_size": 1, "device": "cpu"},
    )


def content_digest(folder: Path) -> str:
    index = json.loads((folder / "index.json").read_text())
    assert index["complete"]
    return index["content_digest"]


@pytest.mark.slow
def test_a_run_that_is_stopped_at_any_moment_ends_with_4_and_then_like_an_undisturbed_one(
    cli: Cli, prefect_server: str, pictures: Path
):
    job = long_job(pictures)
    for number, moment in zip(
        (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM),
        MOMENTS.values(),
        strict=True,
    ):
        process = start(job, prefect_server)
        printed = stop(process, pictures, moment, number)
        assert process.returncode == 4, printed
        assert "Traceback" not in printed
        assert printed.count("Stopped; run the same command again to finish.") == 1
        assert not is_rendering(pictures), "the scratch folder is removed"
    assert cli("run", job).code == 0
    assert cli("run", job, "--output", pictures / "whole").code == 0
    audit(pictures / "run")
    assert content_digest(pictures / "run") == content_digest(pictures / "whole")


@pytest.mark.slow
def test_a_run_that_waits_for_its_private_prefect_server_stops_without_it(pictures: Path):
    process = start(long_job(pictures), "", PREFECT_HOME=str(pictures / "prefect"))
    printed = stop(process, pictures, is_planned, signal.SIGTERM)
    assert process.returncode == 4, printed
    assert "Traceback" not in printed
    assert not has_committed(pictures)


def test_a_second_signal_does_not_wait_for_the_step(pictures: Path):
    code = """
import time, sys
from flows.stopping import run_stoppable
from flows.terminal import Terminal
from tasks.scratch import scratch_folder

def work():
    with scratch_folder() as folder:
        print(folder, flush=True)
        time.sleep(1000)
    return 0

sys.exit(run_stoppable(work, Terminal()))
"""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scratch = Path(process.stdout.readline().strip())
        assert scratch.exists()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("Stopping at the next step")
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 4
    assert not scratch.exists()
