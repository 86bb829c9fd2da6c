"""How are the losses of a run kept on the device until it ends?"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossTrace:
    """The losses before every optimisation step, each (steps, b)."""

    style: Float[Tensor, "steps b"]
    content: Float[Tensor, "steps b"]

    @classmethod
    def of(cls, losses: Float[Tensor, "timesteps m 2 b"]) -> LossTrace:
        """From the style and content losses of all steps at all timesteps."""
        return cls(*losses.flatten(0, 1).unbind(1))
