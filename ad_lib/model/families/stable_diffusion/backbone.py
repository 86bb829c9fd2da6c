"""Stable Diffusion 1.5 and SDXL: a U-Net that predicts noise, sampled by DDIM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ad_lib.errors import RequestError
from ad_lib.model.backbone import Backbone
from ad_lib.model.ddim import DDIM
from ad_lib.model.denoise import NoisePredictor
from ad_lib.model.families.stable_diffusion import SD15, SDXL
from ad_lib.model.families.stable_diffusion.controlnets import Control
from ad_lib.model.families.stable_diffusion.cross_attention import knowing_prompt
from ad_lib.model.families.stable_diffusion.prompts import ClipEmbeds, encode_prompt
from ad_lib.model.families.stable_diffusion.self_attention import (
    SelfAttentionTap,
    halved_grids,
    self_attention_layers,
)
from ad_lib.model.parts import LoadPart
from ad_lib.model.prompts import PromptEmbeds
from ad_lib.model.taps import Tap
from ad_lib.model.weights import Weights


class StableDiffusion(Backbone):
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

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    wraps_around = True

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
        self.family = SDXL if SDXL.owns(unet.config) else SD15
        networks = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
        optional = {"text_encoder_2": text_encoder_2, "controlnet": controlnet}
        networks |= {part: one for part, one in optional.items() if one is not None}
        tokenizers = {"tokenizer": tokenizer, "tokenizer_2": tokenizer_2}
        super().__init__(
            networks,
            {part: one for part, one in tokenizers.items() if one is not None},
            scheduler,
            weights,
        )
        self.force_zeros_for_empty_prompt = force_zeros_for_empty_prompt
        self.controlnet_weights = controlnet_weights
        self.layers = self_attention_layers(unet)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion, 16 for the embedded model."""
        return self.vae.config["latent_channels"]

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def normalized(self, latents: Tensor) -> Tensor:
        """From the autoencoder's latents to the U-Net's."""
        return (latents - self._shift) * self.vae.config["scaling_factor"]

    def denormalized(self, latents: Tensor) -> Tensor:
        """From the U-Net's latents to the autoencoder's."""
        return latents / self.vae.config["scaling_factor"] + self._shift

    @property
    def _shift(self) -> float:
        return self.vae.config.get("shift_factor") or 0.0

    def encode_prompt(self, prompt: str, prompt_2: str | None = None) -> ClipEmbeds:
        """One prompt as the U-Net takes it; `prompt_2` is for SDXL's second encoder."""
        prompts = [prompt, prompt if prompt_2 is None else prompt_2][: len(self.tokenizers)]
        return encode_prompt(prompts, self.tokenizers, self.text_encoders)

    def encode_negative_prompt(self, prompt: str | None) -> PromptEmbeds:
        """What guidance leads away from; None is the model's own default.

        That is the empty prompt, or for SDXL zeros, if its configuration says so.
        """
        if prompt is None and self.family is SDXL and self.force_zeros_for_empty_prompt:
            return cast(ClipEmbeds, self.null_prompt).zeros()
        return self.encode_prompt(prompt or "")

    def dynamics(self, num_inference_steps: int, image_size: tuple[int, int] | None = None) -> DDIM:
        """DDIM, whose noise levels are the same at every size."""
        return DDIM(self.scheduler, num_inference_steps, self.device)

    def timesteps(self, num_inference_steps: int) -> Tensor:
        """(T,) DDIM's timesteps, descending; the scheduler is set to them."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self.scheduler.timesteps.to(self.device)

    def predict(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Tensor,
        conditioning: Mapping[str, Any],
        control: Control | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The noise in latents, or what the model predicts instead of it."""
        sample = latents.to(self.dtype)
        residuals = control.residuals(sample, timestep, conditioning) if control else {}
        return self.unet(sample, timestep, **conditioning, **residuals, return_dict=False)[0]

    def noise_predictor(
        self,
        image_size: tuple[int, int],
        prompt: PromptEmbeds | None = None,
        negative_prompt: PromptEmbeds | None = None,
        guidance_scale: float = 1.0,
        control: Control | None = None,
    ) -> NoisePredictor:
        """As every backbone's; `control` is a ControlNet and its images."""
        predictor = super().noise_predictor(image_size, prompt, negative_prompt, guidance_scale)

        def predict(latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Any]) -> Tensor:
            return self.predict(latents, timestep, conditioning, control)

        return predictor if control is None else replace(predictor, predict=predict)

    def add_controlnet(self, weights: Weights, load: LoadPart) -> None:
        """Loads a ControlNet for the U-Net, in its precision."""
        from ad_lib.model.families.stable_diffusion.loading import load_controlnet

        self.controlnet = load_controlnet(weights, load, self)
        self.controlnet_weights = weights

    def control(self, images: Float[Tensor, "b 3 height width"], scale: float = 1.0) -> Control:
        """The ControlNet and its images, for `noise_predictor`."""
        if self.controlnet is None:
            raise RequestError(
                "a control image needs a ControlNet, and this backbone has none; load it with "
                "load_backbone(..., controlnet=...)"
            )
        return Control(network=self.controlnet, images=images.to(self.device), scale=scale)

    def tap(self, last: torch.nn.Module) -> SelfAttentionTap:
        """Records all tokens of a self-attention layer."""
        return SelfAttentionTap(last, ends_early=self.chosen_techniques.early_exit)

    def knowing_prompt(self, prompt: PromptEmbeds, tap: Tap) -> Mapping[Any, Any]:
        """Of the cross-attention layers; none if every picture has a prompt of its own."""
        if len(prompt.prompt_embeds) > 1:
            return {}
        return knowing_prompt(self.unet, prompt.prompt_embeds, tap)

    def token_grids(self, latent_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """The (rows, columns) of every level, each half of the one before, down to one token."""
        return halved_grids(latent_size)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder that `load_backbone` and diffusers' pipelines read."""
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
            StableDiffusionXLPipeline,
        )

        parts: dict[str, Any] = {"unet": self.unet, "vae": self.vae, "scheduler": self.scheduler}
        for suffix, tokenizer, text_encoder in zip(
            ("", "_2"), self.tokenizers, self.text_encoders, strict=False
        ):
            parts |= {f"tokenizer{suffix}": tokenizer, f"text_encoder{suffix}": text_encoder}
        if self.family is SD15:
            unused: Any = {"safety_checker": None, "feature_extractor": None}
            pipeline = StableDiffusionPipeline(**parts, **unused, requires_safety_checker=False)
        else:
            force_zeros = self.force_zeros_for_empty_prompt
            pipeline = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=force_zeros)
        pipeline.save_pretrained(folder)
