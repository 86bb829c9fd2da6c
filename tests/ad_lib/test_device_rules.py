"""Right on a GPU, shown without one.

On the meta device tensors have shapes and no values: a mix of devices raises, and so does whatever
would wait for a GPU, such as `.item()`, `bool()`, `.tolist()` or `.cpu()`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ad_lib import random_backbone
from ad_lib.algorithm.noise import NOISE
from ad_lib.baselines import BASELINES
from ad_lib.inputs import BatchInputs
from ad_lib.presets import find_preset
from ad_lib.synthesis import ALGORITHMS
from tests.ad_lib.requests_of_every_task import OWN_TASKS, request


class CopiesBetweenDevices(TorchDispatchMode):
    """Lists them, by the step of the sampler in which they happen."""

    def __init__(self) -> None:
        super().__init__()
        self.by_step: dict[int, list[str]] = {}
        self.step = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        if len({one.device for one in tensors}) > 1:
            self.by_step.setdefault(self.step, []).append(func.overloadpacket.__name__)
        return result


@pytest.fixture(scope="module")
def on_meta() -> Any:
    """A tiny backbone of a family, whose tensors have no values."""
    return lru_cache(lambda family: random_backbone(family, tiny=True).to("meta"))


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *(("sd15", task) for task in OWN_TASKS),
        pytest.param("sdxl", "style-t2i", marks=pytest.mark.slow),
        ("flux2", "texture-sample"),
    ],
)
def test_no_step_waits_for_the_device_or_copies_to_it(on_meta, family, task):
    backbone = on_meta(family)
    algorithm = find_preset(task).algorithm
    seeds = range(1 if algorithm == "expand" else 2)
    # A plateau is asked for on purpose, after every so many steps.
    settings = {"early_stopping_patience": None, "num_optimization_steps": 1}
    requests = [request(task, seed, **settings) for seed in seeds]
    noise = [NOISE[one.settings.noise](one.seed) for one in requests]
    inputs = BatchInputs(backbone, requests, noise)
    copies = CopiesBetweenDevices()

    def on_step_end(num_done: int, num_steps: int) -> None:
        copies.step += num_done

    with copies:
        latents, trace = ALGORITHMS[algorithm](inputs, on_step_end)
    assert latents.device.type == trace.style.device.type == "meta"
    assert copies.step > 1
    assert not {step: names for step, names in copies.by_step.items() if step > 0}


def test_no_step_of_a_baseline_that_runs_the_network_waits_or_copies(on_meta):
    requests = [request("baseline-styleid", seed) for seed in range(2)]
    inputs = BatchInputs(on_meta("sd15"), requests, [NOISE["by_draw"](seed) for seed in range(2)])
    copies = CopiesBetweenDevices()

    def on_step_end(num_done: int, num_steps: int) -> None:
        copies.step += num_done

    with copies:
        pictures = BASELINES["styleid"](inputs, on_step_end)
    assert pictures.device.type == "meta"
    assert copies.step > 1
    assert not {step: names for step, names in copies.by_step.items() if step > 0}


def test_a_copy_between_devices_is_counted():
    with CopiesBetweenDevices() as copies:
        torch.zeros(2).to("meta")
        torch.zeros(2, device="meta").add(1)
    assert copies.by_step == {0: ["_to_copy"]}
