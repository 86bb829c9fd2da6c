"""A compiled render is the plain one: traced whole, once for each shape, and never in the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch._dynamo.testing import CompileCounterWithBackend

from ad_lib import random_backbone
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.inputs import BatchInputs
from ad_lib.model.compiling import Compiler
from ad_lib.model.families.stable_diffusion.self_attention import self_attention_layers
from ad_lib.model.techniques import Techniques
from ad_lib.presets import find_preset
from ad_lib.requests import Request
from ad_lib.synthesis import ALGORITHMS
from tests.ad_lib.requests_of_every_task import request

EAGER = Techniques(compile="off")
COMPILED = Techniques(compile="reduce")


@pytest.fixture
def backbone():
    """Stable Diffusion's blocks with so few layers that they are traced in seconds."""
    backbone = random_backbone("sd15", tiny=True)
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    backbone.unet = unet.eval().requires_grad_(False)
    backbone.layers = self_attention_layers(unet)
    return backbone


def latents_and_losses(backbone, requests: list[Request], techniques: Techniques):
    backbone.techniques = techniques
    noise = [seeded_noise(one.seed) for one in requests]
    algorithm = ALGORITHMS[find_preset(requests[0].task).algorithm]
    latents, trace = algorithm(
        BatchInputs(backbone, requests, noise), lambda num_done, num_steps: None
    )
    return latents, trace.style, trace.content


def small(task: str, seeds: int = 2, **changes: Any) -> list[Request]:
    return [request(task, seed, layers=(0, 3), **changes) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("requests", "num_graphs"),
    [
        (small("style-transfer"), 1),
        (small("texture-sample", adain=True, num_optimization_steps=2), 3),
        (small("texture-masked"), 1),
    ],
    ids=["optimised with content", "sampled with AdaIN", "masked"],
)
def test_a_compiled_render_is_the_plain_one_to_the_bit(backbone, requests, num_graphs):
    counter = CompileCounterWithBackend("aot_eager")
    backbone.compiler = Compiler(counter)
    plain = latents_and_losses(backbone, requests, EAGER)
    compiled = latents_and_losses(backbone, requests, COMPILED)
    again = latents_and_losses(backbone, requests, COMPILED)
    for name, ours, theirs, repeated in zip(
        ("z", "style", "content"), compiled, plain, again, strict=True
    ):
        assert torch.equal(ours, theirs), name
        assert torch.equal(ours, repeated), name
    assert counter.frame_count == num_graphs
    assert not backbone.compiler.has_failed
