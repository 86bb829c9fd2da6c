"""What the networks are trained on: the procedural stream and crops of a few photographs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ad_lib.embedded.procedural import draw

PICTURE_SIDE = 256
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def list_pictures(paths: Iterable[Path]) -> list[Path]:
    """Picture files among `paths`, and in those of them that are folders; sorted, each once.

    Raises:
        FileNotFoundError: one of `paths` is not there, or is or holds no picture.
    """
    found: set[Path] = set()
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        pictures = {file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()}
        if not pictures:
            raise FileNotFoundError(f"no pictures ({', '.join(sorted(SUFFIXES))}) at {path}")
        found |= pictures
    return sorted(found)


def open_picture(path: Path, longest_side: int | None = None) -> Image.Image:
    """Upright RGB picture, scaled down to `longest_side` where it is larger."""
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    if longest_side and max(picture.size) > longest_side:
        picture.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return picture


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes (..., H, W, 3) to floats (..., 3, H, W) in [-1, 1], as the autoencoder takes them."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, -3).float() / 127.5 - 1


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
        pixels, caption = draw(int(self.rng.integers(2**62)), PICTURE_SIDE)
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
