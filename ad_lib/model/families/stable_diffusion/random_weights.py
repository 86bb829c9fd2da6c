"""How are Stable Diffusion 1.5 and SDXL built with random weights, as published or narrow?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from ad_lib.embedded.networks import build_scheduler
from ad_lib.model.families.stable_diffusion.backbone import StableDiffusion
from ad_lib.model.weights import EMBEDDED_FOLDER, Weights


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Constructor arguments of a model family's parts, as published or narrow."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    text_encoder_2: Mapping[str, Any] | None = None


_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
}
_TINY_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
_TINY_VAE = _VAE | {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}
_SD15_UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
_SDXL_UNET = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "cross_attention_dim": 768 + 1280,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}

ARCHITECTURES: Mapping[tuple[str, bool], Architecture] = {
    ("sd15", False): Architecture(
        unet=_SD15_UNET,
        vae=_VAE | {"sample_size": 512, "scaling_factor": 0.18215},
        text_encoder=_CLIP_L,
    ),
    ("sd15", True): Architecture(
        unet=_SD15_UNET
        | {
            "sample_size": 16,
            "block_out_channels": (16, 16, 32, 32),
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
        },
        vae=_TINY_VAE | {"sample_size": 128, "scaling_factor": 0.18215},
        text_encoder=_TINY_CLIP,
    ),
    ("sdxl", False): Architecture(
        unet=_SDXL_UNET,
        vae=_VAE | {"sample_size": 1024, "scaling_factor": 0.13025},
        text_encoder=_CLIP_L,
        text_encoder_2=_CLIP_BIG_G,
    ),
    ("sdxl", True): Architecture(
        unet=_SDXL_UNET
        | {
            "sample_size": 16,
            "block_out_channels": (16, 16, 32),
            "attention_head_dim": (2, 2, 4),
            "cross_attention_dim": 32 + 32,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
            "norm_num_groups": 8,
        },
        vae=_TINY_VAE | {"sample_size": 128, "scaling_factor": 0.13025},
        text_encoder=_TINY_CLIP,
        text_encoder_2=_TINY_CLIP,
    ),
}
"""By family and narrowness. The narrow ones keep every block and layer, and so every index."""

VOCABULARY = 49408


def build_networks(name: str, *, tiny: bool) -> dict[str, Any]:
    """The networks of an architecture by the names of their parts, on torch's current device."""
    architecture = ARCHITECTURES[name, tiny]
    networks: dict[str, Any] = {
        "unet": UNet2DConditionModel(**architecture.unet),
        "vae": AutoencoderKL(**architecture.vae),
        "text_encoder": CLIPTextModel(_text_config(architecture.text_encoder)),
    }
    if architecture.text_encoder_2 is not None:
        config = _text_config(architecture.text_encoder_2)
        networks["text_encoder_2"] = CLIPTextModelWithProjection(config)
    return networks


def assembled(networks: Mapping[str, Any], weights: Weights) -> StableDiffusion:
    """A backbone of these networks, with the tokenizer of the embedded model."""
    folder = EMBEDDED_FOLDER / "tokenizer"
    second: dict[str, Any] = {}
    if "text_encoder_2" in networks:  # SDXL's second tokenizer pads with its token 0
        second = {"tokenizer_2": CLIPTokenizer.from_pretrained(folder, pad_token="!")}
    return StableDiffusion(
        **networks,
        **second,
        tokenizer=CLIPTokenizer.from_pretrained(folder),
        scheduler=build_scheduler(),
        weights=weights,
    )


def _text_config(sizes: Mapping[str, Any]) -> CLIPTextConfig:
    """CLIP's configuration; 2 is the published `eos_token_id`, which means the highest token."""
    return CLIPTextConfig(vocab_size=VOCABULARY, eos_token_id=2, **sizes)


def random_controlnet(
    backbone: StableDiffusion, *, zero: bool = False, seed: int = 0
) -> ControlNetModel:
    """A ControlNet for a backbone, as one is before its training, or with random weights.

    Its encoder is a copy of the U-Net's. A training starts with zeros in the convolutions that lead
    out of it, so that it changes nothing; random ones change the picture, without a meaning.

    Args:
        backbone: of any architecture; give it the network by `backbone.controlnet = ...`.
        zero: leave those convolutions at zero.
        seed: of the random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = ControlNetModel.from_unet(backbone.unet)
        if not zero:
            _open(network)
    torch.nn.Module.to(network, backbone.device, backbone.dtype)
    return network.eval().requires_grad_(False)


def _open(network: ControlNetModel) -> None:
    """Lets the control image in at the strength of the latents, and the residuals out."""
    embedding = list(network.controlnet_cond_embedding.modules())
    for convolution in network.modules():
        if isinstance(convolution, torch.nn.Conv2d) and not convolution.weight.any():
            convolution.reset_parameters()
        if isinstance(convolution, torch.nn.Conv2d) and convolution in embedding:
            torch.nn.init.kaiming_normal_(convolution.weight)
