"""The literal loops and ours compute the same, for every kind of task."""

from __future__ import annotations

from typing import Any

import pytest

from ad_lib import Backbone
from ad_lib.bench.ways import InBatches, literally
from ad_lib.bench.workload import Workload

MORE: dict[str, dict[str, Any]] = {"texture-expand": {"view_size": 8, "view_stride": 4}}
SIZES = {"texture-masked": 128, "texture-expand": 96}
"""Where regions must not vanish, and where there must be several views."""


@pytest.mark.parametrize(
    "task",
    ["style-transfer", "style-t2i-sd15", "texture-sample", "texture-masked", "texture-expand"],
)
def test_the_literal_loop_and_a_batch_begin_alike(tiny_backbone: Backbone, task: str):
    workload = Workload(
        task=task,
        size=SIZES.get(task, 64),
        batch_size=2,
        contents=1 if task == "texture-expand" else 2,
        settings={"num_inference_steps": 2, **MORE.get(task, {})},
    )
    requests = workload.requests()
    theirs = literally(tiny_backbone, requests, 1)
    for shares in (False, True):
        ours = InBatches(2, shares)(tiny_backbone, requests, 1)
        assert len(ours) == len(theirs) == workload.num_pictures
        for mine, literal in zip(ours, theirs, strict=True):
            assert mine.first_loss == pytest.approx(literal.first_loss, rel=1e-4)
            # One sign that rounding decides moves an element by twice the learning rate.
            assert float((mine.latents - literal.latents).abs().median()) < 1e-5


def test_a_run_that_is_cut_short_is_the_beginning_of_the_whole(tiny_backbone: Backbone):
    settings = {"num_inference_steps": 2}
    requests = Workload(task="texture-sample", size=64, settings=settings).requests()
    cut, whole = (InBatches(1)(tiny_backbone, requests, steps)[0] for steps in (1, None))
    assert cut.first_loss == whole.first_loss
    assert not cut.latents.equal(whole.latents)
