"""How does a network predict noise under prompts, with classifier-free guidance?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.model.prompts import PromptEmbeds, joined


class Predict(Protocol):
    """A frozen network: its output for latents at a timestep, under prompts."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, conditioning: Mapping[str, Any]
    ) -> Float[Tensor, "b c h w"]: ...


@dataclass(frozen=True, kw_only=True)
class NoisePredictor:
    """Predicts the noise in latents (or their velocity) under prompts, in float32.

    With a guidance scale above 1 negative and positive prompts go through the network as one batch
    and the prediction is e_neg + scale (e_pos - e_neg); at 1 the negative prompts are not used.

    Attributes:
        predict: the frozen network.
        prompt: what is drawn.
        image_size: (height, width) in pixels of the picture that the network is given.
        negative_prompt: what guidance leads away from.
        guidance_scale: of Ho and Salimans 2022 (arXiv:2207.12598), in diffusers' counting.
    """

    predict: Predict
    prompt: PromptEmbeds
    image_size: tuple[int, int]
    negative_prompt: PromptEmbeds | None = None
    guidance_scale: float = 1.0
    _conditionings: dict[int, Mapping[str, Any]] = field(default_factory=dict, init=False)

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor
    ) -> Float[Tensor, "b c h w"]:
        """The prediction for latents at one timestep."""
        if self.guidance_scale == 1:
            return self._predict(latents, timestep)
        negative, positive = self._predict(torch.cat([latents, latents]), timestep).chunk(2)
        return negative + self.guidance_scale * (positive - negative)

    def compiled(self, compile_: Callable[[Predict], Predict]) -> NoisePredictor:
        """The same with a compiled network."""
        return replace(self, predict=compile_(self.predict))

    def _predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        return self.predict(latents, timestep, self._conditioning(len(latents))).float()

    def _conditioning(self, batch: int) -> Mapping[str, Any]:
        if batch not in self._conditionings:
            self._conditionings[batch] = self._prompts(batch).conditioning(batch, self.image_size)
        return self._conditionings[batch]

    def _prompts(self, batch: int) -> PromptEmbeds:
        if self.guidance_scale == 1:
            return self.prompt
        assert self.negative_prompt is not None, "guidance needs something to lead away from"
        half = batch // 2
        return joined([self.negative_prompt.repeated(half), self.prompt.repeated(half)])
