"""A frozen diffusion model as Attention Distillation sees it: encode, decode, features."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ad_lib.errors import RequestError
from ad_lib.model.ddim import DDIM
from ad_lib.model.decoder_cache import DecoderCache
from ad_lib.model.denoise import Control, NoisePredictor
from ad_lib.model.prompts import PromptEmbeds, encode_prompt
from ad_lib.model.room import CellBytes
from ad_lib.model.taps import FeatureExtractor, self_attention_layers
from ad_lib.model.techniques import Techniques
from ad_lib.model.trial_pass import cell_bytes
from ad_lib.model.weights import Weights

NUM_DEFAULT_LAYERS = 6
"""The published method distils the last six self-attention layers."""


class Backbone:
    """A frozen latent diffusion model of the shape of Stable Diffusion 1.5 or SDXL.

    Args:
        unet: predicts noise; its self-attention layers are what is distilled.
        vae: maps images to latents and back.
        text_encoder, tokenizer: condition the U-Net; features are taken under the empty prompt.
        text_encoder_2, tokenizer_2: SDXL's second pair.
        scheduler: DDIM, made from the model's own configuration.
        force_zeros_for_empty_prompt: of SDXL: a negative prompt that is not given is zeros, not
            the empty prompt.
        controlnet: adds to what the U-Net computes where a request has a control image.
        weights: where the parts came from.
        controlnet_weights: where the ControlNet came from.
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
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        force_zeros_for_empty_prompt: bool = True,
        controlnet: ControlNetModel | None = None,
        controlnet_weights: Weights | None = None,
    ) -> None:
        self.unet = unet.eval().requires_grad_(False)
        self.vae = vae.eval().requires_grad_(False)
        encoders = (text_encoder, text_encoder_2)
        self.text_encoders = [one.eval().requires_grad_(False) for one in encoders if one]
        self.tokenizers = [one for one in (tokenizer, tokenizer_2) if one is not None]
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        self.controlnet = controlnet.eval().requires_grad_(False) if controlnet else None
        self.scheduler = scheduler
        self.weights = weights
        self.controlnet_weights = controlnet_weights
        self.tuned_decoders = DecoderCache()
        self.techniques = Techniques()
        self.layers = self_attention_layers(unet)

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision; latents, losses and the optimiser stay in float32."""
        return self.unet.dtype

    def to(self, device: str | torch.device) -> Self:
        """The same backbone with its networks on another device."""
        for network in (self.unet, self.vae, *self.text_encoders, self.controlnet):
            if network is not None:
                torch.nn.Module.to(network, device)
        vars(self).pop("null_prompt", None)  # it lies on the device where it was encoded
        return self

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion, more for some."""
        return self.vae.config["latent_channels"]

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Scaled latents (the posterior mean) of images in [0, 1], in float32."""
        pixels = (2 * images - 1).to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels, return_dict=False)[0]
        return posterior.mode().float() * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Images in [0, 1] of scaled latents, in float32, decoded one by one."""
        scaled = (latents / self.vae.config["scaling_factor"]).to(self.device, self.vae.dtype)
        images = [self.vae.decode(one, return_dict=False)[0] for one in scaled.split(1)]
        return (torch.cat(images).float() / 2 + 0.5).clamp(0, 1)

    def encode_prompt(self, prompt: str, prompt_2: str | None = None) -> PromptEmbeds:
        """One prompt as the U-Net takes it.

        Args:
            prompt: what is drawn.
            prompt_2: what SDXL's second encoder hears; None is the same.
        """
        prompts = [prompt, prompt if prompt_2 is None else prompt_2][: len(self.tokenizers)]
        return encode_prompt(prompts, self.tokenizers, self.text_encoders)

    def encode_negative_prompt(self, prompt: str | None) -> PromptEmbeds:
        """What guidance leads away from; None is the model's own default.

        That is the empty prompt, or for SDXL zeros, if its configuration says so.
        """
        is_sdxl = len(self.text_encoders) == 2
        if prompt is None and is_sdxl and self.force_zeros_for_empty_prompt:
            return self.null_prompt.zeros()
        return self.encode_prompt(prompt or "")

    @cached_property
    def null_prompt(self) -> PromptEmbeds:
        """The encoded empty prompt, which conditions every feature pass."""
        return self.encode_prompt("")

    def dynamics(self, num_inference_steps: int) -> DDIM:
        """The sampler for one number of steps."""
        return DDIM(self.scheduler, num_inference_steps, self.device)

    @cached_property
    def cell_bytes(self) -> CellBytes:
        """What the network takes for each latent cell, which says how many items fit together."""
        return cell_bytes(self.feature_extractor(), self.unet, self.latent_channels)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all networks' weights."""
        networks = (self.unet, self.vae, *self.text_encoders, self.controlnet)
        weights = [one.parameters() for one in networks if one is not None]
        return sum(weight.nbytes for of_one in weights for weight in of_one)

    def timesteps(self, num_inference_steps: int) -> Tensor:
        """(T,) DDIM's timesteps, descending."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self.scheduler.timesteps.to(self.device)

    def feature_extractor(
        self,
        layers: tuple[int, int] | None = None,
        image_size: tuple[int, int] | None = None,
        prompt: PromptEmbeds | None = None,
    ) -> FeatureExtractor:
        """The U-Net as a callable from latents to the features of a range of layers.

        Args:
            layers: half-open range in execution order; None is the last six.
            image_size: (height, width) in pixels of the picture in the making, which SDXL is told
                for references of other sizes too; None is the size of the latents at hand.
            prompt: conditions the features; None is the empty prompt, as published.

        Raises:
            RequestError: the U-Net has no such layers.
        """
        condition = prompt or self.null_prompt
        arguments: dict[tuple[int, tuple[int, int]], dict[str, Any]] = {}

        def run(latents: Tensor, timestep: Tensor) -> None:
            wanted = (len(latents), image_size or self._pixels(latents))
            if wanted not in arguments:
                arguments[wanted] = condition.conditioning(*wanted)
            self.unet(latents.to(self.dtype), timestep, **arguments[wanted], return_dict=False)

        return FeatureExtractor(run, self._chosen(layers), ends_early=self.techniques.early_exit)

    def noise_predictor(
        self,
        image_size: tuple[int, int],
        prompt: PromptEmbeds | None = None,
        negative_prompt: PromptEmbeds | None = None,
        guidance_scale: float = 1.0,
        control: Control | None = None,
    ) -> NoisePredictor:
        """The U-Net as a callable from latents to the noise in them, in float32.

        Args:
            image_size: (height, width) in pixels of what the network sees.
            prompt: for each latent or for all; None is the empty prompt.
            negative_prompt: what guidance leads away from; None is the model's own default.
            guidance_scale: 1 is no guidance.
            control: a ControlNet and its images.
        """
        return NoisePredictor(
            unet=self.unet,
            prompt=prompt or self.null_prompt,
            image_size=image_size,
            negative_prompt=negative_prompt or self.encode_negative_prompt(None),
            guidance_scale=guidance_scale,
            control=control,
        )

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        return height, width

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder that `load_backbone` and diffusers' pipelines read."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )

        parts = {"unet": self.unet, "vae": self.vae, "scheduler": self.scheduler}
        for suffix, tokenizer, text_encoder in zip(
            ("", "_2"), self.tokenizers, self.text_encoders, strict=False
        ):
            parts |= {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": text_encoder}
        if len(self.text_encoders) == 1:
            unused: Any = {"safety_checker": None, "feature_extractor": None}
            pipeline = StableDiffusionPipeline(**parts, **unused, requires_safety_checker=False)
        else:
            force_zeros = self.force_zeros_for_empty_prompt
            pipeline = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=force_zeros)
        pipeline.save_pretrained(folder)

    def _chosen(self, layers: tuple[int, int] | None) -> list[Attention]:
        total = len(self.layers)
        start, stop = layers or (total - NUM_DEFAULT_LAYERS, total)
        if stop > total:
            raise RequestError(
                f"layers must lie in 0..{total}, this U-Net has {total} self-attention layers; "
                f"got [{start}, {stop}). A range for another model?"
            )
        return self.layers[start:stop]
