"""Loading a backbone; its encoder, decoder, prompts and schedule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from ad_lib import BackboneError, load_backbone, random_backbone
from ad_lib.model.families.stable_diffusion.random_weights import ARCHITECTURES
from tests.conftest import GOLDEN, TINY_BACKBONE


@pytest.fixture
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_latents_are_an_eighth_of_the_image_in_float32(tiny_backbone, images):
    assert tiny_backbone.vae_scale_factor == 8
    latents = tiny_backbone.encode(images)
    assert latents.shape == (2, tiny_backbone.latent_channels, 8, 12)
    assert latents.dtype == torch.float32
    assert tiny_backbone.decode(latents).shape == images.shape


def test_encoding_is_the_scaled_posterior_mean_and_draws_nothing(tiny_backbone, images):
    state = torch.get_rng_state()
    latents = tiny_backbone.encode(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(tiny_backbone.encode(images), latents)
    posterior = tiny_backbone.vae.encode(2 * images - 1).latent_dist
    torch.testing.assert_close(latents, posterior.mean * tiny_backbone.vae.config.scaling_factor)


def test_decoding_goes_image_by_image_and_stays_in_range(tiny_backbone, images):
    latents = 5 * tiny_backbone.encode(images)
    decoded = tiny_backbone.decode(latents)
    assert (decoded.min(), decoded.max()) == (0, 1)
    for row in range(2):
        assert torch.equal(tiny_backbone.decode(latents[row : row + 1])[0], decoded[row])


def test_the_feature_passes_are_conditioned_on_the_encoded_empty_prompt(tiny_backbone):
    embeds = tiny_backbone.null_prompt.prompt_embeds
    assert torch.equal(embeds, tiny_backbone.encode_prompt("").prompt_embeds)
    assert embeds.abs().max() > 0
    assert not torch.equal(embeds, tiny_backbone.encode_prompt("a red fox").prompt_embeds)


def test_a_prompt_longer_than_the_tokenizer_takes_is_cut(tiny_backbone):
    long = tiny_backbone.encode_prompt("fox " * 300).prompt_embeds
    assert long.shape == tiny_backbone.null_prompt.prompt_embeds.shape


@pytest.mark.parametrize("num_steps", [1, 7, 200, 999])
def test_timesteps_descend_to_one_with_leading_spacing(tiny_backbone, num_steps):
    spacing = 1000 // num_steps
    expected = [(num_steps - 1 - i) * spacing + 1 for i in range(num_steps)]
    assert tiny_backbone.timesteps(num_steps).tolist() == expected


def test_timesteps_of_one_run_survive_the_next(tiny_backbone):
    seven = tiny_backbone.timesteps(7)
    tiny_backbone.timesteps(3)
    assert len(seven) == 7


def test_the_scheduler_is_ddim_whatever_class_the_folder_names(tmp_path):
    folder = Path(shutil.copytree(TINY_BACKBONE, tmp_path / "model"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "PNDMScheduler"}))
    assert type(load_backbone(str(folder), device="cpu").scheduler).__name__ == "DDIMScheduler"


def test_the_networks_are_frozen_and_evaluating(tiny_backbone):
    for network in (tiny_backbone.unet, tiny_backbone.vae, *tiny_backbone.text_encoders):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_in_bfloat16_the_network_is_short_and_latents_are_float32(images):
    backbone = load_backbone(str(TINY_BACKBONE), device="cpu", dtype=torch.bfloat16)
    assert backbone.dtype == backbone.vae.dtype == backbone.text_encoders[0].dtype == torch.bfloat16
    latents = backbone.encode(images)
    assert latents.dtype == backbone.decode(latents).dtype == torch.float32
    seen = backbone.feature_extractor()(latents, torch.tensor(501))
    assert seen[0].query.dtype == torch.bfloat16


def test_the_embedded_backbone_is_the_default_and_has_the_last_six_layers():
    backbone = load_backbone(device="cpu")
    assert backbone.weights.model_id == "embedded"
    assert len(backbone.layers) >= 6


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """The tiny backbone's folder with its VAE's `force_upcast` set to a value."""

    def folder(force_upcast: bool) -> str:
        path = tmp_path_factory.mktemp("model") / "model"
        config = Path(shutil.copytree(TINY_BACKBONE, path)) / "vae" / "config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | {"force_upcast": force_upcast})
        )
        return str(path)

    return folder


@pytest.mark.parametrize(
    ("force_upcast", "dtype", "expected"),
    [
        (True, torch.float16, torch.float32),
        (False, torch.float16, torch.float16),
        (True, torch.bfloat16, torch.bfloat16),
        (True, torch.float32, torch.float32),
    ],
)
def test_in_float16_a_vae_that_says_force_upcast_stays_in_float32(
    model_folders, force_upcast, dtype, expected
):
    backbone = load_backbone(model_folders(force_upcast), device="cpu", dtype=dtype)
    assert (backbone.dtype, backbone.vae.dtype) == (dtype, expected)


def test_a_float16_backbone_with_force_upcast_encodes_and_decodes_in_full_precision(
    tiny_backbone, images
):
    half = load_backbone(str(TINY_BACKBONE), device="cpu", dtype=torch.float16)
    latents = tiny_backbone.encode(images)
    assert torch.equal(half.encode(images), latents)
    assert torch.equal(half.decode(latents), tiny_backbone.decode(latents))


def test_the_negative_prompt_that_is_not_given_is_what_the_model_says(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "models" / "tiny-sdxl", tmp_path / "model"))
    index = folder / "model_index.json"
    for forced in (True, False):
        config = json.loads(index.read_text()) | {"force_zeros_for_empty_prompt": forced}
        index.write_text(json.dumps(config))
        backbone = load_backbone(str(folder), device="cpu")
        embeds = backbone.encode_negative_prompt(None).prompt_embeds
        assert bool((embeds == 0).all()) == forced


def test_an_inpainting_unet_is_refused(tmp_path):
    backbone = random_backbone("sd15", tiny=True)
    wide = {**ARCHITECTURES["sd15", True].unet, "in_channels": 9}
    backbone.unet = UNet2DConditionModel(**wide)
    backbone.save_pretrained(tmp_path / "model")
    with pytest.raises(BackboneError, match="takes 9 channels and its vae gives 4"):
        load_backbone(str(tmp_path / "model"), device="cpu")
