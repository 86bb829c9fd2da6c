"""Does a picture show what another one shows, at the same places?

Invariant: what is known of a picture depends on no other picture. Pictures are (B, 3, H, W) in
[0, 1]; a figure does not depend on batch-mates.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.colour import luma
from ad_lib.pictures.sliding import sliding_maximum, sliding_sum

_GAUSSIAN = [math.exp(-(offset**2) / (2 * 1.5**2)) for offset in range(-5, 6)]
_WINDOW = [weight / sum(_GAUSSIAN) for weight in _GAUSSIAN]
"""Weights of 11 pixels in a row, of deviation 1.5; their sum is 1."""


def ssim_luma(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity of the luma, -1 to 1: 1 for the same picture, about 0 for unrelated.

    Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, borders left out.

    Reference: Wang et al. 2004, SSIM.
    """
    return Brightness.of(images).similarity(Brightness.of(references))


def edge_f1(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 h w"]
) -> Float[Tensor, " b"]:
    """Whether a picture's edges lie where the content's do, 0 to 1: 1 if all do.

    Harmonic mean of the shares of its edges that have one of the content within two pixels, and of
    the content's that have one of its own. An edge is a ridge of the luma's gradient (Gaussian
    derivative, deviation 1.5) above 1.5 times the picture's own root mean square, so that contrast
    does not count. Two pictures without edges have 1; unrelated ones about 0.2, by chance.
    """
    ours, theirs = (Edges.of(Brightness.of(one).mean) for one in (images, references))
    return ours.agreement(theirs)


class Brightness(NamedTuple):
    """The luma of pictures, and how it is spread under a Gaussian window, where that fits.

    Attributes:
        luma: (B, 1, H, W).
        mean: (B, 1, H - 10, W - 10) under the window.
        variance: of the same shape.
    """

    luma: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, images: Float[Tensor, "b 3 h w"]) -> Self:
        """That of sRGB pictures."""
        values = luma(images)
        mean = sliding_sum(values, _WINDOW)
        return cls(values, mean, sliding_sum(values * values, _WINDOW) - mean**2)

    @property
    def nbytes(self) -> int:
        """The memory that it takes."""
        return sum(values.nbytes for values in self)

    def similarity(self, references: Brightness) -> Float[Tensor, " b"]:
        """The figure of `ssim_luma`."""
        product = self.mean * references.mean
        covariance = sliding_sum(self.luma * references.luma, _WINDOW) - product
        c1, c2 = 0.01**2, 0.03**2
        likeness = (2 * product + c1) * (2 * covariance + c2)
        squares, variances = self.mean**2 + references.mean**2, self.variance + references.variance
        return (likeness / ((squares + c1) * (variances + c2))).mean((1, 2, 3))


class Edges(NamedTuple):
    """Where pictures have edges; six pixels of border are lost.

    Attributes:
        thin: (B, 1, H - 12, W - 12) the edges, one pixel wide.
        wide: what lies within two pixels of one.
    """

    thin: Bool[Tensor, "b 1 y x"]
    wide: Bool[Tensor, "b 1 y x"]

    @classmethod
    def of(cls, smooth: Float[Tensor, "b 1 h w"]) -> Self:
        """Those of the luma's mean under the Gaussian window."""
        dy = (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) / 2
        dx = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) / 2
        strength = torch.hypot(dx, dy)
        above = 1.5 * strength.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(0.01)
        padded = F.pad(strength, (1, 1, 1, 1))
        across = (strength >= padded[..., 1:-1, :-2]) & (strength > padded[..., 1:-1, 2:])
        along = (strength >= padded[..., :-2, 1:-1]) & (strength > padded[..., 2:, 1:-1])
        is_ridge = torch.where(dx.abs() >= dy.abs(), across, along)
        thin = is_ridge & (strength > above)
        return cls(thin, sliding_maximum(F.pad(thin, (2, 2, 2, 2)), 5))

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.thin.nbytes + self.wide.nbytes

    def agreement(self, references: Edges) -> Float[Tensor, " b"]:
        """The figure of `edge_f1`."""
        found, kept = self._share_near(references), references._share_near(self)
        score = 2 * found * kept / (found + kept).clamp_min(1e-6)
        neither = self._count() + references._count() == 0
        return torch.where(neither, 1.0, score)

    def _share_near(self, others: Edges) -> Tensor:
        near = (self.thin & others.wide).sum((1, 2, 3))
        return near / self._count().clamp_min(1)

    def _count(self) -> Tensor:
        return self.thin.sum((1, 2, 3))
