"""A ControlNet in the guided sampler: it fits and steers, or is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ad_lib import (
    BackboneError,
    Request,
    RequestError,
    load_backbone,
    random_controlnet,
    render,
)
from ad_lib.model.weights import find_controlnet
from tests.conftest import GOLDEN, TINY_BACKBONE

FOLDERS = {"sd15": TINY_BACKBONE, "sdxl": GOLDEN / "models" / "tiny-sdxl"}


@pytest.fixture(scope="module", params=FOLDERS)
def backbone(request):
    """A tiny backbone of each family; a test gives it a ControlNet and need not take it back."""
    return load_backbone(str(FOLDERS[request.param]), device="cpu")


@pytest.fixture(scope="module")
def sd15():
    return load_backbone(str(TINY_BACKBONE), device="cpu")


def noise_image(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


def drawn(backbone, control_image: int | None = 1, **changes) -> np.ndarray:
    """The pixels of a small request; guidance and distillation are on."""
    settings = {"num_inference_steps": 3, "num_optimization_steps": 1, "guidance_scale": 3.0}
    request = Request.preset(
        "style-t2i-sd15",
        styles=[noise_image(0)],
        control_image=None if control_image is None else noise_image(control_image),
        prompt="a fox",
        **{"width": 64, "height": 64, "seed": 5} | settings | changes,
    )
    (result,) = render(backbone, [request])
    return np.asarray(result.image, dtype=np.int16)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Grey levels per value."""
    return float(np.abs(one - other).mean())


def test_a_zero_initialised_controlnet_changes_nothing(backbone):
    backbone.controlnet = None
    plain = drawn(backbone, None)
    backbone.controlnet = random_controlnet(backbone, zero=True)
    assert difference(drawn(backbone), plain) == 0


def test_a_random_controlnet_changes_the_picture_and_hears_its_image(backbone):
    backbone.controlnet = None
    plain = drawn(backbone, None)
    backbone.controlnet = random_controlnet(backbone)
    first, second = drawn(backbone, 1), drawn(backbone, 2)
    assert difference(first, plain) > 1
    assert difference(first, second) > 0.1


def test_at_scale_zero_it_changes_nothing(backbone):
    backbone.controlnet = None
    plain = drawn(backbone, None)
    backbone.controlnet = random_controlnet(backbone)
    assert difference(drawn(backbone, controlnet_conditioning_scale=0), plain) == 0


def test_its_scale_weighs_its_residuals(backbone):
    backbone.controlnet = random_controlnet(backbone)
    whole, half = drawn(backbone), drawn(backbone, controlnet_conditioning_scale=0.5)
    assert difference(whole, half) > 0.1


def test_its_residuals_are_those_of_diffusers(backbone):
    """The prediction equals the U-Net called by hand with the ControlNet's outputs."""
    from ad_lib.model.families.stable_diffusion.controlnets import Control

    controlnet = random_controlnet(backbone)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    control = Control(network=controlnet, images=images, scale=0.7)
    predict = backbone.noise_predictor((64, 64), control=control)
    t = torch.tensor(301)
    conditioning = backbone.null_prompt.conditioning(2, (64, 64))
    down, mid = controlnet(
        latents,
        t,
        controlnet_cond=images,
        conditioning_scale=0.7,
        return_dict=False,
        **conditioning,
    )
    expected = backbone.unet(
        latents,
        t,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
        **conditioning,
    ).sample
    torch.testing.assert_close(predict(latents, t), expected)


def test_in_a_batch_every_item_has_its_own_control_image(sd15):
    sd15.controlnet = random_controlnet(sd15)
    requests = [
        Request.preset(
            "style-t2i-sd15",
            styles=[noise_image(0)],
            control_image=noise_image(image),
            prompt="a fox",
            width=64,
            height=64,
            num_inference_steps=2,
            num_optimization_steps=0,
        )
        for image in (1, 2)
    ]
    together = [np.asarray(one.image, dtype=np.int16) for one in render(sd15, requests)]
    alone = [np.asarray(render(sd15, [one])[0].image, dtype=np.int16) for one in requests]
    assert all(np.abs(a - b).max() <= 1 for a, b in zip(together, alone, strict=True))
    assert difference(*alone) > 0.1


def test_a_size_that_8_does_not_divide_is_controlled_too(sd15):
    sd15.controlnet = random_controlnet(sd15)
    assert drawn(sd15, width=70, height=75).shape == (75, 70, 3)


def test_a_control_image_without_a_controlnet_is_refused_with_the_way_out(sd15):
    sd15.controlnet = None
    with pytest.raises(RequestError, match=r"needs a ControlNet.*load_backbone\(.*controlnet="):
        drawn(sd15)


@pytest.mark.parametrize("family", FOLDERS)
def test_saved_and_loaded_by_its_folder_it_draws_the_same(family, tmp_path):
    backbone = load_backbone(str(FOLDERS[family]), device="cpu")
    backbone.controlnet = random_controlnet(backbone)
    backbone.controlnet.save_pretrained(tmp_path / "control")
    loaded = load_backbone(str(FOLDERS[family]), controlnet=str(tmp_path / "control"), device="cpu")
    assert difference(drawn(loaded), drawn(backbone)) == 0
    assert loaded.controlnet is not None
    assert not loaded.controlnet.training
    assert not any(one.requires_grad for one in loaded.controlnet.parameters())
    assert loaded.controlnet_weights == find_controlnet(str(tmp_path / "control"))


