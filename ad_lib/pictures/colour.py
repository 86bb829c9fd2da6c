"""How do colours change while shapes stay: luma, CIELAB, and two corrections of a result?

Pictures are (B, 3, H, W) sRGB in [0, 1]; what an item becomes does not depend on its batch-mates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.pictures.references import check_references
from ad_lib.pictures.tensors import bands

_XYZ_OF_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)  # ITU-R BT.709 primaries
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degree observer
_LINEAR_BELOW = 6 / 29  # where CIELAB's cube root gives way to a line

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

_SMALLEST_VARIANCE = 1 / 255**2
"""One 8-bit step squared: no colour direction is stretched as if it varied less."""


def luma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Brightness in [0, 1] by the weights of ITU-R BT.601."""
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA))[:, None]


def rgb_to_lab(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """CIELAB of sRGB pictures: L in 0..100, a and b in about -110..110; white is D65."""
    linear = torch.where(images > 0.04045, ((images + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = _mix(images.new_tensor(_XYZ_OF_RGB), linear) / _per_channel(images, _WHITE)
    line = xyz / (3 * _LINEAR_BELOW**2) + 4 / 29
    x, y, z = torch.where(xyz > _LINEAR_BELOW**3, xyz.clamp_min(0) ** (1 / 3), line).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Pictures in sRGB from CIELAB; colours that sRGB lacks are clamped to [0, 1] by channel."""
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > _LINEAR_BELOW, f**3, 3 * _LINEAR_BELOW**2 * (f - 4 / 29))
    rgb_of_xyz = torch.linalg.inv(torch.tensor(_XYZ_OF_RGB, dtype=torch.float64)).to(lab)
    linear = _mix(rgb_of_xyz, xyz * _per_channel(lab, _WHITE)).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def keep_colours(
    images: Float[Tensor, "b 3 h w"], content: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b 3 h w"]:
    """The lightness of each picture with the hues of its content, pixel by pixel.

    Where sRGB has no such colour at that lightness, the channels are clamped.

    Args:
        images: the results.
        content: what each was made from, at the same size.

    Reference: Gatys et al. 2016 (arXiv:1606.05897), luminance-only transfer; in CIELAB, not YIQ.
    """
    return lab_to_rgb(torch.cat([rgb_to_lab(images)[:, :1], rgb_to_lab(content)[:, 1:]], 1))


@dataclass(frozen=True)
class ColourMap:
    """A linear map of colours, one for each picture, that may be applied to a part of them.

    Attributes:
        mean: the colour that becomes `target_mean`, float64 like the others.
        matrix: what it does to the distance from the mean.
    """

    mean: Float[Tensor, "b 3 1 1"]
    matrix: Float[Tensor, "b 3 3"]
    target_mean: Float[Tensor, "r 3 1 1"]

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The pictures, or a part of them, in their new colours, clamped to [0, 1]."""
        distance = images - self.mean.to(images)
        moved = torch.einsum("bij,bjhw->bihw", self.matrix.to(images), distance)
        return (moved + self.target_mean.to(images)).clamp(0, 1)


def match_channel_statistics(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> Float[Tensor, "b 3 h w"]:
    """Pictures whose colours have the mean and the covariance of their references.

    See `channel_statistics_map`.
    """
    return channel_statistics_map(images, references)(images)


def channel_statistics_map(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> ColourMap:
    """The map that gives pictures the mean and the covariance of their references' colours.

    Of all linear maps that reach that covariance, the one that moves colours least; the result is
    clamped to [0, 1], which may cost a little of the match.

    Args:
        images: the pictures to correct.
        references: how their colours should be spread, one for each or one for all; any size.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Pitié and Kokaram 2007, linear Monge-Kantorovitch colour transfer.
    """
    check_references(images, references)
    mean, covariance = _statistics(images)
    target_mean, target_covariance = _statistics(references)
    root = _square_root(covariance, _SMALLEST_VARIANCE)
    inverse = torch.linalg.inv(root)
    transport = inverse @ _square_root(root @ target_covariance @ root) @ inverse
    return ColourMap(mean, transport, target_mean)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour (B, 3, 1, 1) and covariance (B, 3, 3) of each picture, in float64."""
    rows, num_pixels = list(bands(images.shape[2])), images[0, 0].numel()
    totals = [images[:, :, part].double().sum((2, 3)) for part in rows]
    mean = torch.stack(totals).sum(0)[..., None] / num_pixels
    covariance = images.new_zeros(len(images), 3, 3, dtype=torch.float64)
    for part in rows:
        distance = images[:, :, part].double().flatten(2) - mean
        covariance += distance @ distance.mT
    return mean[..., None], covariance / num_pixels


def _square_root(matrices: Tensor, smallest: float = 0.0) -> Tensor:
    """The symmetric square roots of symmetric matrices, their eigenvalues raised to `smallest`."""
    values, vectors = torch.linalg.eigh(matrices)
    return vectors * values.clamp_min(smallest).sqrt()[..., None, :] @ vectors.mT


def _mix(matrix: Tensor, images: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, images)


def _per_channel(images: Tensor, values: tuple[float, ...]) -> Tensor:
    return images.new_tensor(values).view(1, 3, 1, 1)
