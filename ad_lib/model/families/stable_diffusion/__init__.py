"""Stable Diffusion 1.5 and SDXL: U-Nets that predict noise; facts without torch."""

from collections.abc import Mapping
from typing import Any

from ad_lib.model.families.family import Family


def _hears_pooled_text(config: Mapping[str, Any]) -> bool:
    return config.get("addition_embed_type") == "text_time"


_NETWORKS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}

SD15 = Family(
    name="sd15",
    title="Stable Diffusion 1.5",
    hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
    networks=_NETWORKS,
    others=("tokenizer", "scheduler"),
    denoiser="unet",
    denoiser_kind="U-Net",
    owns=lambda config: not _hears_pooled_text(config),
    home=__name__,
    pixels_per_cell=8,
    pixels_per_token=(8, 16),
    prompt_task="style-t2i-sd15",
    checkpoint_key="cond_stage_model.transformer.",
)

SDXL = Family(
    name="sdxl",
    title="SDXL",
    hub_id="stabilityai/stable-diffusion-xl-base-1.0",
    networks=_NETWORKS | {"text_encoder_2": "model"},
    others=("tokenizer", "scheduler", "tokenizer_2"),
    denoiser="unet",
    denoiser_kind="U-Net",
    owns=_hears_pooled_text,
    home=__name__,
    pixels_per_cell=8,
    pixels_per_token=(16,),
    prompt_task="style-t2i",
    checkpoint_key="conditioner.embedders.0.transformer.",
)
