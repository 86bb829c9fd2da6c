"""What every backbone does, of whichever family it is."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from ad_lib import Backbone, load_backbone, random_backbone, render
from ad_lib.algorithm.dynamics import Dynamics
from ad_lib.algorithm.features import References
from ad_lib.algorithm.losses import attention_distillation_loss
from ad_lib.model.families import FAMILIES
from ad_lib.pipeline import AttentionDistillationPipeline
from ad_lib.presets import PRESETS
from tests.ad_lib.requests_of_every_task import OWN_TASKS, photo, request

SIZE = (64, 96)
RENDERED_ELSEWHERE = {"sd15", "sdxl"}
"""In `test_render_tasks` and `test_independence`."""
TASKS = [name for name in OWN_TASKS if "draft" not in name]


@cache
def tiny(family: str) -> Backbone:
    return random_backbone(family, tiny=True)


@pytest.fixture(params=FAMILIES)
def backbone(request) -> Backbone:
    return tiny(request.param)


@pytest.fixture
def latents(backbone):
    height, width = (side // backbone.vae_scale_factor for side in SIZE)
    shape = (2, backbone.latent_channels, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_pictures_become_latents_of_whole_cells_and_come_back(backbone, latents):
    assert backbone.vae_scale_factor == backbone.family.pixels_per_cell
    encoded = backbone.encode(torch.rand(2, 3, *SIZE))
    assert encoded.shape == latents.shape
    assert encoded.dtype == torch.float32
    decoded = backbone.decode(latents)
    assert decoded.shape == (2, 3, *SIZE)
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_normalised_latents_are_those_of_the_autoencoder(backbone, latents):
    torch.testing.assert_close(backbone.normalized(backbone.denormalized(latents)), latents)


def test_its_sampler_has_falling_levels_and_ends_without_noise(backbone, latents):
    dynamics = backbone.dynamics(5, SIZE)
    assert isinstance(dynamics, Dynamics)
    numbers = [t.number for t in (dynamics.noisiest, *dynamics.timesteps)]
    assert numbers == sorted(numbers, reverse=True)
    for t, later in zip(dynamics.timesteps, dynamics.timesteps[1:], strict=False):
        assert abs(dynamics.after(t).number - later.number) <= 1
    assert dynamics.after(dynamics.timesteps[-1]).number <= 1
    assert [float(t.tensor) for t in dynamics.timesteps] == [t.number for t in dynamics.timesteps]
    noise = torch.randn_like(latents)
    noisy = dynamics.add_noise(latents, noise, dynamics.noisiest)
    assert float((noisy - noise).abs().mean()) < 0.1
    assert backbone.timesteps(5).shape == (5,)


def test_a_step_back_undoes_a_step_with_the_same_prediction(backbone, latents):
    dynamics = backbone.dynamics(5, SIZE)
    prediction = torch.randn_like(latents)
    for t in dynamics.timesteps:
        down = dynamics.step(prediction, t, latents)
        up = dynamics.step_back(prediction, t, down)
        torch.testing.assert_close(up, latents, atol=1e-4, rtol=1e-4)


def test_a_style_that_is_the_picture_itself_has_no_loss(backbone, latents):
    extract = backbone.feature_extractor(image_size=SIZE)
    timestep = backbone.dynamics(5, SIZE).timesteps[2].tensor
    current = extract(latents, timestep)
    style = References(list(latents), [[0], [1]]).features(extract, timestep)
    losses = attention_distillation_loss(current, style)
    assert losses.shape == (2,)
    assert float(losses.max()) < 1e-6
    assert len(current) == 6


def test_every_layer_has_the_tokens_of_one_of_its_grids(backbone, latents):
    grids = list(backbone.token_grids(tuple(latents.shape[-2:])))
    layers = backbone.feature_extractor((0, len(backbone.layers)))(
        latents, backbone.timesteps(3)[0]
    )
    counts = {rows * columns for rows, columns in grids}
    assert {layer.query.shape[2] for layer in layers} <= counts


def test_features_of_an_item_do_not_depend_on_its_batch_mates(backbone, latents):
    extract, timestep = backbone.feature_extractor(image_size=SIZE), backbone.timesteps(3)[1]
    together, alone = extract(latents, timestep), extract(latents[1:], timestep)
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours.out[1:], theirs.out, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_every_cell(backbone, latents):
    leaf = latents.requires_grad_()
    features = backbone.feature_extractor()(leaf, backbone.timesteps(3)[1])
    sum(layer.out.square().sum() for layer in features).backward()
    assert bool((leaf.grad.abs().amax(1) > 0).all())
    assert not any(one.requires_grad for net in backbone.networks for one in net.parameters())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - RENDERED_ELSEWHERE))
def test_every_task_renders_at_its_exact_size(family, task):
    backbone = tiny(family)
    changes = {"width": 200, "height": 136} if task == "texture-expand" else {}
    asked = request(task, **changes)
    (result,) = render(backbone, [asked])
    assert result.image.size == (asked.width, asked.height)
    assert len(result.style_losses) > 0
    assert np.isfinite(result.style_losses).all()
    assert np.asarray(result.image).std() > 0


@pytest.mark.parametrize("task", ["style-transfer", "texture-sample"])
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - RENDERED_ELSEWHERE))
def test_an_item_is_the_same_alone_and_in_a_batch(family, task):
    backbone = tiny(family)
    asked = [request(task, seed) for seed in (1, 2, 3)]
    together = render(backbone, asked, batch_size=3)
    (alone,) = render(backbone, [asked[1]])
    first = together[1].style_losses[0]
    assert alone.style_losses[0] == pytest.approx(first, rel=1e-3)


def test_it_is_saved_and_loaded_whole(backbone, latents, tmp_path):
    backbone.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path), device="cpu")
    assert type(loaded) is type(backbone)
    assert loaded.family is backbone.family
    timestep = backbone.timesteps(3)[1]
    ours, theirs = (
        one.noise_predictor(SIZE, one.encode_prompt("a fox"), guidance_scale=2.0)
        for one in (backbone, loaded)
    )
    with torch.no_grad():
        assert torch.equal(ours(latents, timestep), theirs(latents, timestep))
    assert torch.equal(backbone.decode(latents), loaded.decode(latents))
    assert torch.equal(backbone.timesteps(7), loaded.timesteps(7))


def test_a_prompt_without_a_task_is_the_task_of_its_family(backbone):
    (made,) = AttentionDistillationPipeline(backbone)(
        "a red fox", style_image=photo(1), width=64, height=64, num_inference_steps=1
    ).images
    assert made.size == (64, 64)
    assert backbone.family.prompt_task in PRESETS
    assert PRESETS[backbone.family.prompt_task].takes_prompt


def test_it_moves_between_devices_whole(backbone):
    moved = random_backbone(backbone.family.name, tiny=True)
    assert moved.null_prompt.prompt_embeds.device.type == "cpu"
    moved.to("meta")
    assert {one.device.type for net in moved.networks for one in net.parameters()} == {"meta"}
    features = moved.feature_extractor()(
        torch.empty(1, moved.latent_channels, 4, 4, device="meta"),
        torch.tensor(1, device="meta"),
    )
    assert features[0].query.device.type == "meta"


def test_a_family_states_what_a_request_must_know(backbone):
    family = backbone.family
    assert family is FAMILIES[family.name]
    assert family.owns(backbone.denoiser.config)
    others = [one for one in FAMILIES.values() if one.denoiser == family.denoiser]
    assert [one for one in others if one.owns(backbone.denoiser.config)] == [family]
