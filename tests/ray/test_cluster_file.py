"""`infra/ray/cluster.yaml` as Ray's cluster launcher reads it; no machine is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.infra.recipes import INFRA, documents

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> dict[str, Any]:
    (document,) = documents(INFRA / "ray" / "cluster.yaml")
    return document


def test_the_launcher_takes_the_file(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    for name in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[name] == [], "the image has all that is needed, at its version"


def test_the_launcher_takes_no_other_key(cluster):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config(cluster | {"most_workers": 3}))


def test_ray_starts_its_shell_in_the_image_and_not_stylefarm(cluster):
    from ray.autoscaler._private.docker import docker_start_cmds

    docker = cluster["docker"]
    options = docker["run_options"]
    start = docker_start_cmds(
        "u", docker["image"], {}, "c", options, "stylefarm", "/root", "docker"
    )
    before, _, after = start.partition(f" {docker['image']} ")
    assert after == "bash"
    assert "--entrypoint=/usr/bin/env" in before.split()


def test_workers_have_a_gpu_and_may_be_taken_away_and_the_head_may_not(cluster):
    types = cluster["available_node_types"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert "InstanceMarketOptions" in types["gpu"]["node_config"]
    assert "InstanceMarketOptions" not in types[cluster["head_node_type"]]["node_config"]
    assert "GPU" not in types[cluster["head_node_type"]]["resources"]
