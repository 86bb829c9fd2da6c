"""DDIM: how do latents become noise in Stable Diffusion, and noise latents?

The numbers are those of diffusers' own schedulers.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddim_inverse import DDIMInverseScheduler
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.dynamics import Timestep


class DDIM:
    """DDIM without added noise (eta 0), for one number of steps.

    Args:
        scheduler: gives the numbers; it is not changed.
        num_inference_steps: how many steps a sample takes.
        device: where the latents lie.

    Reference: Song et al. 2021 (arXiv:2010.02502), equation 12.
    """

    def __init__(
        self, scheduler: DDIMScheduler, num_inference_steps: int, device: torch.device
    ) -> None:
        self._scheduler: Any = DDIMScheduler.from_config(scheduler.config)
        self._scheduler.set_timesteps(num_inference_steps)
        for numbers in ("alphas_cumprod", "final_alpha_cumprod"):
            setattr(self._scheduler, numbers, getattr(self._scheduler, numbers).to(device))
        num_train_timesteps = self._scheduler.config.num_train_timesteps
        self._stride = num_train_timesteps // num_inference_steps
        self._levels = [
            Timestep(number, tensor)
            for number, tensor in enumerate(torch.arange(num_train_timesteps, device=device))
        ]
        self.timesteps = [self._levels[t] for t in self._scheduler.timesteps.tolist()]
        self.noisiest = self._levels[-1]

    def after(self, timestep: Timestep) -> Timestep:
        """The noise level at which the step from `timestep` arrives; 0 after the last."""
        return self._levels[max(int(timestep.number) - self._stride, 0)]

    @torch.no_grad()
    def step(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents one step later, from the noise (or what the model predicts) in them."""
        number = int(timestep.number)
        return self._scheduler.step(prediction, number, latents, return_dict=False)[0]

    @torch.no_grad()
    def step_back(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents at `timestep`, from those one step later: equation 12 towards noise."""
        number = int(timestep.number)
        return self._inverse.step(prediction, number, latents, return_dict=False)[0]

    @cached_property
    def _inverse(self) -> Any:
        """The scheduler for inversion, at the noise levels of the one for sampling."""
        inverse: Any = DDIMInverseScheduler.from_config(self._scheduler.config)
        inverse.num_inference_steps = self._scheduler.num_inference_steps
        inverse.alphas_cumprod = self._scheduler.alphas_cumprod
        inverse.initial_alpha_cumprod = self._scheduler.final_alpha_cumprod
        return inverse

    def add_noise(
        self,
        latents: Float[Tensor, "*b c h w"],
        noise: Float[Tensor, "*b c h w"],
        timestep: Timestep,
    ) -> Float[Tensor, "*b c h w"]:
        """Clean latents at the noise level of `timestep`, under the given noise."""
        return self._scheduler.add_noise(latents, noise, timestep.tensor[None])
