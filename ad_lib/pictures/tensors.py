"""How do pictures become tensors, and back?

A size that the autoencoder's factor does not divide is padded, never scaled, and cropped later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

BAND = 512
"""Rows or columns of a large picture that are worked on together, to bound memory."""


def bands(length: int) -> Iterator[slice]:
    """Consecutive slices of at most `BAND` that cover so many rows or columns."""
    for start in range(0, length, BAND):
        yield slice(start, min(start + BAND, length))


def image_to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1], float32."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def tensor_to_image(pixels: Tensor) -> Image.Image:
    """The picture of a (3, H, W) tensor in [0, 1], rounded to 8 bits, band by band."""
    _, height, width = pixels.shape
    rounded = torch.empty(height, width, 3, dtype=torch.uint8)
    for rows in bands(height):
        rounded[rows] = (pixels[:, rows].float().clamp(0, 1) * 255).round().permute(1, 2, 0)
    return Image.fromarray(rounded.numpy())


def pad_to_multiple(pixels: Tensor, factor: int) -> Tensor:
    """Pads (B, 3, H, W) to multiples of `factor`, right and bottom, by repeating the edge."""
    height, width = pixels.shape[-2:]
    right = math.ceil(width / factor) * factor - width
    bottom = math.ceil(height / factor) * factor - height
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate")


def middle(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of pictures that are larger than height x width."""
    top = max(0, (images.shape[-2] - height) // 2)
    left = max(0, (images.shape[-1] - width) // 2)
    return images[..., top : top + height, left : left + width]
