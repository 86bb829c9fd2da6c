"""How are the losses of a run kept on the device until it ends?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossTrace:
    """The losses before every optimisation step, each (steps, b).

    Attributes:
        style: of every step.
        content: of every step.
        num_steps: of each item; what follows is 0. None where all took every step.
    """

    style: Float[Tensor, "steps b"]
    content: Float[Tensor, "steps b"]
    num_steps: Sequence[int] | None = None

    @classmethod
    def of(
        cls, losses: Float[Tensor, "timesteps m 2 b"], num_steps: Sequence[int] | None = None
    ) -> LossTrace:
        """From the style and content losses of all steps at all timesteps."""
        style, content = losses.flatten(0, 1).unbind(1)
        return cls(style, content, num_steps)

    def of_items(self) -> list[tuple[list[float], list[float]]]:
        """The style and the content losses of each item, read from the device."""
        lengths = self.num_steps or [len(self.style)] * self.style.shape[1]
        both = zip(self.style.T.tolist(), self.content.T.tolist(), lengths, strict=True)
        return [(style[:length], content[:length]) for style, content, length in both]