def test_its_revision_is_a_digest_that_one_weight_changes(sd15, tmp_path):
    revisions = set()
    for seed in (0, 0, 1):
        folder = tmp_path / f"control{len(revisions)}"
        random_controlnet(sd15, seed=seed).save_pretrained(folder)
        revisions.add(find_controlnet(str(folder)).revision)
    assert len(revisions) == 2
    assert all(one.startswith("sha256:") for one in revisions)


def test_of_the_hub_its_commit_is_recorded(sd15, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model, commit = tmp_path / "models--owner--control", "3" * 40
    random_controlnet(sd15).save_pretrained(model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    loaded = load_backbone(str(TINY_BACKBONE), controlnet="owner/control", device="cpu")
    assert loaded.controlnet_weights is not None
    assert loaded.controlnet_weights.revision == commit
    with pytest.raises(BackboneError, match="ControlNet 'owner/control' could not be fetched"):
        find_controlnet("owner/control", "other")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_has_the_dtype_of_the_backbone(sd15, tmp_path, dtype):
    random_controlnet(sd15).save_pretrained(tmp_path / "control")
    loaded = load_backbone(
        str(TINY_BACKBONE), controlnet=str(tmp_path / "control"), dtype=dtype, device="cpu"
    )
    assert loaded.controlnet is not None
    assert loaded.controlnet.dtype == dtype


@pytest.fixture
def control_folder(sd15, tmp_path) -> Path:
    random_controlnet(sd15).save_pretrained(tmp_path / "control")
    return tmp_path / "control"


def refusal(controlnet: Path | str, backbone: Path = TINY_BACKBONE, **options) -> str:
    with pytest.raises(BackboneError) as refused:
        load_backbone(str(backbone), controlnet=str(controlnet), device="cpu", **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_controlnet_of_another_family_is_refused(control_folder):
    message = refusal(control_folder, FOLDERS["sdxl"])
    assert "does not fit this U-Net" in message
    assert "(24, 32, 48, 48)" in message


@pytest.mark.parametrize(("setting", "value"), [("cross_attention_dim", 48), ("in_channels", 9)])
def test_inputs_that_the_unet_does_not_have_are_refused(sd15, tmp_path, setting, value):
    from diffusers.models.controlnets.controlnet import ControlNetModel

    config = dict(random_controlnet(sd15).config) | {setting: value}
    config.pop("_use_default_values")
    ControlNetModel.from_config(config).save_pretrained(tmp_path / "control")
    assert f"its {setting} is {value}" in refusal(tmp_path / "control")


def test_a_controlnet_without_sdxls_sizes_is_refused_for_sdxl(tmp_path):
    from diffusers.models.controlnets.controlnet import ControlNetModel

    sdxl = load_backbone(str(FOLDERS["sdxl"]), device="cpu")
    config = dict(random_controlnet(sdxl).config) | {"addition_embed_type": None}
    config.pop("_use_default_values")
    ControlNetModel.from_config(config).save_pretrained(tmp_path / "control")
    message = refusal(tmp_path / "control", FOLDERS["sdxl"])
    assert "addition_embed_type is None, the U-Net's text_time" in message


def test_a_small_controlnet_without_cross_attention_needs_no_width_of_prompts(sd15, tmp_path):
    from diffusers.models.controlnets.controlnet import ControlNetModel

    config = dict(random_controlnet(sd15).config) | {
        "down_block_types": ("DownBlock2D",) * 4,
        "mid_block_type": "UNetMidBlock2D",
        "cross_attention_dim": 1280,
    }
    config.pop("_use_default_values")
    ControlNetModel.from_config(config).save_pretrained(tmp_path / "control")
    loaded = load_backbone(str(TINY_BACKBONE), controlnet=str(tmp_path / "control"), device="cpu")
    assert drawn(loaded).shape == (64, 64, 3)


def test_another_kind_of_controlnet_is_refused(control_folder):
    config = control_folder / "config.json"
    kind = {"_class_name": "ControlNetUnionModel"}
    config.write_text(json.dumps(json.loads(config.read_text()) | kind))
    assert "is a ControlNetUnionModel; give a plain ControlNetModel" in refusal(control_folder)


def test_pickled_missing_and_damaged_controlnets_are_refused(control_folder, tmp_path):
    assert "no ControlNet" in refusal("./nothing")
    weights = control_folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"\0" * 100)
    assert "the ControlNet of" in refusal(control_folder)
    weights.rename(weights.with_suffix(".bin"))
    assert "pickled weights are refused" in refusal(control_folder)
    (control_folder / "config.json").unlink()
    assert "lacks config.json" in refusal(control_folder)


def test_a_revision_of_a_folder_is_refused(control_folder):
    assert "means a hub id" in refusal(control_folder, controlnet_revision="main")


def test_a_unet_that_is_no_controlnet_is_refused(tmp_path):
    folder = shutil.copytree(TINY_BACKBONE / "unet", tmp_path / "unet")
    assert "is a UNet2DConditionModel; give a plain ControlNetModel" in refusal(folder)
