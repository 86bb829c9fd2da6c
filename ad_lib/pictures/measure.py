"""One result judged by every metric, on reduced copies where that bounds the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, harmonic_mean

import torch
from PIL import Image
from torch import Tensor

from ad_lib.pictures.images import fit_image, scaled_size
from ad_lib.pictures.metrics import (
    autocorr_peak,
    chroma_gain,
    color_emd,
    edge_f1,
    gram_raw,
    middle,
    patch_copy,
    seam_ratio_x,
    seam_ratio_y,
    spectrum_slope,
    ssim_luma,
    swd_patch,
)
from ad_lib.pictures.tensors import image_to_tensor

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

MIN_SIDE = 32
"""Pixels; pictures with a shorter side have too few patches to be measured."""


def measure(
    image: Image.Image,
    *,
    styles: Sequence[Image.Image],
    content: Image.Image | None = None,
    reference_size: int | None = None,
) -> dict[str, float]:
    """Every figure of one result by its name, in the order of `METRIC_NAMES`.

    Against each style: swd_patch, gram_raw, color_emd (means over the styles), chroma_gain (over
    their mean chroma), patch_copy (of the style most copied). Against the content: ssim_luma and
    edge_f1, absent without one. Of the result alone: the others.

    Styles are brought to the size at which the result saw them, then both are reduced alike until
    the style has the area of 256x256; of what is wider than 384 pixels then, the middle counts.
    The content is compared at the area of 512x512, repetition sought at 256x256; seams and spectrum
    are those of the result's own pixels.

    Args:
        image: the result; like all pictures RGB, of at least 32 pixels a side.
        styles: its references.
        content: what should have stayed; cropped to the result's size.
        reference_size: the setting of that name which the result was made with.

    Raises:
        ValueError: no style, or a picture too small.
    """
    _check_pictures(image, styles, content)
    with torch.inference_mode():
        figures = _own_figures(image) | _style_figures(image, styles, reference_size)
        if content is not None:
            figures |= _content_figures(image, content)
    return {name: figures[name] for name in METRIC_NAMES if name in figures}


def measure_with_controls(
    image: Image.Image,
    *,
    styles: Sequence[Image.Image],
    content: Image.Image | None = None,
    reference_size: int | None = None,
) -> dict[str, dict[str, float]]:
    """The figures of a result beside those of doing nothing and of copying the style.

    Returns:
        `measure` of the `result`, of the `identity` (the content as it is; absent without one) and
        of the `style copy` (the first style, cropped to the result's size). A figure in which one
        of the last two wins does not tell alone that a result is good.

    Raises:
        ValueError: no style, or a picture too small.
    """
    _check_pictures(image, styles, content)
    judged = {"result": image}
    if content is not None:
        judged["identity"] = fit_image(content, *image.size)
    judged["style copy"] = fit_image(styles[0], *image.size)
    return {
        row: measure(shown, styles=styles, content=content, reference_size=reference_size)
        for row, shown in judged.items()
    }


def _check_pictures(
    image: Image.Image, styles: Sequence[Image.Image], content: Image.Image | None
) -> None:
    if not styles:
        raise ValueError("a result is measured against at least one style; got none")
    for picture in (image, *styles, *([content] if content is not None else [])):
        if min(picture.size) < MIN_SIDE:
            raise ValueError(
                f"pictures need at least {MIN_SIDE} pixels a side to be measured; got "
                f"{picture.width}x{picture.height}: enlarge it, or leave it unmeasured"
            )


def _own_figures(image: Image.Image) -> dict[str, float]:
    pixels = image_to_tensor(image)
    return {
        "spectrum_slope": spectrum_slope(pixels).item(),
        "seam_ratio_x": seam_ratio_x(pixels).item(),
        "seam_ratio_y": seam_ratio_y(pixels).item(),
        "autocorr_peak": autocorr_peak(_scaled(image, _scale_to(image, 256))).item(),
    }


def _content_figures(image: Image.Image, content: Image.Image) -> dict[str, float]:
    scale = _scale_to(image, 512)
    ours, theirs = (_scaled(one, scale) for one in (image, fit_image(content, *image.size)))
    return {"ssim_luma": ssim_luma(ours, theirs).item(), "edge_f1": edge_f1(ours, theirs).item()}


_STYLE_METRICS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[..., float]]] = {
    "swd_patch": (swd_patch, fmean),
    "gram_raw": (gram_raw, fmean),
    "color_emd": (color_emd, fmean),
    "chroma_gain": (chroma_gain, harmonic_mean),
    "patch_copy": (patch_copy, max),
}
"""What each is called, computed by, and of several styles; the harmonic mean pools chroma."""


def _style_figures(
    image: Image.Image, styles: Sequence[Image.Image], reference_size: int | None
) -> dict[str, float]:
    pairs = [_at_one_scale(image, style, reference_size) for style in styles]
    return {
        name: pool([distance(*pair).item() for pair in pairs])
        for name, (distance, pool) in _STYLE_METRICS.items()
    }


def _at_one_scale(
    image: Image.Image, style: Image.Image, reference_size: int | None
) -> tuple[Tensor, Tensor]:
    """Result and style as tensors, reduced alike, so that a pixel is as wide in both."""
    size = image.size if reference_size is None else scaled_size(*style.size, reference_size)
    style = fit_image(style, *size)
    scale = max(_scale_to(style, 256), _scale_to(image, 1))
    ours, theirs = (middle(_scaled(one, scale), 384, 384) for one in (image, style))
    return ours, theirs


def _scale_to(image: Image.Image, side: int) -> float:
    """The factor, 1 at most, that leaves side x side pixels, and no side below `MIN_SIDE`."""
    area = side / math.sqrt(image.width * image.height)
    return min(1.0, max(area, MIN_SIDE / min(image.size)))


def _scaled(image: Image.Image, scale: float) -> Tensor:
    width, height = (max(MIN_SIDE, round(side * scale)) for side in image.size)
    return image_to_tensor(image.resize((width, height), Image.Resampling.BOX))
