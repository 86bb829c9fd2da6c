"""What the networks are trained on: the procedural stream and crops of a few photographs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ad_lib.embedded.picture_files import open_picture, to_tensor
from training.procedural import draw

PICTURE_SIDE = 256
NUM_SEEDS = 2**62
"""The stream draws the seeds of its pictures below this one."""


def go_on(seed: int, step: int, stream: PictureStream) -> None:
    """Seed a training that is at `step`, so that one that is resumed sees what it has not seen."""
    torch.manual_seed(seed + step)
    stream.rng = np.random.default_rng((seed, step))


class PictureStream:
    """Endless seeded batches of crops.

    Holds a pool of procedural pictures, one of which is painted anew for each batch, and the
    photographs. A share `photograph_share` of the crops comes from the photographs, at any scale
    between one pixel per pixel and the whole picture.
    """

    def __init__(
        self,
        photographs: Iterable[Path],
        *,
        seed: int,
        pool: int = 256,
        photograph_share: float = 0.5,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.photographs = [open_picture(path, 1600) for path in photographs]
        self.captions = [
            f"photograph of {path.stem.replace('_', ' ').replace('-', ' ')}" for path in photographs
        ]
        self.photograph_share = photograph_share if self.photographs else 0.0
        self.pool = [self._new_drawing() for _ in range(pool)]

    def batch(self, count: int, side: int) -> Tensor:
        """Crops (count, 3, side, side) in [-1, 1]."""
        return to_tensor(np.stack([crop for crop, _ in self.captioned(count, side)]))

    def captioned(self, count: int, side: int) -> list[tuple[NDArray[np.uint8], str]]:
        """Crops (side, side, 3) with their captions."""
        self.pool[self.rng.integers(len(self.pool))] = self._new_drawing()
        return [self._crop(side) for _ in range(count)]

    def _new_drawing(self) -> tuple[Image.Image, str]:
        pixels, caption = draw(int(self.rng.integers(NUM_SEEDS)), PICTURE_SIDE)
        return Image.fromarray(pixels), caption

    def _crop(self, side: int) -> tuple[NDArray[np.uint8], str]:
        if self.rng.random() < self.photograph_share:
            index = self.rng.integers(len(self.photographs))
            picture, caption = self.photographs[index], self.captions[index]
        else:
            picture, caption = self.pool[self.rng.integers(len(self.pool))]
        longest = min(picture.size)
        extent = round(side * (max(longest, side) / side) ** self.rng.random())
        left, top = (
            int(self.rng.integers(length - min(extent, longest) + 1)) for length in picture.size
        )
        box = (left, top, left + min(extent, longest), top + min(extent, longest))
        crop = picture.resize((side, side), Image.Resampling.LANCZOS, box=box)
        pixels = np.asarray(crop)
        return (pixels[:, ::-1] if self.rng.random() < 0.5 else pixels), caption
