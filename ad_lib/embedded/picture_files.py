"""Which pictures, and which captions, does a folder hold?

A caption stands beside its picture, in a text file of the same name.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

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


def read_caption(path: Path) -> str:
    """The text beside the picture at `path`, in `NAME.txt`; empty where there is none."""
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Bytes (..., H, W, 3) to floats (..., 3, H, W) in [-1, 1], as the autoencoder takes them."""
    return torch.from_numpy(np.array(pixels)).movedim(-1, -3).float() / 127.5 - 1
