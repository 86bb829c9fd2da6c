"""Which figures does a result get beside its styles and its content?

They are taken on reduced copies where that bounds the cost. Invariant: a figure is the same whether
what it is compared with was computed before or just now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from ad_lib.pictures.colour_figures import Colours
from ad_lib.pictures.copies import KnownPlaces
from ad_lib.pictures.hashes import picture_digest
from ad_lib.pictures.images import fit_image, scaled_size
from ad_lib.pictures.kept import Kept
from ad_lib.pictures.patches import KnownGrams, KnownPatches
from ad_lib.pictures.repetition import autocorr_peak, seam_ratio_x, seam_ratio_y
from ad_lib.pictures.spectrum import spectrum_slope
from ad_lib.pictures.structure import Brightness, Edges
from ad_lib.pictures.tensors import image_to_tensor, middle

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

CAPACITY = 768 << 20
"""Bytes; what sixteen styles of 512x512 take."""


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
    judge = Judge()
    return judge.measure(image, styles=styles, content=content, reference_size=reference_size)


class Judge:
    """Measures results; what it computed of a style or a content is kept for the next result.

    A style that results of 512x512 are compared with takes 50 MB. Threads may share a judge.

    Args:
        capacity: bytes that may be kept.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._kept = Kept(capacity)

    def measure(
        self,
        image: Image.Image,
        *,
        styles: Sequence[Image.Image],
        content: Image.Image | None = None,
        reference_size: int | None = None,
    ) -> dict[str, float]:
        """What the function of that name gives; the arguments are the same."""
        _check_pictures(image, styles, content)
        with torch.no_grad():
            figures = _own_figures(image) | self._style_figures(image, styles, reference_size)
            if content is not None:
                figures |= self._content_figures(image, content)
        return {name: figures[name] for name in METRIC_NAMES if name in figures}

    def _style_figures(
        self, image: Image.Image, styles: Sequence[Image.Image], reference_size: int | None
    ) -> dict[str, float]:
        rows = [self._compared(image, style, reference_size) for style in styles]
        return {name: pool([row[name] for row in rows]) for name, pool in _POOLED.items()}

    def _compared(
        self, image: Image.Image, style: Image.Image, reference_size: int | None
    ) -> dict[str, float]:
        size, scale = _one_scale(image.size, style.size, reference_size)
        known = self._kept.get(
            ("style", picture_digest(style), size, scale),
            lambda: _Style.of(_reduced(fit_image(style, *size), scale)),
        )
        return known.figures(_reduced(image, scale))

    def _content_figures(self, image: Image.Image, content: Image.Image) -> dict[str, float]:
        scale = _scale_to(image.size, 512)
        known = self._kept.get(
            ("content", picture_digest(content), image.size),
            lambda: _Content.of(_scaled(fit_image(content, *image.size), scale)),
        )
        return known.figures(_scaled(image, scale))


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
    judge = Judge()
    return {
        row: judge.measure(shown, styles=styles, content=content, reference_size=reference_size)
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
        "autocorr_peak": autocorr_peak(_scaled(image, _scale_to(image.size, 256))).item(),
    }


_POOLED: dict[str, Callable[[Sequence[float]], float]] = {
    "swd_patch": fmean,
    "gram_raw": fmean,
    "color_emd": fmean,
    "chroma_gain": harmonic_mean,
    "patch_copy": max,
}
"""The figures that compare with a style, and how those of several styles become one."""


@dataclass(frozen=True)
class _Style:
    """What every result is compared with that has this style at this size."""

    patches: KnownPatches
    grams: KnownGrams
    colours: Colours
    places: KnownPlaces

    @classmethod
    def of(cls, style: Tensor) -> Self:
        return cls(KnownPatches(style), KnownGrams(style), Colours.of(style), KnownPlaces(style))

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in (self.patches, self.grams, self.colours, self.places))

    def figures(self, result: Tensor) -> dict[str, float]:
        colours = Colours.of(result)
        return {
            "swd_patch": self.patches.distance(result).item(),
            "gram_raw": self.grams.distance(result).item(),
            "color_emd": colours.distance(self.colours).item(),
            "chroma_gain": colours.gain(self.colours).item(),
            "patch_copy": self.places.copied_share(result).item(),
        }


@dataclass(frozen=True)
class _Content:
    """What every result is compared with that has this content at this size."""

    brightness: Brightness
    edges: Edges

    @classmethod
    def of(cls, picture: Tensor) -> Self:
        brightness = Brightness.of(picture)
        return cls(brightness, Edges.of(brightness.mean))

    @property
    def nbytes(self) -> int:
        return self.brightness.nbytes + self.edges.nbytes

    def figures(self, result: Tensor) -> dict[str, float]:
        ours = self.of(result)
        return {
            "ssim_luma": ours.brightness.similarity(self.brightness).item(),
            "edge_f1": ours.edges.agreement(self.edges).item(),
        }


def _one_scale(
    image_size: tuple[int, int], style_size: tuple[int, int], reference_size: int | None
) -> tuple[tuple[int, int], float]:
    """The size at which a style was seen, and by how much it and the result are reduced then.

    They are reduced alike, so that a pixel is as wide in both.
    """
    size = image_size if reference_size is None else scaled_size(*style_size, reference_size)
    return size, max(_scale_to(size, 256), _scale_to(image_size, 1))


def _scale_to(size: tuple[int, int], side: int) -> float:
    """The factor, 1 at most, that leaves side x side pixels, and no side below `MIN_SIDE`."""
    area = side / math.sqrt(size[0] * size[1])
    return min(1.0, max(area, MIN_SIDE / min(size)))


def _reduced(image: Image.Image, scale: float) -> Tensor:
    """The middle of a reduced copy: what is compared with a style, or of one."""
    return middle(_scaled(image, scale), 384, 384).contiguous()


def _scaled(image: Image.Image, scale: float) -> Tensor:
    width, height = (max(MIN_SIDE, round(side * scale)) for side in image.size)
    return image_to_tensor(image.resize((width, height), Image.Resampling.BOX))
