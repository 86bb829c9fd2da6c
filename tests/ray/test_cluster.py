"""A run on a cluster of two nodes, whatever is killed of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="pip install 'stylefarm[ray]', or make test-ray")

from flows.crew import Crew
from flows.crews import crew_of
from flows.stopping import Stopping
from manifests.budget import UNBOUNDED, Bounds
from manifests.errors import RunFolderError
from manifests.job import Compute
from tasks.runs.run_folder import open_run
from tasks.work.events import Began, Committed, Ended, Phase, WorkEvent
from tasks.work.fork_server import ForkServer
from tests.audit import audit
from tests.command_line import Cli
from tests.flows.jobs import write_job
from tests.flows.running import commits, living, said, start, wait_until
from tests.ray.clusters import Cluster, ray_cluster
from tests.tasks.runs import prepare

pytestmark = [pytest.mark.ray, pytest.mark.slow]

AWAY = "http://127.0.0.1:9/api"
"""A Prefect API that is not there, so that no server is waited for."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a node, with a logical GPU each. Whoever kills the node adds another."""
    with ray_cluster(num_nodes=2) as made:
        yield made


def job_of(pictures: Path, address: str, *, variants: int) -> Path:
    """Six shards of one item for each variant, each of which takes a second or more."""
    compute = {"shard_items": 1, "batch_size": 1, "device": "cpu"}
    return write_job(
        pictures,
        settings={"num_inference_steps": 20},
        variants=variants,
        compute=compute | {"runner": "ray", "ray_address": address},
    )


def plan_long_run(pictures: Path) -> Path:
    """A planned run of 24 such shards."""
    prepare(
        pictures,
        settings__num_inference_steps=20,
        variants=4,
        compute__shard_items=1,
        compute__batch_size=1,
    )
    return pictures / "run"


