"""Has a picture as much coarse and fine detail as photographs have?

Invariant: an item's figure does not depend on its batch-mates.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.pictures.colour import luma
from ad_lib.pictures.tensors import middle


def spectrum_slope(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Slope of log power over log frequency: -2 to -3 in photos, lower if over-smooth, 0 for noise.

    Of the luma's middle square, at most 512 pixels wide, under a Hann window, over the four highest
    octaves; power is averaged over rings one cycle wide, and every octave has the same weight.

    Args:
        images: in [0, 1].

    Reference: Field 1987, the spectra of natural images.
    """
    side = min(*images.shape[-2:], 512)
    square = luma(middle(images, side, side))[:, 0].double()
    window = torch.hann_window(side, dtype=square.dtype, device=square.device)
    square = (square - square.mean((1, 2), keepdim=True)) * window * window[:, None]
    spectrum = torch.fft.rfft2(square)
    power = _ring_means(spectrum.real**2 + spectrum.imag**2, side)
    frequency = torch.arange(max(2, side // 32), side // 2 + 1, device=power.device)
    log_power = (power[:, frequency] + 1e-8).log()
    frequency = frequency.to(power)
    return _weighted_slope(frequency.log(), log_power, 1 / frequency).to(images)


def _ring_means(power: Tensor, side: int) -> Tensor:
    """The mean power (B, rings) at each rounded frequency."""
    ring, weight, total_weight = (one.to(power.device) for one in _rings(side))
    total = power.new_zeros(len(power), len(total_weight))
    return total.index_add_(1, ring, power.flatten(1) * weight) / total_weight


@lru_cache(maxsize=8)
def _rings(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each value of a real Fourier transform its ring and its weight; the rings' weights.

    Such a transform leaves out the values that mirror others; those others count twice.
    """
    along = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    half = torch.fft.rfftfreq(side, 1 / side, dtype=torch.float64)
    ring = torch.hypot(along[:, None], half).round().long()
    is_mirrored = (half > 0) & (2 * half < side)
    weight = (1.0 + is_mirrored.double()).expand(ring.shape).flatten()
    return ring.flatten(), weight, ring.flatten().bincount(weight)


def _weighted_slope(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Slopes of the lines through (x, y[b]) of least weighted squared error."""
    weights = weights / weights.sum()
    centred = x - (weights * x).sum()
    return (weights * centred * y).sum(-1) / (weights * centred**2).sum()
