"""How many workers a cluster gets, and which cluster; what Ray cannot use is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.ray_crew import Places, cluster_address
from infra.ray_cluster import Node, RayUnavailable, Share, joined_cluster
from manifests.errors import JobError
from manifests.job import Compute, load_job
from tests.flows.jobs import write_job


def nodes(*sizes: tuple[float, float]) -> list[Node]:
    return [
        Node(host=f"node{n}", num_cpus=num_cpus, num_gpus=num_gpus)
        for n, (num_cpus, num_gpus) in enumerate(sizes)
    ]


A_GPU = Share(num_cpus=0, num_gpus=1)


@pytest.mark.parametrize(
    ("cluster", "workers", "expected"),
    [
        (nodes((8, 2), (8, 2), (16, 0)), None, Places(num_workers=4, share=A_GPU, num_threads=4)),
        (nodes((8, 2), (1, 1)), 9, Places(num_workers=9, share=A_GPU, num_threads=1)),
        (
            nodes((8, 0), (4, 0)),
            None,
            Places(num_workers=2, share=Share(num_cpus=4, num_gpus=0), num_threads=4),
        ),
        (
            nodes((0, 0), (8, 0)),
            None,
            Places(num_workers=1, share=Share(num_cpus=8, num_gpus=0), num_threads=8),
        ),
        (
            nodes((8, 0), (8, 0)),
            4,
            Places(num_workers=4, share=Share(num_cpus=4, num_gpus=0), num_threads=4),
        ),
        (
            nodes((2, 0)),
            5,
            Places(num_workers=5, share=Share(num_cpus=1, num_gpus=0), num_threads=1),
        ),
    ],
    ids=[
        "one for each GPU",
        "as many as asked",
        "one for each node",
        "a head without cores",
        "cores divided",
        "too many",
    ],
)
def test_a_cluster_has_a_worker_for_each_gpu_or_for_each_node_or_as_many_as_asked(
    cluster: list[Node], workers: int | None, expected: Places
):
    assert Places.in_cluster(cluster, workers, "cpu") == expected


def test_a_run_that_needs_gpus_is_refused_by_a_cluster_without():
    with pytest.raises(JobError, match="no node of the Ray cluster has a GPU"):
        Places.in_cluster(nodes((8, 0), (8, 0)), None, "cuda")
    assert Places.in_cluster(nodes((8, 0), (8, 1)), None, "cuda").num_workers == 1
    with pytest.raises(JobError, match="gives away no CPU and no GPU"):
        Places.in_cluster(nodes((0, 0)), None, "cpu")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ray_address", "ray://head:10001", "no ray:// URL; got 'ray://head:10001'"),
        ("ray_address", "local", "host:port of a running cluster"),
        ("runner", "slurm", "compute.runner"),
        ("device", "cuda:1", "Ray gives each worker its GPU: write device: cuda"),
    ],
)
def test_what_ray_cannot_use_is_refused_as_the_job_is_read(
    key: str, value: str, words: str, tmp_path: Path
):
    with pytest.raises(JobError, match=words):
        load_job(write_job(tmp_path), {"compute.runner": "ray", f"compute.{key}": value})


def test_a_cluster_that_is_not_there_is_told_at_once():
    with (
        pytest.raises(RayUnavailable, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "),
        joined_cluster("127.0.0.1:1"),
    ):
        raise AssertionError


def test_an_address_of_the_environment_is_held_to_the_rule_of_the_job(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(Compute()) == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(Compute()) == "10.0.0.1:6379"
    assert cluster_address(Compute(ray_address="[::1]:6379")) == "[::1]:6379"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(JobError, match="RAY_ADDRESS: give host:port"):
        cluster_address(Compute())
