"""One optimisation step: what precision does to its gradient, and what the scale saves of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ad_lib import render
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.step import Distiller, learning_rates, loss_scale
from ad_lib.model.random_weights import random_backbone
from ad_lib.settings import Settings
from tests.ad_lib.requests_of_every_task import request
from tests.ad_lib.waiting import NothingWaits

SETTINGS = Settings(num_optimization_steps=1)
WIDE = (4096, 320)
"""Tokens and channels of the last layers at 512 pixels: each value's share of a mean is 7.6e-7."""


def half_precision_layer(latents, timestep, *, projections_only=False, dtype=torch.float16):
    """A layer of that size behind another one, with weights as small as those of a real network.

    Every token has a style of its own, so that attention costs nothing.
    """
    generator = torch.Generator().manual_seed(0)
    first = 0.02 * torch.randn(32, 4, generator=generator)
    second = 0.02 * torch.randn(WIDE[1], 32, generator=generator)
    cells = latents.flatten(2).mT.to(dtype)[:, None].transpose(1, 2)  # (b, tokens, 1, 4)
    out = F.silu(cells @ first.to(dtype).T) @ second.to(dtype).T
    return [AttentionFeatures(out, out, out, out)]


def gradient(dtype: torch.dtype, scale: float) -> torch.Tensor:
    """Of the first step: Adam's first mean is a tenth of it."""

    def extract(latents, timestep, *, projections_only=False):
        return half_precision_layer(latents, timestep, dtype=dtype)

    latents, style = torch.randn(2, 1, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    distiller = Distiller(extract, SETTINGS, loss_scale=scale)
    rates = learning_rates(SETTINGS, 1, latents.device)
    state, _ = distiller.visit(
        distiller.init(latents), rates, torch.tensor(1), References(style, [[0]])
    )
    return 10 * state.mean


def test_the_scale_of_float16_saves_the_gradients_that_it_would_flush_to_zero():
    exact, scaled, plain = (
        gradient(*asked)
        for asked in (
            (torch.float32, loss_scale(torch.float32)),
            (torch.float16, loss_scale(torch.float16)),
            (torch.float16, 1.0),
        )
    )
    flushed = {
        name: float((one == 0).float().mean())
        for name, one in (("scaled", scaled), ("plain", plain))
    }
    assert flushed["plain"] > 0.1
    assert flushed["scaled"] < 0.001
    assert F.cosine_similarity(plain.flatten(), exact.flatten(), dim=0) < 0.995
    assert F.cosine_similarity(scaled.flatten(), exact.flatten(), dim=0) > 0.9999
    assert scaled.norm() == pytest.approx(float(exact.norm()), rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precisions_with_the_range_of_float32_need_no_scale(dtype):
    assert loss_scale(dtype) == 1


def test_a_scale_that_is_a_power_of_two_changes_no_bit_where_nothing_is_flushed():
    assert torch.equal(gradient(torch.float32, 2.0**16), gradient(torch.float32, 1.0))


def test_a_rendered_picture_has_its_scale_inside_the_network_and_not_in_its_steps():
    """Both precisions move alike; between, float16's gradients are larger by the scale."""
    seen, losses = {}, {}
    for dtype in (torch.float32, torch.float16):
        backbone = random_backbone("sd15", tiny=True, dtype=dtype)
        passing = []

        def note(module, inputs, outputs, passing=passing):
            passing.append(float(outputs[0].float().norm()))

        handle = backbone.unet.conv_in.register_full_backward_hook(note)
        (result,) = render(
            backbone, [request("texture-optimize", num_inference_steps=3, num_optimization_steps=1)]
        )
        handle.remove()
        seen[dtype], losses[dtype] = passing[0], result.style_losses
    assert seen[torch.float16] / seen[torch.float32] == pytest.approx(2.0**16, rel=0.1)
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.02)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_step_neither_waits_for_the_device_nor_copies_to_it(family):
    backbone = random_backbone(family, tiny=True)
    settings = Settings(num_optimization_steps=2, content_weight=0.25, style_weights=(1.0, 2.0))
    latents, content, *styles = torch.randn(4, 2, backbone.latent_channels, 8, 8)
    labels = [torch.arange(64).view(8, 8) % 2] * 2
    sizes = {"source_size": (8, 8), "target_size": (8, 8)}
    regions = Regions(labels, labels, **sizes, token_grids=backbone.token_grids)
    style = References([one[0] for one in styles], [[0, 1]] * 2, settings.style_weights)
    masked = References([one[0] for one in styles], [[0], [1]])
    rates = learning_rates(settings, 2, latents.device)
    timestep = backbone.dynamics(4).timesteps[0].tensor
    with backbone.feature_extractor(image_size=(64, 64)) as extract:
        for chosen, references in ((None, style), (regions, masked)):
            distiller = Distiller(extract, settings, chosen, loss_scale(backbone.dtype))
            visit = (rates, timestep, references, References(content, [[0], [1]]))
            distiller.visit(distiller.init(latents), *visit)  # what is made once is made now
            with NothingWaits():
                distiller.visit(distiller.init(latents), *visit)