def workers_of(run: Path) -> dict[str, int]:
    """The process of every worker that holds or held a shard, by the worker's id."""
    attempts = [json.loads(path.read_text()) for path in run.glob("attempts/*/*.json")]
    return {attempt["worker"]["id"]: attempt["worker"]["pid"] for attempt in attempts}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(moment: str, is_there, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        assert time.monotonic() < deadline, f"waited in vain for {moment}"
        time.sleep(0.05)


@contextmanager
def crew_on(
    cluster: Cluster,
    run: Path,
    tell: Callable[[WorkEvent], None] = lambda event: None,
    bounds: Bounds = UNBOUNDED,
) -> Iterator[Crew]:
    """The workers of a planned run on the cluster."""
    compute = Compute(batch_size=1, runner="ray", ray_address=cluster.address)
    _, record = open_run(str(run))
    with (
        ForkServer([]) as server,
        crew_of(
            *(str(run), record, compute),
            server=server,
            stopping=Stopping(),
            bounds=bounds,
            tell=tell,
        ) as crew,
    ):
        yield crew


def test_a_killed_worker_and_a_killed_node_cost_what_they_had_in_hand(
    cluster: Cluster, pictures: Path
):
    plan_long_run(pictures)
    events: list[WorkEvent] = []

    def began() -> list[Began]:
        return [event for event in events if isinstance(event, Began)]

    def has_committed(worker: str) -> bool:
        return any(isinstance(one, Committed) and one.worker == worker for one in list(events))

    with crew_on(cluster, pictures / "run", events.append) as crew:
        assert len(crew.devices) == 2, "one worker for each GPU"
        wait_for("two workers", lambda: len(began()) == 2)
        first = began()[0].worker
        wait_for("a commit of the first", lambda: has_committed(first))
        os.kill(workers_of(pictures / "run")[first], signal.SIGKILL)
        wait_for("a worker in its place", lambda: len(began()) == 3)
        wait_for("a commit of that", lambda: has_committed(began()[2].worker))
        assert crew.is_working()
        cluster.kill_node(cluster.nodes[1])
        assert crew.wait() is False

    found = audit(pictures / "run", published=False)
    assert found.counts["ok"] == 24
    by_worker = {
        one.worker: [event for event in events if event.worker == one.worker] for one in began()
    }
    for told in by_worker.values():
        assert isinstance(told[0], Began)
        assert isinstance(told[-1], Ended)
        assert sum(isinstance(event, Ended) for event in told) == 1
        loads = [event for event in told if isinstance(event, Phase) and event.name == "loading"]
        assert len(loads) == 1, "its model is loaded once"
    committed = Counter(event.shard for event in events if isinstance(event, Committed))
    assert set(committed.values()) == {1}, "what is told is told once"
    assert not any(map(is_alive, workers_of(pictures / "run").values()))


def test_workers_on_nodes_obey_a_budget_and_overshoot_by_one_shard_each_at_most(
    cluster: Cluster, pictures: Path
):
    plan_long_run(pictures)
    bounds = Bounds(max_gpu_hours=15 / 3600, deadline=datetime.now(UTC) + timedelta(hours=1))
    with crew_on(cluster, pictures / "run", bounds=bounds) as crew:
        assert crew.wait() is False
        assert crew.uncovered_seconds is not None
    commits = [json.loads(path.read_text()) for path in (pictures / "run/commits").iterdir()]
    seconds = sorted(
        one["stats"]["load_seconds"] + one["stats"]["seconds_worked"] for one in commits
    )
    assert 0 < len(commits) < 24
    assert sum(seconds) <= 15 + sum(seconds[-2:])


def test_the_workers_end_with_a_command_that_is_killed_or_stopped(cluster: Cluster, pictures: Path):
    if cluster.nodes[1].poll() is not None:
        cluster.nodes[1] = cluster.add_node()
    job = job_of(pictures, cluster.address, variants=2)

    def begin() -> subprocess.Popen[str]:
        done = len(commits(pictures))
        command = start("run", job, folder=pictures, server=AWAY)
        wait_until(lambda: len(commits(pictures)) > done, command)
        return command

    killed = begin()
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    pids = workers_of(pictures / "run").values()
    wait_for("the end of its workers", lambda: not any(map(is_alive, pids)), 30)
    wait_for("the end of its own processes", lambda: not living(killed.pid), 30)

    stopped = begin()
    stopped.send_signal(signal.SIGTERM)
    assert "Stopped" in said(stopped)
    assert stopped.returncode == 4
    pids = workers_of(pictures / "run").values()
    wait_for("the end of its workers", lambda: not any(map(is_alive, pids)), 30)

    with crew_on(cluster, pictures / "run", print) as crew:
        assert crew.wait() is False
    assert audit(pictures / "run", published=False).counts["ok"] == 12


def can_hide_folders() -> bool:
    """Whether this process may give another one folders of its own."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(
    shutil.which("unshare") is None or not can_hide_folders(), reason="needs root and unshare"
)
def test_a_node_that_has_another_folder_at_that_path_ends_the_run(cluster: Cluster, pictures: Path):
    run, other = plan_long_run(pictures), pictures / "other"
    shutil.copytree(run, other)
    mount = f'mount --bind "{other}" "{run}" && exec "$@"'
    node = cluster.add_node("unshare", "--mount", "sh", "-c", mount, "sh")
    told = "of the Ray cluster does not work on the same run folder"
    try:
        with pytest.raises(RunFolderError, match=told), crew_on(cluster, run, print) as crew:
            crew.wait()
    finally:
        cluster.kill_node(node)


def test_a_cluster_whose_head_is_killed_ends_the_command_with_a_sentence(cli: Cli, pictures: Path):
    with ray_cluster(num_nodes=1) as cluster:
        job = job_of(pictures, cluster.address, variants=4)
        soon = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
        command = start("run", job, folder=pictures, server=AWAY, **soon)
        wait_until(lambda: bool(commits(pictures)), command)
        cluster.kill_node(cluster.nodes[0])
        assert "the Ray cluster is gone" in said(command)
        assert command.returncode == 4
    assert cli("status", "run").code == 0
