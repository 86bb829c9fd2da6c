"""The script of the array job, run as Slurm runs it; a stand-in hears what `scontrol` is asked."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.exit_codes import ExitCode
from tests.command_line import Cli, command_environment
from tests.flows.jobs import write_job
from tests.infra.recipes import INFRA

SCRIPT = INFRA / "slurm" / "array.sbatch"
MANUAL = """
account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint
container container-id contiguous core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task
deadline delay-boot dependency distribution error exclude exclusive export export-file extra
extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task
gres gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep licenses mail-type mail-user
mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill no-requeue nodefile
nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode
output overcommit oversubscribe parsable partition power prefer priority profile propagate qos quiet
reboot requeue reservation resv-ports signal sockets-per-node spread-job stepmgr switches test-only
thread-spec threads-per-core time time-min tmp tres-bind tres-per-task use-min-nodes verbose wait
wait-all-nodes wckey wrap
"""
OPTIONS_OF_SBATCH = set(re.findall(r"\S+", MANUAL))
"""The long options in sbatch's manual."""

STYLEFARM = """\
#!/bin/sh
exec {python} -m flows.cli "$@"
"""
SCONTROL = """\
#!/bin/sh
echo "$@" >> {asked}
"""


def test_bash_reads_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0


def test_every_option_is_one_of_sbatch_and_stands_before_the_script_begins():
    head, _, body = SCRIPT.read_text().partition("\nset ")
    given = re.findall(r"^#SBATCH --([a-z-]+)", head, re.MULTILINE)
    assert set(given) <= OPTIONS_OF_SBATCH
    assert len(given) == len(re.findall("^#SBATCH", head, re.MULTILINE))
    assert len(set(given)) == len(given)
    assert "#SBATCH" not in body
    assert {"array", "gres", "requeue", "signal", "time"} <= set(given)
    assert all(line.startswith("#") for line in head.splitlines())


@pytest.fixture
def node(tmp_path: Path) -> dict[str, str]:
    """The environment of an array's third task on a node, where `stylefarm` is on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    asked = tmp_path / "asked"
    texts = {
        "stylefarm": STYLEFARM.format(python=sys.executable),
        "scontrol": SCONTROL.format(asked=asked),
    }
    for name, text in texts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    asked.touch()
    return {
        **command_environment(),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "SLURM_JOB_ID": "71",
        "SLURM_ARRAY_JOB_ID": "68",
        "SLURM_ARRAY_TASK_ID": "2",
    }


def stand_in(node: dict[str, str], text: str) -> None:
    """Another program in the place of `stylefarm`."""
    (Path(node["PATH"].partition(os.pathsep)[0]) / "stylefarm").write_text(f"#!/bin/sh\n{text}\n")


def submit(folder: Path, node: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", SCRIPT, *arguments],
        cwd=folder,
        env=node,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def requeued(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_without_a_run_folder_it_says_what_to_give(tmp_path, node):
    job = submit(tmp_path, node)
    said, _ = job.communicate(timeout=60)
    assert job.returncode
    assert "give the run folder" in said


@pytest.mark.parametrize("code", [int(code) for code in ExitCode])
def test_a_task_ends_as_its_worker_and_goes_on_later_only_where_that_helps(tmp_path, node, code):
    stand_in(node, f"exit {code}")
    job = submit(tmp_path, node, "run")
    job.communicate(timeout=60)
    assert job.returncode == code
    again = code == ExitCode.INCOMPLETE
    assert requeued(tmp_path) == (["requeue 68_2"] if again else [])


def test_a_worker_that_is_told_before_it_can_answer_goes_on_later(tmp_path, node):
    stand_in(node, "echo ready; while :; do sleep 0.1; done")
    job = submit(tmp_path, node, "run")
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=60)
    assert requeued(tmp_path) == ["requeue 68_2"]


def test_a_task_is_not_requeued_for_ever(tmp_path, node):
    stand_in(node, f"exit {int(ExitCode.INCOMPLETE)}")
    submit(tmp_path, node | {"SLURM_RESTART_COUNT": "10"}, "run").communicate(timeout=60)
    assert requeued(tmp_path) == []


WAITS_AND_ANSWERS = """\
trap 'sleep 0.5; echo in order; exit 4' TERM
echo ready
while :; do sleep 0.1; done"""


def test_before_the_time_is_over_the_worker_is_told_and_waited_for(tmp_path, node):
    """What it does after the signal is not cut off, and its exit code is the task's."""
    stand_in(node, WAITS_AND_ANSWERS)
    job = submit(tmp_path, node, "run")
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=60)
    assert said.count("in order") == 1
    assert job.returncode == ExitCode.INCOMPLETE
    assert requeued(tmp_path) == ["requeue 68_2"]


def test_a_task_that_somebody_cancels_ends_in_order_and_does_not_come_back(tmp_path, node):
    """`scancel` sends SIGTERM to every process of the task: the worker hears it once."""
    stand_in(node, WAITS_AND_ANSWERS)
    job = submit(tmp_path, node, "run")
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    os.killpg(job.pid, signal.SIGTERM)
    said, _ = job.communicate(timeout=60)
    assert said.count("in order") == 1
    assert job.returncode == ExitCode.INCOMPLETE
    assert requeued(tmp_path) == []


def test_the_signal_of_the_time_limit_is_the_one_that_the_script_hears():
    (sent,) = re.findall(r"--signal=B:([A-Z0-9]+)@", SCRIPT.read_text())
    assert re.search(rf"^trap 'over=yes.*' {sent}$", SCRIPT.read_text(), re.MULTILINE)


@pytest.mark.slow
def test_tasks_of_an_array_make_a_run_and_one_that_is_stopped_goes_on_later(
    tmp_path: Path, node: dict[str, str], pictures: Path, cli: Cli
):
    job = write_job(tmp_path, settings={"num_inference_steps": 5})
    assert cli("plan", job).code == 0
    stopped = submit(tmp_path, node, "run", "cpu")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run" / "attempts").glob("*/*.json")):
        assert time.monotonic() < deadline
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.send_signal(signal.SIGUSR1)
    said, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == ExitCode.INCOMPLETE, said
    assert requeued(tmp_path) == ["requeue 68_2"]

    again = submit(tmp_path, node, "run", "cpu")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == ExitCode.COMPLETE, said
    assert (tmp_path / "run" / "report.html").exists()
