"""One folder of pictures for all crashes, and the run that nobody disturbed."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from manifests.commits import Index
from tasks.plans.planning import PreparedRun
from tests.bad_images import picture
from tests.tasks.runs import finish, prepare

SMALL = {"limits": {"max_items": 2}, "compute": {"shard_items": 1, "device": "cpu"}}
"""Two shards of one item each."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for role, names in (("content", "abc"), ("style", "xy")):
        (folder / role).mkdir()
        for name in names:
            Image.fromarray(picture(seed=ord(name))).save(folder / role / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(inputs: Path) -> Index:
    """What every run below must come to."""
    return finish(prepare(inputs, output__uri="undisturbed", **SMALL))


@pytest.fixture(scope="module")
def _numbers() -> Callable[[], int]:
    return itertools.count().__next__


@pytest.fixture
def plan(inputs: Path, _numbers: Callable[[], int]) -> Callable[[], PreparedRun]:
    """Plans the test's run, or finds it again."""
    uri = f"run-{_numbers()}"
    return lambda: prepare(inputs, output__uri=uri, **SMALL)
