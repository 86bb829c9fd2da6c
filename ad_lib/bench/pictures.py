"""Pictures to measure with: made from a number, so that every machine measures the same."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_OCTAVES = ((4, 0.5), (16, 0.3), (64, 0.2))
"""Sides of the noise that is enlarged and mixed, and the part of each."""


def synthetic_picture(seed: int, side: int) -> Image.Image:
    """A square picture with coarse and fine structure, in colours of its own."""
    random = np.random.default_rng(seed)
    mixed = np.zeros((side, side, 3))
    for cells, part in _OCTAVES:
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        mixed += part * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    return Image.fromarray(mixed.round().astype(np.uint8))


def two_halves(side: int) -> Image.Image:
    """A label map: one label on the left, the other on the right."""
    labels = Image.new("RGB", (side, side), "red")
    ImageDraw.Draw(labels).rectangle((side // 2, 0, side, side), fill="blue")
    return labels


def disc(side: int) -> Image.Image:
    """A label map: a disc of one label on the other."""
    labels = Image.new("RGB", (side, side), "red")
    ImageDraw.Draw(labels).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), "blue")
    return labels
