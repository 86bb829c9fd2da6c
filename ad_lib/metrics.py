"""How good a picture is, in numbers that need no downloaded weights and draw the same every time.

Pictures are (B, 3, H, W) in [0, 1]; every function gives one figure per item of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

METRIC_NAMES = (
    "swd_patch",
    "gram_raw",
    "color_emd",
    "chroma_gain",
    "spectrum_slope",
    "seam_ratio_x",
    "seam_ratio_y",
    "patch_copy",
    "autocorr_peak",
    "ssim_luma",
    "edge_f1",
)
"""What `measure` can tell of a picture; the last two need a content."""

PATCH = 7
"""Pixels; side of the patches that `swd_patch` compares."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def swd_patch(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_projections: int = 128,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Sliced Wasserstein distance between the patches of two pictures: 0 for the same texture.

    All 7x7 patches are projected onto random directions of unit length; along each the 1-D
    Wasserstein-1 distance is taken, exactly where both pictures have as many patches and by
    interpolated quantiles where not. Mean over directions, then over the levels of a pyramid that
    halves the pictures while their shorter side is at least 32 pixels, so that strokes of all
    widths count. Where things are does not matter, only what there is and how much of it.

    Args:
        images: the pictures to judge.
        references: what their patches should be like, one for each or one for all; any size.
        num_projections: directions.
        seed: of the directions.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Rabin et al. 2011 (sliced Wasserstein), Karras et al. 2018 (patches on a pyramid).
    """
    if len(references) not in (1, len(images)):
        raise ValueError(
            f"give one reference or one for each of {len(images)} pictures; got {len(references)}"
        )
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_projections, 3, PATCH, PATCH, generator=generator)
    directions = F.normalize(directions.flatten(1)).view_as(directions).to(images)
    distances = []
    while True:
        distances.append(_sliced_distance(images, references, directions))
        if min(*images.shape[-2:], *references.shape[-2:]) < 64:
            return torch.stack(distances).mean(0)
        images, references = F.avg_pool2d(images, 2), F.avg_pool2d(references, 2)


def _sliced_distance(images: Tensor, references: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions of the 1-D distances between projected patches."""
    ours = F.conv2d(images, directions).flatten(2).sort(2).values
    theirs = F.conv2d(references, directions).flatten(2).sort(2).values
    count = max(ours.shape[2], theirs.shape[2])
    return (_quantiles(ours, count) - _quantiles(theirs, count)).abs().mean((1, 2))


def _quantiles(ordered: Tensor, count: int) -> Tensor:
    """`count` evenly spaced quantiles of values in ascending order along the last axis."""
    if ordered.shape[-1] == count:
        return ordered
    return F.interpolate(ordered, size=count, mode="linear", align_corners=False)


def ssim_luma(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity of the luma, -1 to 1: 1 for the same picture, about 0 for unrelated.

    Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, borders left out.

    Reference: Wang et al. 2004, SSIM.
    """
    x, y = luma(images), luma(references)
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x**2
    var_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def luma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Brightness in [0, 1] by the weights of ITU-R BT.601."""
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA))[:, None]


def _window(values: Tensor) -> Tensor:
    """Means under a Gaussian of deviation 1.5 over 11x11 pixels, where the window fits."""
    offsets = torch.arange(-5, 6, dtype=values.dtype, device=values.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(values, weights.view(1, 1, 1, 11)), weights.view(1, 1, 11, 1))
