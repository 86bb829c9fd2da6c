"""Pictures to judge: real ones that ship with stylefarm, and random smooth ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from ad_lib.pictures.images import fit_image
from manifests import examples


def blobs(*shape, seed=0, width=2.0):
    """Smooth random pictures that use the whole range."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (0, 0, width, width), mode="wrap")
    low, high = (bound((2, 3), keepdims=True) for bound in (smooth.min, smooth.max))
    return torch.from_numpy((smooth - low) / (high - low)).float()


def photo(name, width=256, height=256):
    (path,) = Path(examples.__file__).parent.glob(f"images/*/{name}.jpg")
    return fit_image(Image.open(path).convert("RGB"), width, height)
