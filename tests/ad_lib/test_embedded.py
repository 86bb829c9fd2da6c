"""The model that ships: it loads as Stable Diffusion does, gives pictures back, and is measured."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open

import ad_lib
from ad_lib.embedded import FOLDER
from ad_lib.embedded.evaluate import (
    TIMESTEPS,
    colour_cast,
    constant_losses,
    decode,
    encode,
    grid_level,
    load_squares,
    noise_losses,
    psnr,
)
from ad_lib.embedded.networks import build_scheduler, build_unet
from ad_lib.embedded.picture_files import to_tensor
from ad_lib.model.families.stable_diffusion.self_attention import self_attention_layers
from ad_lib.pictures.patches import swd_patch
from ad_lib.pictures.structure import ssim_luma
from ad_lib.pictures.tensors import image_to_tensor
from training.drawings import fresh_drawings
from training.procedural import bricks, new_brush


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def drawings():
    return fresh_drawings(8)


@pytest.fixture(scope="module")
def images(drawings):
    return to_tensor(np.stack([pixels for pixels, _ in drawings]))


@pytest.fixture(scope="module")
def latents(pipeline, images):
    return encode(pipeline.vae, images)


@pytest.fixture(scope="module")
def decoded(pipeline, latents):
    return decode(pipeline.vae, latents)


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


def test_unseen_drawings_come_back(images, decoded):
    assert psnr(decoded, images) > 20


def test_small_moves_of_the_latents_make_small_changes(pipeline, latents, decoded):
    moved = latents + 0.05 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(decode(pipeline.vae, moved), decoded) > 30


def test_latents_are_near_unit_variance(latents):
    std = latents.std((0, 2, 3))
    assert std.min() > 0.5
    assert std.max() < 2


def test_a_white_picture_stays_white_and_a_black_one_black(pipeline):
    for value in (-1.0, 1.0):
        plain = torch.full((1, 3, 128, 128), value)
        assert (decode(pipeline.vae, encode(pipeline.vae, plain)) - value).abs().mean() < 0.2


def test_the_unet_knows_more_than_the_best_constant_and_listens_to_the_caption(
    pipeline, drawings, latents
):
    captions = [caption for _, caption in drawings]
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
    content, style = (Image.fromarray(pixels) for pixels, _ in fresh_drawings(5, 128)[3:])
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


def test_the_unet_has_the_self_attention_of_stable_diffusion():
    unet = build_unet()
    names = {id(module): name for name, module in unet.named_modules()}
    layers = [names[id(layer)] for layer in self_attention_layers(unet)]
    assert len(layers) == 16
    assert layers[-6:] == [
        f"up_blocks.{block}.attentions.{index}.transformer_blocks.0.attn1"
        for block in (2, 3)
        for index in range(3)
    ]


def test_psnr_of_one_grey_level_is_48_db():
    assert psnr(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 2 / 255)) == pytest.approx(
        48.13, abs=0.01
    )


def test_a_tint_is_a_colour_cast_and_a_pattern_of_the_cells_a_grid():
    images = torch.rand(2, 3, 34, 41, generator=torch.Generator().manual_seed(0)) - 0.5
    tinted = images + torch.tensor([0.0, 0.1, -0.2]).view(1, 3, 1, 1)
    assert colour_cast(tinted, images) == pytest.approx(127.5 * 0.2, rel=1e-4)
    assert grid_level(tinted, images) == pytest.approx(0, abs=1e-3)
    tile = torch.zeros(8, 8)
    tile[0] = 0.4  # a line along the edge of every cell
    lined = images + tile.repeat(6, 6)[:34, :41]
    expected = 127.5 * 0.4 * (1 / 8 * 7 / 8) ** 0.5
    assert grid_level(lined, images) == pytest.approx(expected, rel=1e-4)
    unrelated = torch.rand(2, 3, 34, 41, generator=torch.Generator().manual_seed(1)) - 0.5
    count = 2 * 3 * 4 * 5  # pictures, colours and cells that are averaged
    by_chance = 127.5 * (1 / 6 / count) ** 0.5
    assert grid_level(unrelated, images) == pytest.approx(by_chance, rel=0.2)


def test_the_best_constant_predictor_of_unit_latents_loses_what_is_signal():
    scheduler = build_scheduler()
    latents = torch.randn(4, 16, 64, 64, generator=torch.Generator().manual_seed(0))
    losses = constant_losses(SimpleNamespace(scheduler=scheduler), latents)
    for timestep, loss in losses.items():
        assert loss == pytest.approx(float(scheduler.alphas_cumprod[timestep]), rel=0.05)


def test_a_caption_stands_beside_its_picture(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (8, 6), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "b.txt").write_text("red wall\n", encoding="utf-8")
    names, captions, images = load_squares(tmp_path, side=4)
    assert names == ["a.png", "b.png"]
    assert captions == ["", "red wall"]
    assert images.shape == (2, 3, 4, 4)
