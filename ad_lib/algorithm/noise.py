"""Which noise does an item draw?

By `seeded_noise` a draw follows from the seed, its tag and its number alone. `Noise` is a protocol,
so that a recorded trajectory can be replayed with the noise that was recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Noise(Protocol):
    """Draws standard normal noise for one item, on the CPU, in float32."""

    def __call__(self, tag: str, number: int, shape: Sequence[int]) -> Tensor:
        """One draw.

        Args:
            tag: what it is for: `init` for the latents, `style`, `adain` and `content` for noise on
                the references, `region` for the start of a masked texture, `quilting` for which of
                several good blocks is laid.
            number: of the draw among those of its tag. It follows from the step of the sampler, so
                that a step draws the same whatever other steps do.
            shape: of the noise.
        """
        ...


def seeded_noise(seed: int) -> Noise:
    """Noise that follows from (seed, tag, number) alone, the same on every machine.

    A counter-based generator (Philox) is given their hash as its key, anew for every draw.
    """

    def draw(tag: str, number: int, shape: Sequence[int]) -> Tensor:
        hashed = hashlib.blake2b(f"{seed} {tag} {number}".encode(), digest_size=16).digest()
        key = np.frombuffer(hashed, "<u8").astype(np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        return torch.from_numpy(generator.standard_normal(tuple(shape), np.float32))

    return draw


def stream_noise(seed: int) -> Noise:
    """Noise from one CPU generator that goes on from draw to draw, whatever they are for.

    What an item draws depends on all that it has drawn before: a run that distils less often, or
    without AdaIN, sees other noise.
    """
    generator = torch.Generator("cpu").manual_seed(seed)

    def draw(tag: str, number: int, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator)

    return draw


NOISE: Mapping[str, Callable[[int], Noise]] = MappingProxyType(
    {"by_draw": seeded_noise, "stream": stream_noise}
)
"""What makes an item's noise from its seed, by the setting `noise`."""


def drawn_ahead(
    noise: Noise, draws: Iterable[tuple[str, int, Sequence[int]]], device: torch.device
) -> Noise:
    """The same noise, drawn now in the order that is given, and kept on a device.

    Args:
        noise: of one item.
        draws: tag, number and shape of all that will be asked for.
        device: where it will be used.
    """
    kept = {(tag, number): noise(tag, number, shape).to(device) for tag, number, shape in draws}

    def draw(tag: str, number: int, shape: Sequence[int]) -> Tensor:
        return kept[tag, number]

    return draw


def draw_together(items: Sequence[Noise], tag: str, shape: Sequence[int]) -> Tensor:
    """(b, *shape) the first draw of every item."""
    return torch.stack([noise(tag, 0, shape) for noise in items])
