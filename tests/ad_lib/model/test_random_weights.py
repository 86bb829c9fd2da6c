"""The published architectures without a download."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from ad_lib import BackboneError, load_backbone, random_backbone
from ad_lib.model.families.stable_diffusion.random_weights import build_networks

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}
"""Parameters of the released checkpoints."""

NUM_LAYERS = {"sd15": 16, "sdxl": 70}
TIMESTEP = torch.tensor(501)


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_full_size_has_as_many_parameters_as_the_released_checkpoint(family):
    with torch.device("meta"):
        networks = build_networks(family, tiny=False)
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}
    assert counts == PUBLISHED[family]


@pytest.fixture(scope="module", params=PUBLISHED)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(family):
    return random_backbone(family, tiny=True)


def test_the_narrow_one_has_every_self_attention_layer_of_the_full_size(backbone, family):
    assert len(backbone.layers) == NUM_LAYERS[family]
    names = {module: name for name, module in backbone.unet.named_modules()}
    with torch.device("meta"):
        full = build_networks(family, tiny=False)["unet"]
    assert {names[layer] for layer in backbone.layers} == {
        name for name, _ in full.named_modules() if name.endswith("attn1")
    }


def test_a_seed_is_a_model_and_the_global_generator_is_left_alone(backbone, family):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again, other = random_backbone(family, tiny=True), random_backbone(family, tiny=True, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    weight = backbone.unet.conv_in.weight
    assert torch.equal(again.unet.conv_in.weight, weight)
    assert not torch.equal(other.unet.conv_in.weight, weight)
    assert other.weights.revision != backbone.weights.revision == again.weights.revision


def test_a_saved_backbone_is_a_diffusers_folder_that_loads_as_it_was(backbone, family, tmp_path):
    backbone.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path), device="cpu")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(
        backbone.feature_extractor()(latents, TIMESTEP),
        loaded.feature_extractor()(latents, TIMESTEP),
        strict=True,
    ):
        assert torch.equal(theirs.out, ours.out)
    pipeline = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}[family]
    assert type(pipeline.from_pretrained(tmp_path).unet) is type(backbone.unet)


def test_a_dtype_is_that_of_every_network():
    backbone = random_backbone("sdxl", tiny=True, dtype=torch.bfloat16)
    networks = [backbone.unet, backbone.vae, *backbone.text_encoders]
    assert {p.dtype for net in networks for p in net.parameters()} == {torch.bfloat16}


def test_an_unknown_architecture_is_refused_with_the_nearest():
    with pytest.raises(BackboneError, match="unknown architecture 'sdlx'; did you mean 'sdxl'"):
        random_backbone("sdlx")


def test_sdxl_hears_the_size_of_the_picture_in_the_making():
    backbone = random_backbone("sdxl", tiny=True)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    own = backbone.feature_extractor()(latents, TIMESTEP)[0].query
    same = backbone.feature_extractor(image_size=(128, 128))(latents, TIMESTEP)[0].query
    larger = backbone.feature_extractor(image_size=(256, 128))(latents, TIMESTEP)[0].query
    assert torch.equal(own, same)
    assert not torch.equal(own, larger)


def test_an_sdxl_folder_without_its_second_text_encoder_is_refused(tmp_path):
    random_backbone("sdxl", tiny=True).save_pretrained(tmp_path)
    (tmp_path / "text_encoder_2").rename(tmp_path / "elsewhere")
    with pytest.raises(BackboneError, match=r"not a folder of SDXL .*: it lacks text_encoder_2$"):
        load_backbone(str(tmp_path))


def test_sdxls_time_ids_are_the_height_then_the_width_without_a_crop():
    null = random_backbone("sdxl", tiny=True).null_prompt
    added = null.conditioning(2, (192, 64))["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[192, 64, 0, 0, 192, 64]] * 2
    assert added["text_embeds"].shape == (2, 32)
