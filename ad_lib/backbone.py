"""A frozen diffusion model as Attention Distillation sees it: encode, decode, features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from ad_lib.errors import BackboneError, RequestError
from ad_lib.features import (
    AttentionFeatures,
    ExtractFeatures,
    extract_features,
    self_attention_layers,
)
from ad_lib.weights import Weights, find_weights

NUM_DEFAULT_LAYERS = 6
"""The published method distils the last six self-attention layers."""


class Backbone:
    """A frozen latent diffusion model of Stable Diffusion 1.5's shape.

    Args:
        unet: predicts noise; its self-attention layers are what is distilled.
        vae: maps images to latents and back.
        text_encoder: conditions the U-Net; Attention Distillation uses the empty prompt.
        tokenizer: of the text encoder.
        scheduler: DDIM, made from the model's own configuration.
        weights: where the parts came from.
    """

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        weights: Weights,
    ) -> None:
        self.unet = unet.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.weights = weights
        self.layers = self_attention_layers(unet)

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision; latents, losses and the optimiser stay in float32."""
        return self.unet.dtype

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion, more for some."""
        return self.vae.config["latent_channels"]

    @property
    def scale_factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Scaled latents (the posterior mean) of images in [0, 1], in float32."""
        pixels = (2 * images - 1).to(self.device, self.dtype)
        posterior = self.vae.encode(pixels, return_dict=False)[0]
        return posterior.mode().float() * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Images in [0, 1] of scaled latents, in float32, decoded one by one."""
        scaled = (latents / self.vae.config["scaling_factor"]).to(self.device, self.dtype)
        images = [self.vae.decode(one, return_dict=False)[0] for one in scaled.split(1)]
        return (torch.cat(images).float() / 2 + 0.5).clamp(0, 1)

    def encode_prompt(self, prompt: str) -> Float[Tensor, "1 77 d"]:
        """The text encoder's last hidden state of one prompt."""
        ids = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.no_grad():
            return self.text_encoder(ids.to(self.device)).last_hidden_state

    @cached_property
    def null_prompt_embeds(self) -> Float[Tensor, "1 77 d"]:
        """The encoded empty prompt, which conditions every feature pass."""
        return self.encode_prompt("")

    def timesteps(self, num_inference_steps: int) -> Tensor:
        """(T,) DDIM's timesteps, descending."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self.scheduler.timesteps.to(self.device)

    def feature_extractor(self, layers: tuple[int, int] | None = None) -> ExtractFeatures:
        """The U-Net as a callable from latents to the features of a range of layers.

        Args:
            layers: half-open range in execution order; None is the last six.

        Raises:
            RequestError: the U-Net has no such layers.
        """
        chosen = self._chosen(layers)

        def extract(
            latents: Tensor, timestep: Tensor, *, projections_only: bool = False
        ) -> list[AttentionFeatures]:
            return extract_features(
                self.unet,
                chosen,
                latents.to(self.dtype),
                timestep,
                self.null_prompt_embeds.expand(latents.shape[0], -1, -1),
                projections_only=projections_only,
            )

        return extract

    def _chosen(self, layers: tuple[int, int] | None) -> list[Attention]:
        total = len(self.layers)
        start, stop = layers or (total - NUM_DEFAULT_LAYERS, total)
        if stop > total:
            raise RequestError(
                f"layers must lie in 0..{total}, this U-Net has {total} self-attention layers; "
                f"got [{start}, {stop}). A range for another model?"
            )
        return self.layers[start:stop]


def load_backbone(
    name: str = "embedded",
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Backbone:
    """Loads a frozen backbone.

    Args:
        name: `embedded` (ships with the package), `sd15`, a hub id, or a diffusers folder.
        revision: commit or tag of a hub id.
        dtype: of the networks; bfloat16 on CUDA and float32 elsewhere unless given.
        device: CUDA where there is one unless given.

    Raises:
        BackboneError: nothing of that name, pickled weights, or a model of another shape.
    """
    weights = find_weights(name, revision)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    unet = _load_part(weights, UNet2DConditionModel.from_pretrained, "unet", dtype)
    if unet.config["addition_embed_type"] is not None:
        raise BackboneError(
            f"{name!r} is an SDXL-shaped model; backbones of Stable Diffusion 1.5's shape are "
            "supported, such as 'sd15'"
        )
    vae = _load_part(weights, AutoencoderKL.from_pretrained, "vae", dtype)
    with _without_progress_bars():
        text_encoder = _load_part(weights, CLIPTextModel.from_pretrained, "text_encoder", dtype)
    return Backbone(
        unet=unet.to(device),
        vae=vae.to(device),
        text_encoder=text_encoder.to(device),
        tokenizer=_tokenizer(weights),
        scheduler=_ddim(weights),
        weights=weights,
    )


def _ddim(weights: Weights) -> DDIMScheduler:
    """DDIM from the model's own scheduler configuration, whatever class that names."""
    with _named_in_errors(weights, "scheduler"):
        config: Any = DDIMScheduler.load_config(weights.path, subfolder="scheduler")
        scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler


def _tokenizer(weights: Weights) -> CLIPTokenizer:
    with _named_in_errors(weights, "tokenizer"):
        return CLIPTokenizer.from_pretrained(weights.path / "tokenizer")


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load_part(
    weights: Weights, from_pretrained: Callable[..., Any], part: str, dtype: torch.dtype
) -> Any:
    with _named_in_errors(weights, part):
        network, info = from_pretrained(
            weights.path,
            subfolder=part,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    # Loaders fill what is missing with random numbers, or leave it without any.
    if missing := sorted(info["missing_keys"]):
        raise BackboneError(
            f"the {part} of {weights.model_id!r} lacks {len(missing)} of its weights, such as "
            f"{missing[0]!r}: fetch or convert it again"
        )
    return network


@contextmanager
def _named_in_errors(weights: Weights, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make the loaders raise anything, bare Exception too
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        raise BackboneError(
            f"the {part} of {weights.model_id!r} cannot be loaded: {first_line}"
        ) from None
