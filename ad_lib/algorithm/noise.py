"""Where noise comes from: one small protocol, so that a recorded trajectory can be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Noise(Protocol):
    """Draws standard normal noise for one item, on the CPU, in float32."""

    def __call__(self, tag: str, shape: Sequence[int]) -> Tensor:
        """The next draw of that tag: `init` for the latents, `style` for noise on the styles."""
        ...


def seeded_noise(seed: int) -> Noise:
    """Noise from one CPU generator, so that an item's picture is the same in any batch."""
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw(tag: str, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator)

    return draw


def draw_together(items: Sequence[Noise], tag: str, shape: Sequence[int]) -> Tensor:
    """(b, *shape) the next draw of every item."""
    return torch.stack([noise(tag, shape) for noise in items])
