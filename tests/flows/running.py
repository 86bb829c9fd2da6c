"""Commands as processes of their own that run while a test does something to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.command_line import NO_PREFECT, command_environment
from tests.flows.jobs import write_job

PLANTED = Path(__file__).parents[1] / "faults" / "planted_renderers"

PATIENCE_SECONDS = 120
"""Until a moment comes; a test that waits longer fails."""


def long_job(pictures: Path) -> Path:
    """Six shards of one item; `start` has each of them take two seconds or more."""
    return write_job(
        pictures,
        settings={"num_inference_steps": 5},
        compute={"shard_items": 1, "batch_size": 1, "device": "cpu"},
    )


def slow_environment(scratch: Path, server: str = NO_PREFECT) -> dict[str, str]:
    """What is around a command whose batches wait two seconds among their steps.

    So any processor has time to meet a moment of it, and none has to compute meanwhile.
    """
    around = command_environment(server)
    return around | {
        "PYTHONPATH": os.pathsep.join([str(PLANTED), around["PYTHONPATH"]]),
        "STYLEFARM_PLANTED_SECONDS": "2",
        "TMPDIR": str(scratch),
    }


def start(
    *arguments: str | Path, folder: Path, server: str = NO_PREFECT, **environment: str
) -> subprocess.Popen[str]:
    """The command in a session of its own, with a folder of its own for what it keeps a while."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=folder,
        env=slow_environment(scratch, server) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(moment: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    """Waits for a moment; fails where a process ends before it comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not moment():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(process: subprocess.Popen[str]) -> str:
    """What a process printed, once it has ended."""
    printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return printed


def scratch_in_use(folder: Path) -> list[Path]:
    """The temporary folders of shards, of the commands that were started in this folder."""
    return list((folder / "scratch").glob("stylefarm-*/work-*"))


def commits(folder: Path) -> list[Path]:
    return list((folder / "run" / "commits").glob("*"))


def living(session: int) -> list[int]:
    """The processes of a command's session that still live, the command itself included."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found
