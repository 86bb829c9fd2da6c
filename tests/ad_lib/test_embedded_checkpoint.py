"""The checkpoint that ships: it loads as Stable Diffusion does and gives pictures back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

import ad_lib
from ad_lib.embedded import FOLDER
from ad_lib.embedded.autoencoder import psnr
from ad_lib.embedded.evaluate import (
    TIMESTEPS,
    constant_losses,
    decode,
    encode,
    fresh_drawings,
    noise_losses,
)
from ad_lib.embedded.procedural import bricks, draw, new_brush
from ad_lib.pictures.metrics import ssim_luma, swd_patch
from ad_lib.pictures.tensors import image_to_tensor


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def images():
    pixels = np.stack([draw(2**62 + seed, 256)[0] for seed in range(8)])
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1


def test_it_is_small_and_half_precision():
    files = sorted(FOLDER.rglob("*.safetensors"))
    assert [file.parent.name for file in files] == ["text_encoder", "unet", "vae"]
    assert sum(file.stat().st_size for file in files) < 40e6
    for file in files:
        with safe_open(file, "pt") as weights:
            assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_its_noise_schedule_is_that_of_stable_diffusion(pipeline):
    config = pipeline.scheduler.config
    assert (config.beta_start, config.beta_end) == (0.00085, 0.012)
    assert (config.beta_schedule, config.num_train_timesteps) == ("scaled_linear", 1000)
    assert (config.clip_sample, config.set_alpha_to_one, config.steps_offset) == (False, False, 1)
    assert config.prediction_type == "epsilon"


def test_unseen_drawings_come_back(pipeline, images):
    assert psnr(decode(pipeline.vae, encode(pipeline.vae, images)), images) > 20


def test_small_moves_of_the_latents_make_small_changes(pipeline, images):
    latents = encode(pipeline.vae, images)
    moved = latents + 0.05 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(decode(pipeline.vae, moved), decode(pipeline.vae, latents)) > 30


def test_latents_are_near_unit_variance(pipeline, images):
    std = encode(pipeline.vae, images).std((0, 2, 3))
    assert std.min() > 0.5
    assert std.max() < 2


def test_a_white_picture_stays_white_and_a_black_one_black(pipeline):
    for value in (-1.0, 1.0):
        plain = torch.full((1, 3, 128, 128), value)
        assert (decode(pipeline.vae, encode(pipeline.vae, plain)) - value).abs().mean() < 0.2


def test_the_unet_knows_more_than_the_best_constant_and_listens_to_the_caption(pipeline):
    images, captions = fresh_drawings(16)
    latents = encode(pipeline.vae, images)
    right = noise_losses(pipeline, latents, captions)
    another = noise_losses(pipeline, latents, captions[1:] + captions[:1])
    constant = constant_losses(pipeline, latents)
    assert all(right[timestep] < constant[timestep] for timestep in TIMESTEPS[:-1])
    assert right[TIMESTEPS[-1]] < 1.05 * constant[TIMESTEPS[-1]]  # almost pure noise
    assert all(right[timestep] < 0.8 * constant[timestep] for timestep in (100, 300, 500))
    assert sum(right.values()) < sum(another.values())
    assert right[500] < another[500]


@pytest.mark.slow
def test_style_transfer_goes_to_the_style_and_keeps_the_content():
    content, style = (Image.fromarray(draw(2**62 + seed, 128)[0]) for seed in (3, 4))
    request = ad_lib.Request.preset(
        "style-transfer",
        content=content,
        styles=[style],
        width=128,
        height=128,
        num_inference_steps=50,
    )
    (result,) = ad_lib.render(ad_lib.load_backbone("embedded", device="cpu"), [request])
    before, after = (swd_patch(*map(image_to_tensor, (x, style))) for x in (content, result.image))
    assert after < before / 2
    assert ssim_luma(*map(image_to_tensor, (result.image, content))) > 0.35
    assert result.style_losses[-1] < result.style_losses[0] / 2


@pytest.mark.slow
def test_a_texture_drawn_from_noise_resembles_its_example_as_its_halves_do_each_other():
    pixels, _ = bricks(new_brush(np.random.default_rng(5), 128))
    example = Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))
    request = ad_lib.Request.preset("texture-sample", styles=[example], width=128, height=128)
    (result,) = ad_lib.render(ad_lib.load_backbone("embedded", device="cpu"), [request])
    tensor = image_to_tensor(example)
    halves = swd_patch(*tensor.chunk(2, 3)), swd_patch(*tensor.chunk(2, 2))
    assert swd_patch(image_to_tensor(result.image), tensor) < 2 * max(halves)


def test_a_prompt_makes_a_picture_of_the_size_asked_for(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("red bricks", height=64, width=128, num_inference_steps=2).images[0]
    assert picture.size == (128, 64)
