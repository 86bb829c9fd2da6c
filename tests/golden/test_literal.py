"""The literal loops are the published ones: they follow the recordings step for step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from ad_lib import Settings
from ad_lib.algorithm.multidiffusion import Views
from ad_lib.baselines.literal import (
    LiteralNetwork,
    Losses,
    expand_literally,
    label_mask,
    no_mask,
    optimize_literally,
    sample_literally,
)
from tests.conftest import GOLDEN
from tests.golden.cases import Case, recorded_noise
from tests.golden.recordings import Golden
from tests.rounding import Disturb

pytestmark = pytest.mark.golden

golden = Golden(GOLDEN)

Run = Callable[[int | None, Disturb], tuple[Tensor, list[Losses]]]
"""The latents and losses of a run, or of its first steps, from disturbed inputs."""


class Recorded(Case):
    """One recorded run, and what the literal loops need of it."""

    @property
    def settings(self) -> Settings:
        return Settings(
            num_inference_steps=self.args["num_inference_steps"],
            num_optimization_steps=self.args["iters"],
            learning_rate=self.args["lr"],
            content_weight=self.args["weight"],
            guidance_scale=float(self.args["guidance_scale"]),
            adain=self.args["adain"],
            view_batch_size=self.args.get("view_batch_size", 8),
        )

    @property
    def network(self) -> LiteralNetwork:
        start, stop = self.case["self_layers"]
        prompt, layers = self.backbone.null_prompt, self.backbone.layers[start:stop]
        if "null_time_ids" in self.recorded:
            prompt = replace(prompt, time_ids=self.recorded["null_time_ids"])
        return LiteralNetwork(self.backbone.unet, layers, prompt, self.image_size)

    def hold(self, run: Run) -> None:
        """Holds the first losses and latents tightly, the last ones as rounding lets them."""
        self.backbone.timesteps(self.args["num_inference_steps"])

        def step(num_steps: int | None, disturb: Disturb) -> tuple[Tensor, Tensor]:
            latents, losses = run(num_steps, disturb)
            weight = self.args["weight"]
            return torch.tensor([one.style + weight * one.content for one in losses]), latents

        first = self.first_figures(partial(step, 1))
        figures = (*first, *self.run_figures(partial(step, None), first))
        assert {"first loss", "losses", "last latents"} <= {one.name for one in figures}
        assert all(one.ok for one in figures), list(map(str, figures))


@pytest.mark.parametrize("name", ["opt_iters3", "opt_masked_noise"])
def test_the_literal_algorithm_1_follows_a_recorded_run(name: str):
    case = Recorded(golden, name)
    recorded, mask = case.recorded, no_mask
    if "source_mask" in recorded:
        mask = label_mask(recorded["source_mask"][0, 0], recorded["target_mask"][0, 0])

    def run(num_steps: int | None, disturb: Disturb) -> tuple[Tensor, list[Losses]]:
        content = recorded.get("content_latents")
        content = None if content is None else disturb(content)
        return optimize_literally(
            case.network,
            recorded["timesteps"][:num_steps],
            disturb(recorded["init_latents"]) if content is None else content,
            disturb(recorded["style_latents"]),
            content,
            case.settings,
            mask=mask,
        )

    case.hold(run)


@pytest.mark.parametrize("name", ["smp_content", "xl_neg_none"])
def test_the_literal_algorithm_2_follows_a_recorded_run(name: str):
    case = Recorded(golden, name)

    def run(num_steps: int | None, disturb: Disturb) -> tuple[Tensor, list[Losses]]:
        return sample_literally(
            case.network,
            case.backbone.scheduler,
            disturb(case.recorded["noise_init"]),
            disturb(case.recorded["style_latents"]),
            recorded_noise(case.recorded),
            case.prompts(),
            case.settings,
            case.recorded.get("content_latents"),
            num_steps=num_steps,
        )

    case.hold(run)


def test_the_literal_multidiffusion_follows_a_recorded_run():
    case = Recorded(golden, "pano_small")
    height, width = case.recorded["noise_init"].shape[-2:]
    views = Views(size=case.case["window"], stride=case.args["stride"])

    def run(num_steps: int | None, disturb: Disturb) -> tuple[Tensor, list[Losses]]:
        return expand_literally(
            case.network,
            case.backbone.scheduler,
            disturb(case.recorded["noise_init"]),
            disturb(case.recorded["style_latents"]),
            recorded_noise(case.recorded),
            case.prompts(),
            case.settings,
            lambda step: views.at(height, width, step),
            views.shape(height, width),
            num_steps=num_steps,
        )

    case.hold(run)
