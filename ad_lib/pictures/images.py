"""How does a picture get a given size?

A picture keeps its proportions: it is scaled, then cropped at the centre. Importing this module
does not load torch, because planning needs sizes and no tensors.
"""

from __future__ import annotations

from PIL import Image, ImageOps

MAX_LABELS = 256
"""The most colours of a mask; with more it is a photograph, or its edges are soft."""


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at exactly that size: scaled to cover it (bicubic), cropped at the centre."""
    if image.size == (width, height):
        return image
    return ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)


def fit_mask(mask: Image.Image, width: int, height: int) -> Image.Image:
    """A label map at exactly that size, cropped like its picture; no new colours appear."""
    if mask.size == (width, height):
        return mask
    return ImageOps.fit(mask.convert("RGB"), (width, height), method=Image.Resampling.NEAREST)


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """(width, height) with the same proportions and the shorter side given, in pixels."""
    scale = shorter / min(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
