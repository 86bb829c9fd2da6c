"""How pictures get the right size, and become tensors and back.

Invariant: nothing is squashed. A picture is scaled with its proportions kept, then cropped at
the centre; what does not divide by the autoencoder's factor is padded and cropped back.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F


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


def image_to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1], float32."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def tensor_to_image(pixels: Tensor) -> Image.Image:
    """The picture of a (3, H, W) tensor in [0, 1], rounded to 8 bits."""
    rounded = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rounded.permute(1, 2, 0).cpu().numpy())


def pad_to_multiple(pixels: Tensor, factor: int) -> Tensor:
    """Pads (B, 3, H, W) to multiples of `factor`, right and bottom, by repeating the edge."""
    height, width = pixels.shape[-2:]
    right = math.ceil(width / factor) * factor - width
    bottom = math.ceil(height / factor) * factor - height
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate")
