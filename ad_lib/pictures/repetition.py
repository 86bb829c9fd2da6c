"""Does a picture repeat itself, and does it go on across its borders?

Invariant: an item's figure does not depend on its batch-mates. Pictures are (B, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.colour import luma
from ad_lib.pictures.sliding import sliding_maximum

_FAINT = 0.1 / 255
"""A difference that 8-bit pictures cannot show."""


def autocorr_peak(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """The strongest repetition in a picture, 0 to 1: 1 if it repeats exactly at some shift.

    Pearson correlation of the luma with itself, shifted by up to half the picture, over the pixels
    where both are; the largest value that is a maximum among its 9x9 neighbours, zero shift apart.
    Some textures repeat by nature: compare with the example's own figure.

    Reference: Padfield 2012, masked normalised cross-correlation by Fourier transforms.
    """
    likeness = _autocorrelation(luma(images)[:, 0].double())
    inner = likeness[:, 4:-4, 4:-4]
    is_peak = inner >= sliding_maximum(likeness, 9)
    is_peak[:, inner.shape[1] // 2, inner.shape[2] // 2] = False
    return torch.where(is_peak, inner, 0).flatten(1).amax(1).clamp(0, 1).to(images)


def seam_ratio_x(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """How much the left and right borders differ, over how much neighbouring columns do.

    1 (or less) is seamless: laid side by side the joint is no stronger than the picture itself.
    Of pictures higher than 1024 pixels every n-th row is read.
    """
    rows = images[..., :: math.ceil(images.shape[-2] / 1024), :]
    interior = (rows[..., 1:] - rows[..., :-1]).abs().mean((1, 2, 3))
    wrap = (rows[..., 0] - rows[..., -1]).abs().mean((1, 2))
    return (wrap + _FAINT) / (interior + _FAINT)


def seam_ratio_y(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """`seam_ratio_x` of the upper and lower borders."""
    return seam_ratio_x(images.mT)


def _autocorrelation(values: Tensor) -> Tensor:
    """Correlation of (B, H, W) with itself at shifts of up to half its size; zero in the middle.

    A picture that is shifted back lies on itself as when it is shifted forth: so what it has there
    is what it has here at the opposite shift.
    """
    values = values - values.mean((1, 2), keepdim=True)
    count = _overlap(torch.ones_like(values[:1]))
    here, squares = _overlap(values) / count, _overlap(values**2) / count
    covariance = _product(values) / count - here * here.flip(1, 2)
    spread = (squares - here**2).clamp_min(0)
    return covariance / (spread * spread.flip(1, 2)).sqrt().clamp_min(_FAINT**2)


def _overlap(values: Tensor) -> Tensor:
    """At each shift (dy, dx) the sum of the values at which the shifted picture lies, too."""
    total = F.pad(values.cumsum(1).cumsum(2), (1, 0, 1, 0))
    for axis, side in ((1, values.shape[1]), (2, values.shape[2])):
        shift = torch.arange(-(side // 2), side // 2 + 1, device=values.device)
        first, behind = (-shift).clamp_min(0), side - shift.clamp_min(0)
        total = total.index_select(axis, behind) - total.index_select(axis, first)
    return total


def _product(values: Tensor) -> Tensor:
    """At each shift the sum of the products of the values that come to lie on each other."""
    height, width = values.shape[1:]
    reach_y, reach_x = height // 2, width // 2
    size = (height + reach_y, width + reach_x)
    spectrum = torch.fft.rfft2(values, size)
    sums = torch.fft.irfft2(spectrum * spectrum.conj(), size).roll((reach_y, reach_x), (1, 2))
    return sums[:, : 2 * reach_y + 1, : 2 * reach_x + 1]
