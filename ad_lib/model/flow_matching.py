"""Flow matching: how do latents become noise on straight paths, and noise latents?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.dynamics import Timestep

NUM_TRAIN_TIMESTEPS = 1000
"""A timestep is 1000 times the share of noise in the latents, sigma."""


@dataclass(frozen=True)
class FlowMatching:
    """Latents under noise are (1 - sigma) latents + sigma noise.

    The network predicts the velocity, noise - latents, and a step follows it (Euler).

    Attributes:
        levels: the timesteps that are visited, descending, and 0 behind them.

    Reference: Lipman et al. 2022 (arXiv:2210.02747); Liu et al. 2022 (arXiv:2209.03003).
    """

    levels: Sequence[Timestep]

    @classmethod
    def over(cls, sigmas: Sequence[float], device: torch.device) -> FlowMatching:
        """From shares of noise, descending, the last above 0."""
        numbers = torch.tensor([*sigmas, 0.0], dtype=torch.float32) * NUM_TRAIN_TIMESTEPS
        on_device = numbers.to(device)
        return cls([Timestep(n, t) for n, t in zip(numbers.tolist(), on_device, strict=True)])

    @property
    def timesteps(self) -> Sequence[Timestep]:
        """Those at which a step begins, descending."""
        return self.levels[:-1]

    @property
    def noisiest(self) -> Timestep:
        """Where nothing but noise is left."""
        tensor = torch.full_like(self.levels[0].tensor, NUM_TRAIN_TIMESTEPS)
        return Timestep(float(NUM_TRAIN_TIMESTEPS), tensor)

    def after(self, timestep: Timestep) -> Timestep:
        """The level at which the step from `timestep` arrives: the next one, 0 after the last."""
        return next(level for level in self.levels if level.number < timestep.number)

    def step(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents at the next level, along the predicted velocity."""
        return latents + (_sigma(self.after(timestep)) - _sigma(timestep)) * prediction

    def step_back(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents at `timestep` from those at the next level, against the velocity."""
        return latents + (_sigma(timestep) - _sigma(self.after(timestep))) * prediction

    def add_noise(
        self,
        latents: Float[Tensor, "*b c h w"],
        noise: Float[Tensor, "*b c h w"],
        timestep: Timestep,
    ) -> Float[Tensor, "*b c h w"]:
        """Clean latents under the noise of a level."""
        return (1 - _sigma(timestep)) * latents + _sigma(timestep) * noise


def _sigma(timestep: Timestep) -> float:
    return timestep.number / NUM_TRAIN_TIMESTEPS
