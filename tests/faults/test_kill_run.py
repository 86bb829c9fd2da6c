"""`kill -9` of the whole command at moments of chance, and the same command again."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.audit import audit
from tests.command_line import command_environment
from tests.flows.jobs import write_job

NUM_KILLS = 2


def content_digest(run: Path) -> str:
    index = json.loads((run / "index.json").read_text())
    assert index["complete"]
    return index["content_digest"]


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_like_an_undisturbed_one(
    prefect_server: str, pictures: Path
):
    job = write_job(
        pictures,
        settings={"num_inference_steps": 20},
        compute={"shard_items": 1, "batch_size": 1, "device": "cpu"},
    )
    command = [sys.executable, "-m", "flows.cli", "run", str(job)]
    environment = command_environment(prefect_server)

    started = time.monotonic()
    subprocess.run([*command, "--output", str(pictures / "whole")], env=environment, check=True)
    whole_seconds = time.monotonic() - started

    chance = random.Random(7)
    for _ in range(NUM_KILLS):
        victim = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            victim.wait(chance.uniform(0.3, 0.9) * whole_seconds)
        except subprocess.TimeoutExpired:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
    subprocess.run(command, env=environment, check=True)

    audit(pictures / "run")
    assert content_digest(pictures / "run") == content_digest(pictures / "whole")
