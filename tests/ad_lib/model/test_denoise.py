"""The denoiser: guidance by its formula, prompts for each latent, SDXL's two encoders and zeros."""

from __future__ import annotations

import pytest
import torch

from ad_lib.model.prompts import joined
from ad_lib.model.random_weights import random_backbone
from tests.rounding import assert_equal_up_to_rounding, relative

T = torch.tensor(501)
SIZE = (64, 72)


@pytest.fixture(scope="module")
def sdxl():
    return random_backbone("sdxl", tiny=True)


@pytest.fixture(params=["sd15", "sdxl"])
def backbone(request, tiny_backbone, sdxl):
    return tiny_backbone if request.param == "sd15" else sdxl


@pytest.fixture
def latents():
    return torch.randn(2, 4, 8, 9, generator=torch.Generator().manual_seed(0))


def predict(backbone, latents, *arguments):
    with torch.no_grad():
        return backbone.noise_predictor(SIZE, *arguments)(latents, T)


@pytest.mark.parametrize("scale", [1.5, 7.0])
def test_guidance_leads_from_the_negative_to_the_positive_prompt(backbone, latents, scale):
    fox, blur = backbone.encode_prompt("a red fox"), backbone.encode_negative_prompt("blurry")
    positive, negative = (predict(backbone, latents, one) for one in (fox, blur))
    expected = negative + scale * (positive - negative)
    assert_equal_up_to_rounding(
        lambda disturb: {"guided": predict(backbone, disturb(latents), fox, blur, scale)},
        {"guided": expected},
    )
    assert relative(expected, positive) > 1e-3


def test_a_scale_of_one_does_not_see_the_negative_prompt(backbone, latents):
    fox, blur = backbone.encode_prompt("a red fox"), backbone.encode_negative_prompt("blurry")
    assert torch.equal(predict(backbone, latents, fox, blur, 1.0), predict(backbone, latents, fox))


def test_every_latent_hears_its_own_prompts(backbone, latents):
    prompts = [backbone.encode_prompt(one) for one in ("a red fox", "house on the water")]
    negatives = [backbone.encode_negative_prompt(one) for one in ("", "blurry")]
    together = predict(backbone, latents, joined(prompts), joined(negatives), 5.0)
    for row in range(2):
        own = prompts[row], negatives[row], 5.0
        assert_equal_up_to_rounding(
            lambda disturb, row=row, own=own: {
                "alone": predict(backbone, disturb(latents[row, None]), *own)
            },
            {"alone": together[row, None]},
        )


def test_the_noise_is_float32_and_carries_no_graph_of_the_weights(backbone, latents):
    noise_pred = predict(backbone, latents)
    assert noise_pred.dtype == torch.float32
    assert noise_pred.shape == latents.shape


def test_no_negative_prompt_is_zeros_on_sdxl_and_the_empty_one_on_stable_diffusion(
    tiny_backbone, sdxl
):
    assert torch.equal(
        tiny_backbone.encode_negative_prompt(None).prompt_embeds,
        tiny_backbone.null_prompt.prompt_embeds,
    )
    nothing, empty = sdxl.encode_negative_prompt(None), sdxl.encode_negative_prompt("")
    assert not nothing.prompt_embeds.any()
    assert not nothing.pooled_prompt_embeds.any()
    assert torch.equal(empty.prompt_embeds, sdxl.null_prompt.prompt_embeds)


def test_sdxls_second_encoder_may_hear_another_prompt(sdxl):
    same, other = sdxl.encode_prompt("a fox"), sdxl.encode_prompt("a fox", "a house")
    width = sdxl.text_encoders[0].config.hidden_size
    assert torch.equal(same.prompt_embeds[..., :width], other.prompt_embeds[..., :width])
    assert not torch.equal(same.prompt_embeds[..., width:], other.prompt_embeds[..., width:])
    assert not torch.equal(same.pooled_prompt_embeds, other.pooled_prompt_embeds)
