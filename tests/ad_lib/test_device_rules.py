"""Right on a GPU, shown without one.

On the meta device tensors have shapes and no values: a mix of devices raises, and so does whatever
would wait for a GPU, such as `.item()`, `bool()`, `.tolist()` or `.cpu()`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ad_lib import random_backbone
from ad_lib.algorithm.noise import NOISE
from ad_lib.inputs import BatchInputs
from ad_lib.presets import PRESETS, find_preset
from ad_lib.synthesis import ALGORITHMS
from tests.ad_lib.requests_of_every_task import request


class CopiesBetweenDevices(TorchDispatchMode):
    """Counts them, by the step of the sampler in which they happen."""

    def __init__(self) -> None:
        super().__init__()
        self.by_step: Counter[int] = Counter()
        self.step = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        if len({one.device for one in tensors}) > 1:
            self.by_step[self.step] += 1
        return result


@contextmanager
def on_meta(family: str) -> Iterator[Any]:
    yield random_backbone(family, tiny=True).to("meta")


TASKS = [(family, task) for task in PRESETS for family in ("sd15", "sdxl")]


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def meta_backbone(request):
    return random_backbone(request.param, tiny=True).to("meta")


@pytest.mark.parametrize("task", PRESETS)
def test_no_step_waits_for_the_device_or_copies_to_it(meta_backbone, task):
    requests = [request(task, seed, num_inference_steps=3) for seed in range(2)]
    if find_preset(task).algorithm == "expand":
        requests = requests[:1]
    noise = [NOISE[one.settings.noise](one.seed) for one in requests]
    inputs = BatchInputs(meta_backbone, requests, noise)
    copies = CopiesBetweenDevices()

    def on_step_end(step: int) -> None:
        copies.step = step + 1

    with copies:
        latents, trace = ALGORITHMS[find_preset(task).algorithm](inputs, on_step_end)
    assert latents.device.type == trace.style.device.type == "meta"
    in_steps = {step: count for step, count in copies.by_step.items() if step > 0}
    assert not in_steps
