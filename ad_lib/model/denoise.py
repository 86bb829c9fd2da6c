"""The U-Net as a denoiser: prompts, classifier-free guidance and a ControlNet in one callable."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from ad_lib.model.prompts import PromptEmbeds, joined


@dataclass(frozen=True, kw_only=True)
class Control:
    """A ControlNet and what it sees.

    Attributes:
        network: of the U-Net's family.
        images: one for each latent, in [0, 1], of the size of the picture in the making.
        scale: factor on its residuals.
    """

    network: ControlNetModel
    images: Float[Tensor, "b 3 height width"]
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NoisePredictor:
    """Predicts the noise in latents under prompts, in float32.

    With a guidance scale above 1 negative and positive prompts go through the network as one batch
    and the prediction is e_neg + scale (e_pos - e_neg); at 1 the negative prompts are not used.

    Attributes:
        unet: the frozen network.
        prompt: what is drawn.
        image_size: (height, width) in pixels of what the network sees.
        negative_prompt: what guidance leads away from.
        guidance_scale: of Ho and Salimans 2022 (arXiv:2207.12598), in diffusers' counting.
        control: adds to what the U-Net computes.
    """

    unet: UNet2DConditionModel
    prompt: PromptEmbeds
    image_size: tuple[int, int]
    negative_prompt: PromptEmbeds | None = None
    guidance_scale: float = 1.0
    control: Control | None = None
    _conditionings: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor
    ) -> Float[Tensor, "b c h w"]:
        """The noise in latents at one timestep."""
        if self.guidance_scale == 1:
            return self._predict(latents, timestep)
        negative, positive = self._predict(torch.cat([latents, latents]), timestep).chunk(2)
        return negative + self.guidance_scale * (positive - negative)

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        sample = latents.to(self.unet.dtype)
        conditioning = self._conditioning(len(latents))
        residuals = self._residuals(sample, timestep, conditioning)
        noise_pred = self.unet(sample, timestep, **conditioning, **residuals, return_dict=False)
        return noise_pred[0].float()

    def _conditioning(self, batch: int) -> dict[str, Any]:
        if batch not in self._conditionings:
            self._conditionings[batch] = self._prompts(batch).conditioning(batch, self.image_size)
        return self._conditionings[batch]

    def _prompts(self, batch: int) -> PromptEmbeds:
        if self.guidance_scale == 1:
            return self.prompt
        assert self.negative_prompt is not None, "guidance needs something to lead away from"
        half = batch // 2
        return joined([self.negative_prompt.repeated(half), self.prompt.repeated(half)])

    def _residuals(
        self, sample: Tensor, timestep: Tensor, conditioning: dict[str, Any]
    ) -> dict[str, Any]:
        """What the ControlNet adds to the U-Net's skip connections and to its middle."""
        if self.control is None:
            return {}
        network, images = self.control.network, self.control.images
        down, middle = network(
            sample,
            timestep,
            controlnet_cond=torch.cat([images] * (len(sample) // len(images))).to(sample),
            conditioning_scale=self.control.scale,
            **conditioning,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
