"""A run that is told to stop: at every moment it ends soon, and the same command finishes it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from manifests.job import load_job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import plan_items, store_plan
from tests.audit import audit
from tests.command_line import command_environment
from tests.flows.conftest import Stylefarm
from tests.flows.running import (
    commits,
    living,
    long_job,
    said,
    scratch_in_use,
    slow_environment,
    start,
    wait_until,
)
from tests.tasks.runs import finish

STOPPED = "Stopped; run the same command again to finish."

MOMENTS: dict[str, tuple[signal.Signals, Callable[[Path], object]]] = {
    "at once": (signal.SIGTERM, lambda folder: True),
    "rendering, after the first commit": (signal.SIGHUP, commits),
}


def content_digest(folder: Path) -> str:
    index = json.loads((folder / "index.json").read_text())
    assert index["complete"]
    return index["content_digest"]


@pytest.mark.slow
def test_a_run_that_is_stopped_at_any_moment_ends_with_4_and_then_like_an_undisturbed_one(
    stylefarm: Stylefarm, pictures: Path
):
    job = long_job(pictures)
    for number, moment in MOMENTS.values():
        process = start("run", job, folder=pictures)
        wait_until(lambda moment=moment: bool(moment(pictures)), process)
        if moment is MOMENTS["at once"][1]:
            time.sleep(1.0)  # so that Python itself has started
        process.send_signal(number)
        printed = said(process)
        assert process.returncode == 4, printed
        assert "Traceback" not in printed
        assert printed.count(STOPPED) == 1
        assert not scratch_in_use(pictures), "the scratch folder is removed"
        wait_until(lambda process=process: not living(process.pid))
    assert stylefarm("run", job).code == 0
    resolved = resolve_job(load_job(job, {"output.uri": "whole"}), str(pictures))
    finish(store_plan(resolved, plan_items(resolved)))
    audit(pictures / "run")
    assert content_digest(pictures / "run") == content_digest(pictures / "whole")


ENDING = """
import time
from flows.stopping import run_stoppable
from flows.terminal import Terminal

assert run_stoppable(lambda stopping: 3, Terminal()) == 3
print("done", flush=True)
time.sleep(60)
"""


def test_a_signal_that_comes_after_the_work_changes_no_exit_code():
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING],
        env=command_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    process.stdout.close()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_process_behind(pictures: Path):
    home = str(pictures / "prefect")
    process = start("run", long_job(pictures), folder=pictures, server="", PREFECT_HOME=home)
    wait_until(lambda: bool(commits(pictures)), process)
    sessions = {os.getsid(pid) for pid in children_of(process.pid)}
    assert len(sessions) == 2, "the command's, and that of the process that shows it in Prefect"
    process.kill()
    said(process)
    wait_until(lambda: not any(living(session) for session in sessions))


def children_of(parent: int) -> list[int]:
    task = Path(f"/proc/{parent}/task")
    return [int(pid) for one in task.glob("*/children") for pid in one.read_text().split()]


def test_ctrl_c_is_answered_at_once_and_the_second_one_does_not_wait(pictures: Path):
    job = long_job(pictures)
    never_done = {"TERM": "xterm", "STYLEFARM_PLANTED_SECONDS": "3600"}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(job)],
        env=slow_environment(pictures) | never_done,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # its own terminal
    ) as process:
        os.close(follower)
        seen = read_until(leader, "rendering")
        os.write(leader, b"\x03")
        seen += read_until(leader, "once more to stop now")
        os.write(leader, b"\x03")
        seen += read_until(leader, None)
    assert process.returncode == 4, seen
    assert "Traceback" not in seen
    assert "KeyboardInterrupt" not in seen
    wait_until(lambda: not living(process.pid))
    assert not list(pictures.glob("stylefarm-*/work-*"))


def read_until(leader: int, words: str | None) -> str:
    """What a terminal shows until these words, or until nobody has it open any more."""
    seen = ""
    while words is None or words not in seen:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:  # closed
            piece = b""
        if not piece:
            assert words is None, seen
            break
        seen += piece.decode(errors="replace")
    return seen


def test_a_second_signal_gives_up_the_step_and_lets_it_clean_up(pictures: Path):
    code = """
import sys, threading
from flows.stopping import run_stoppable
from flows.terminal import Terminal
from tasks.runs.scratch import scratch_folder

def command(stopping):
    given_up = threading.Event()
    with stopping.step(given_up.set), scratch_folder() as folder:
        print(folder, flush=True)
        given_up.wait(1000)
    return 0

sys.exit(run_stoppable(command, Terminal()))
"""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "TMPDIR": str(pictures)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scratch = Path(process.stdout.readline().strip())
        assert scratch.exists()
        process.send_signal(signal.SIGTERM)
        assert "finishing this step; once more to stop now" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 4
    assert not scratch.exists()
