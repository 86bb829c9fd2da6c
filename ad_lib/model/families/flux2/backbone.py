"""FLUX.2 [klein]: a transformer that predicts velocities, with joint attention over the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from ad_lib.algorithm.rotary import Rotary
from ad_lib.errors import RequestError
from ad_lib.model.backbone import Backbone
from ad_lib.model.families.flux2 import FLUX2
from ad_lib.model.families.flux2.joint_attention import JointAttentionTap, joint_attention_layers
from ad_lib.model.families.flux2.prompts import encode_prompt
from ad_lib.model.flow_matching import NUM_TRAIN_TIMESTEPS, FlowMatching
from ad_lib.model.prompts import PromptEmbeds
from ad_lib.model.weights import Weights
from ad_lib.settings import Settings

PATCH = 2
"""Cells of the autoencoder along one axis that are one token, and one cell of the latents."""
TRAINED_SIZE = (1024, 1024)
ROW, COLUMN, TOKEN = 1, 2, 3
"""Axes of a token's place, of four; the first one tells pictures apart, of which there is one."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a prompt and a picture lie, on the network's device.

    Attributes:
        text, image: (tokens, 4).
        picture_width: by as many columns as the picture has.
    """

    text: Tensor
    image: Tensor
    picture_width: Rotary


class Flux2(Backbone):
    """A frozen FLUX.2 [klein].

    Its latents are the autoencoder's in patches of 2x2, normalised by statistics that stand beside
    the autoencoder's weights; so a token is a cell, of 16 pixels.

    Args:
        transformer: predicts velocities; its joint attention is what is distilled.
        vae: maps images to latents and back.
        text_encoder, tokenizer: condition the transformer.
        scheduler: with the model's own numbers.
        weights: where the parts came from.
        is_distilled: whether it was trained to do without guidance, in few steps.
    """

    family = FLUX2
    transformer: Flux2Transformer2DModel
    vae: AutoencoderKLFlux2
    text_encoder: Qwen3ForCausalLM

    def __init__(
        self,
        *,
        transformer: Flux2Transformer2DModel,
        vae: AutoencoderKLFlux2,
        text_encoder: Qwen3ForCausalLM,
        tokenizer: Qwen2Tokenizer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        weights: Weights,
        is_distilled: bool = False,
    ) -> None:
        networks = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder}
        super().__init__(networks, {"tokenizer": tokenizer}, scheduler, weights)
        self.is_distilled = is_distilled
        self.layers = joint_attention_layers(transformer)
        self._places: dict[tuple[int, int, int], Places] = {}

    def to(self, device: str | torch.device) -> Self:
        """The same backbone with its networks on another device."""
        self._places.clear()
        return super().to(device)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent: those of a patch of the autoencoder's."""
        return PATCH**2 * self.vae.config["latent_channels"]

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell along one axis."""
        return PATCH * 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def normalized(self, latents: Tensor) -> Tensor:
        """From the autoencoder's latents to the transformer's."""
        mean, deviation = self._statistics(latents)
        return (F.pixel_unshuffle(latents, PATCH) - mean) / deviation

    def denormalized(self, latents: Tensor) -> Tensor:
        """From the transformer's latents to the autoencoder's."""
        mean, deviation = self._statistics(latents)
        return F.pixel_shuffle(latents * deviation + mean, PATCH)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(c, 1, 1) mean and deviation of every channel of a patch."""
        moments: Any = self.vae.bn
        mean, variance = (one.to(like) for one in (moments.running_mean, moments.running_var))
        deviation = (variance + self.vae.config["batch_norm_eps"]).sqrt()
        return mean[:, None, None], deviation[:, None, None]

    def encode_prompt(self, prompt: str, prompt_2: str | None = None) -> PromptEmbeds:
        """One prompt as the transformer takes it; there is no second text encoder."""
        return PromptEmbeds(encode_prompt(prompt, self.tokenizers[0], self.text_encoder))

    def dynamics(
        self, num_inference_steps: int, image_size: tuple[int, int] | None = None
    ) -> FlowMatching:
        """Straight paths; larger pictures have more of their steps at high noise."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        height, width = (-(-side // self.vae_scale_factor) for side in image_size or TRAINED_SIZE)
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(
            sigmas=np.linspace(1, 1 / num_inference_steps, num_inference_steps).tolist(),
            mu=compute_empirical_mu(height * width, num_inference_steps),
        )
        return FlowMatching.over(scheduler.sigmas[:-1].tolist(), self.device)

    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, conditioning: Mapping[str, Any]
    ) -> Float[Tensor, "b c h w"]:
        """The velocity of latents."""
        height, width = latents.shape[-2:]
        num_text_tokens = conditioning["encoder_hidden_states"].shape[1]
        places = self._placed(height, width, num_text_tokens)
        velocity = self.transformer(
            hidden_states=latents.to(self.dtype).flatten(2).transpose(1, 2),
            timestep=timestep.float().expand(len(latents)) / NUM_TRAIN_TIMESTEPS,
            img_ids=places.image,
            txt_ids=places.text,
            **conditioning,
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).unflatten(2, (height, width))

    def tap(self, last: nn.Module) -> JointAttentionTap:
        """Records the image's tokens of a layer that has the prompt's as well."""
        return JointAttentionTap(
            last,
            picture_width=lambda height, width: self._placed(height, width, 0).picture_width,
            ends_early=self.chosen_techniques.early_exit,
        )

    def token_grids(self, latent_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Every layer has a token for each cell."""
        yield latent_size

    def check(self, settings: Settings, image_size: tuple[int, int]) -> None:
        """Refuses guidance for a model that was trained to do without."""
        super().check(settings, image_size)
        if self.is_distilled and settings.guidance_scale != 1:
            raise RequestError(
                f"this {self.family.title} was distilled to do without guidance; got "
                f"guidance_scale {settings.guidance_scale:g}: set it to 1, or load a base model"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder that `load_backbone` and diffusers' pipeline read."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

        Flux2KleinPipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizers[0],
            transformer=self.transformer,
            is_distilled=self.is_distilled,
        ).save_pretrained(folder)

    def _placed(self, height: int, width: int, num_text_tokens: int) -> Places:
        """Made once for every size, and then kept on the device."""
        asked = (height, width, num_text_tokens)
        if asked not in self._places:
            device = self.device
            text = torch.zeros(num_text_tokens, 4, device=device)
            text[:, TOKEN] = torch.arange(num_text_tokens, device=device)
            image = torch.zeros(height, width, 4, device=device)
            image[..., ROW] = torch.arange(height, device=device)[:, None]
            image[..., COLUMN] = torch.arange(width, device=device)
            across = torch.zeros(1, 4, device=device)
            across[:, COLUMN].fill_(width)
            across = Rotary(*self.transformer.pos_embed(across))
            self._places[asked] = Places(text, image.flatten(0, 1), across)
        return self._places[asked]
