"""What do the algorithms ask of a sampler: its noise levels, its step, and noise on clean latents?

A sampler has no state, so each of these can be asked at any time and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Timestep:
    """One noise level.

    Attributes:
        number: in training timesteps, 0 (no noise) to 1000; known to the host, so that no
            condition waits for the device.
        tensor: the same for the network, on its device.
    """

    number: float
    tensor: Shaped[Tensor, ""]


@runtime_checkable
class Dynamics(Protocol):
    """A deterministic sampler whose number of steps is chosen; it has no state."""

    @property
    def timesteps(self) -> Sequence[Timestep]:
        """The noise levels at which a step begins, from much noise to little."""
        ...

    @property
    def noisiest(self) -> Timestep:
        """The highest noise level that the network has learned."""
        ...

    def after(self, timestep: Timestep) -> Timestep:
        """The noise level at which the step from `timestep` arrives."""
        ...

    def step(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents one step later.

        Args:
            prediction: the network's output for the latents at `timestep`.
            timestep: where the step begins.
            latents: at that noise level.
        """
        ...

    def step_back(
        self,
        prediction: Float[Tensor, "b c h w"],
        timestep: Timestep,
        latents: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b c h w"]:
        """The latents one step earlier, under more noise: what inversion is made of.

        Args:
            prediction: the network's output for these latents.
            timestep: where this step arrives.
            latents: at the noise level of `after(timestep)`.
        """
        ...

    def add_noise(
        self,
        latents: Float[Tensor, "*b c h w"],
        noise: Float[Tensor, "*b c h w"],
        timestep: Timestep,
    ) -> Float[Tensor, "*b c h w"]:
        """Clean latents at the noise level of `timestep`, under the given noise."""
        ...
