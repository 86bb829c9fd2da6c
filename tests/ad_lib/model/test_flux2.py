"""A family that is no U-Net: flow matching, joint attention, rotary positions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

from ad_lib import BackboneError, Request, RequestError, load_backbone, random_backbone, render
from ad_lib.algorithm.features import References
from ad_lib.algorithm.losses import attention_distillation_loss, distilled_attention, placed
from tests.ad_lib.requests_of_every_task import photo

SIZE = (64, 96)


@pytest.fixture(scope="module")
def flux2():
    return random_backbone("flux2", tiny=True)


@pytest.fixture(scope="module")
def folder(flux2, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("flux2")
    flux2.save_pretrained(path)
    return path


@pytest.fixture
def latents(flux2):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, flux2.latent_channels, 4, 6, generator=generator)


@pytest.fixture
def timestep(flux2):
    return flux2.dynamics(4, SIZE).timesteps[1].tensor


def loss(current, style, rope="shared"):
    return attention_distillation_loss(current, style, partial(distilled_attention, rope=rope))


def test_without_distillation_it_is_the_pipeline_of_diffusers(flux2, folder, latents):
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    prompt = flux2.encode_prompt("a red fox")
    asked = {"guidance_scale": 3.0, "max_sequence_length": 64, "num_inference_steps": 3}
    theirs = pipeline(
        prompt="a red fox",
        height=SIZE[0],
        width=SIZE[1],
        latents=latents[:1],
        output_type="pt",
        **asked,
    ).images
    predict = flux2.noise_predictor(SIZE, prompt, guidance_scale=3.0)
    dynamics, ours = flux2.dynamics(3, SIZE), latents[:1]
    with torch.no_grad():
        for t in dynamics.timesteps:
            ours = dynamics.step(predict(ours, t.tensor), t, ours)
    torch.testing.assert_close(flux2.decode(ours), theirs, atol=1e-5, rtol=1e-4)


def test_encoding_and_normalising_are_undone(flux2, latents):
    torch.testing.assert_close(flux2.normalized(flux2.denormalized(latents)), latents)
    images = torch.rand(2, 3, 64, 96)
    assert flux2.encode(images).shape == latents.shape
    assert flux2.decode(latents).shape == images.shape


def test_taps_leave_what_the_network_computes_as_it_is(flux2, latents, timestep):
    predict = flux2.noise_predictor(SIZE)
    with torch.no_grad():
        plain = predict(latents, timestep)
        with flux2.feature_extractor((0, 25)):
            tapped = predict(latents, timestep)
    assert torch.equal(tapped, plain)


def test_features_are_the_tokens_of_the_image_alone(flux2, latents, timestep):
    features = flux2.feature_extractor((0, 25))(latents, timestep)
    assert len(features) == len(flux2.layers) == 25
    for layer in features:
        for tokens in (layer.query, layer.key, layer.value, layer.out):
            assert tokens.shape == (2, 2, 4 * 6, 16)
    longer = flux2.feature_extractor(prompt=flux2.encode_prompt("a fox"))(latents, timestep)
    assert longer[0].query.shape == features[-1].query.shape


@pytest.mark.parametrize("layer", [0, 4, 5, 24])
def test_queries_and_keys_are_seen_before_they_are_turned(flux2, latents, timestep, layer):
    """Moving the whole picture changes what is turned, and nothing that is tapped."""
    seen = flux2.feature_extractor((layer, layer + 1))(latents, timestep)[0]
    assert seen.positions is not None
    turned = seen.positions.rotary(seen.query)
    assert not torch.allclose(turned, seen.query)
    torch.testing.assert_close(turned.norm(dim=-1), seen.query.norm(dim=-1))
    own = torch.nn.functional.scaled_dot_product_attention(
        turned, seen.positions.rotary(seen.key), seen.value
    )
    torch.testing.assert_close(own, seen.out)


def test_a_style_that_is_the_picture_itself_has_no_loss_at_shared_places_only(
    flux2, latents, timestep
):
    extract = flux2.feature_extractor()
    current = extract(latents, timestep)
    style = References(list(latents), [[0], [1]]).features(extract, timestep)
    assert loss(current, style).max() < 1e-6
    others = [loss(current, style, rope) for rope in ("none", "shifted")]
    assert all(float(other.min()) > 1e-5 for other in others)
    assert not torch.allclose(*others)


def test_a_shifted_style_lies_beside_the_picture(flux2, timestep):
    """As if the picture were twice as wide and the style its right half."""
    generator = torch.Generator().manual_seed(1)
    both = torch.randn(1, flux2.latent_channels, 4, 12, generator=generator)
    extract = flux2.feature_extractor((24, 25))
    (wide,) = extract(both, timestep)
    (half,) = extract(both[..., :6], timestep)
    assert wide.positions is not None
    assert half.positions is not None
    moved = half.positions.beside(half.positions).rotary
    right = wide.positions.rotary.cosine.unflatten(0, (4, 12))[:, 6:].flatten(0, 1)
    torch.testing.assert_close(moved.cosine, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rope", ["shared", "none", "shifted"])
def test_the_order_of_styles_does_not_matter(flux2, latents, timestep, rope):
    extract = flux2.feature_extractor()
    current = extract(latents[:1], timestep)
    styles = [torch.randn(flux2.latent_channels, 3, 5), torch.randn(flux2.latent_channels, 4, 6)]
    one, other = (
        References(styles, [order]).features(extract, timestep) for order in ([0, 1], [1, 0])
    )
    torch.testing.assert_close(loss(current, one, rope), loss(current, other, rope))


def test_without_positions_nothing_is_turned(flux2, latents, timestep):
    (layer,) = flux2.feature_extractor((24, 25))(latents, timestep)
    plain = replace(layer, positions=None)
    for rope in ("shared", "none", "shifted"):
        query, key = placed(plain, plain, rope)
        assert query is layer.query
        assert key is layer.key


@pytest.mark.parametrize("rope", ["none", "shifted"])
def test_a_model_without_rotary_positions_refuses_to_move_them(rope, tiny_backbone):
    asked = Request.preset("texture-optimize", styles=[photo(1)], width=64, height=64, rope=rope)
    with pytest.raises(RequestError, match=f"rope '{rope}' is for models with rotary positions"):
        render(tiny_backbone, [asked])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seamless": "x", "width": 72}, "divisible by 16 with FLUX.2.*got 72: make it 64"),
        ({"seamless": "both"}, "cannot go on at the opposite side; use texture-expand"),
        ({"layers": (20, 26)}, r"layers must lie in 0\.\.25, this transformer has 25"),
    ],
)
def test_what_its_network_cannot_do_is_refused_with_a_way_out(flux2, changes, message):
    sizes = {"width": 64, "height": 64}
    asked = Request.preset("texture-optimize", styles=[photo(1)], **(sizes | changes))
    with pytest.raises(RequestError, match=message):
        render(flux2, [asked])


def test_a_model_that_was_distilled_to_do_without_guidance_refuses_it(folder, tmp_path):
    path = Path(shutil.copytree(folder, tmp_path / "model"))
    index = path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"is_distilled": True}))
    backbone = load_backbone(str(path), device="cpu", is_checked=True)
    asked = Request.preset("style-t2i", styles=[photo(1)], prompt="a fox", width=64, height=64)
    with pytest.raises(RequestError, match="guidance_scale 7: set it to 1"):
        render(backbone, [asked])


def change(folder: Path, part: str, **values) -> None:
    file = next((folder / part).glob("*config.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def widen_latents(folder: Path) -> None:
    config = AutoencoderKLFlux2.load_config(folder / "vae")
    AutoencoderKLFlux2.from_config(config, latent_channels=8).save_pretrained(folder / "vae")


def drop_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.3.mlp.up_proj.weight"]
    save_file(tensors, file)


BROKEN = {
    "lacks scheduler": lambda folder: shutil.rmtree(folder / "scheduler"),
    "holds no safetensors for its transformer": lambda folder: (
        folder / "transformer" / "diffusion_pytorch_model.safetensors"
    ).unlink(),
    "transformer of .*class is 'FluxTransformer2DModel', and families are": partial(
        change, part="transformer", _class_name="FluxTransformer2DModel"
    ),
    "more layers than its files hold": partial(
        change, part="transformer", num_single_layers=100_000
    ),
    "asks for 'transformer_blocks.*in the shape": partial(
        change, part="transformer", mlp_ratio=4.0
    ),
    "in_channels of .* is 16, and must be 32": widen_latents,
    "lacks 1 of its weights": drop_tensors,
    "rotary positions are scaled": partial(
        change, part="text_encoder", rope_parameters={"rope_type": "yarn", "factor": 4.0}
    ),
    "num_train_timesteps is '500', but must be 1000": partial(
        change, part="scheduler", num_train_timesteps=500
    ),
    "class is 'DDIMScheduler'": partial(change, part="scheduler", _class_name="DDIMScheduler"),
    "model_max_length is 4": partial(change, part="tokenizer", model_max_length=4),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence(folder, tmp_path, message):
    path = Path(shutil.copytree(folder, tmp_path / "model"))
    BROKEN[message](path)
    with pytest.raises(BackboneError, match=message) as refused:
        load_backbone(str(path), device="cpu")
    assert "\n" not in str(refused.value)


def test_a_controlnet_is_refused(folder, tmp_path):
    from ad_lib import random_controlnet

    random_controlnet(random_backbone("sd15", tiny=True)).save_pretrained(tmp_path / "control")
    with pytest.raises(BackboneError, match=r"FLUX\.2 \[klein\] takes no ControlNet"):
        load_backbone(str(folder), controlnet=str(tmp_path / "control"), device="cpu")
