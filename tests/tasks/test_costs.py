"""Estimates follow what a method computes, so that shards of every task take about as long."""

from __future__ import annotations

from typing import Any

import pytest

from ad_lib.presets import PRESETS
from tasks.plans.costs import estimated_seconds


def seconds(task: str, *, side: int = 512, device: str = "cpu", **changes: Any) -> float:
    preset = PRESETS[task]
    settings = preset.settings_with(changes)
    return estimated_seconds(preset, settings, (side, side), is_embedded=True, device_type=device)


@pytest.mark.parametrize("task", PRESETS)
def test_every_task_has_an_estimate_that_grows_with_its_area(task):
    for device in ("cpu", "cuda", "mps"):
        assert seconds(task, device=device) > 0
        assert seconds(task, side=1024, device=device) == pytest.approx(
            4 * seconds(task, device=device), rel=0.1
        )


@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("style-transfer", {"num_inference_steps": 400}),
        ("baseline-gpdm", {"num_optimization_steps": 600}),
        ("baseline-gpdm", {"num_projections": 128}),
        ("baseline-swd", {"num_optimization_steps": 128}),
        ("baseline-swd", {"num_draws": 40}),
    ],
)
def test_twice_the_work_is_twice_the_time(task, more):
    assert seconds(task, **more) == pytest.approx(2 * seconds(task), rel=0.01)


def test_scales_that_lie_closer_take_longer_together():
    assert seconds("baseline-gpdm", pyramid_factor=0.9) > 1.4 * seconds("baseline-gpdm")


def test_what_needs_no_optimisation_is_the_cheapest():
    assert seconds("baseline-adain") < min(
        seconds(task) for task in PRESETS if not task.startswith(("baseline-adain", "external"))
    )
