"""From names to a frozen backbone, or a refusal in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from ad_lib.backbone import Backbone
from ad_lib.controlnets import find_controlnet, load_controlnet
from ad_lib.errors import BackboneError
from ad_lib.parts import named_in_errors, part_loader, vae_dtype
from ad_lib.weights import Weights, find_weights, parts_of

_NETWORKS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def load_backbone(
    name: str = "embedded",
    *,
    revision: str | None = None,
    config: str | None = None,
    controlnet: str | None = None,
    controlnet_revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Backbone:
    """Loads a frozen backbone.

    Args:
        name: `embedded` (ships with the package), `sd15`, `sdxl`, a hub id, a diffusers folder, or
            one `.safetensors` file of the SD1.5 or SDXL family in the original layout.
        revision: commit, tag or branch of a hub id; `Backbone.weights` holds the commit.
        config: for a single file, a hub id or diffusers folder with its configuration and
            tokenizers; None is `sd15` or `sdxl`, whatever the file is.
        controlnet: a diffusers folder or hub id of a ControlNet for this U-Net.
        controlnet_revision: commit, tag or branch of its hub id.
        dtype: of the networks; bfloat16 on CUDA and float32 elsewhere unless given. In float16 a
            VAE whose configuration says `force_upcast` stays in float32.
        device: CUDA where there is one unless given.

    Raises:
        BackboneError: nothing of that name, pickled weights, incomplete ones, or a ControlNet of
            another family.
    """
    weights = find_weights(name, revision, config)
    control = find_controlnet(controlnet, controlnet_revision) if controlnet else None
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    with _without_progress_bars():
        networks = _networks(weights, dtype)
        if control:
            networks["controlnet"] = load_controlnet(control, networks["unet"], dtype)
    backbone = Backbone(
        **{part: network.to(device) for part, network in networks.items()},
        **_tokenizers(weights),
        scheduler=_ddim(weights),
        force_zeros_for_empty_prompt=_forces_zeros(weights),
        weights=weights,
        controlnet_weights=control,
    )
    _check_latents(backbone)
    return backbone


def _networks(weights: Weights, dtype: torch.dtype) -> dict[str, Any]:
    load = part_loader(weights)
    with named_in_errors(weights, "vae"):
        vae_config: Any = AutoencoderKL.load_config(weights.config_folder, subfolder="vae")
    dtypes = {"vae": vae_dtype(vae_config, dtype)}
    return {
        part: load(_NETWORKS[part], part, dtypes.get(part, dtype))
        for part in parts_of(weights.config_folder)
        if part in _NETWORKS
    }


def _tokenizers(weights: Weights) -> dict[str, Any]:
    tokenizers: dict[str, Any] = {}
    for part in parts_of(weights.config_folder):
        if part.startswith("tokenizer"):
            with named_in_errors(weights, part):
                tokenizers[part] = CLIPTokenizer.from_pretrained(weights.config_folder / part)
    return tokenizers


def _ddim(weights: Weights) -> DDIMScheduler:
    """DDIM from the model's own scheduler configuration, whatever class that names."""
    with named_in_errors(weights, "scheduler"):
        config: Any = DDIMScheduler.load_config(weights.config_folder, subfolder="scheduler")
        scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler


def _forces_zeros(weights: Weights) -> bool:
    """Whether no negative prompt means zeros; diffusers' default where the folder does not say."""
    file = weights.config_folder / "model_index.json"
    if not file.is_file():
        return True
    with named_in_errors(weights, "model_index.json"):
        return json.loads(file.read_text("utf-8")).get("force_zeros_for_empty_prompt", True)


def _check_latents(backbone: Backbone) -> None:
    """Inpainting models and others see more than latents, which we have not."""
    seen = backbone.unet.config["in_channels"]
    if seen != backbone.latent_channels:
        raise BackboneError(
            f"the unet of {backbone.weights.model_id!r} takes {seen} channels and its vae gives "
            f"{backbone.latent_channels}: give a text-to-image model"
        )


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
