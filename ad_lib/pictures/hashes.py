"""Which pictures are the same, and which nearly?"""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image


def picture_digest(image: Image.Image) -> str:
    """Tells pictures apart by their pixels."""
    pixels = hashlib.sha256(f"{image.mode} {image.size} ".encode())
    pixels.update(image.tobytes())
    return pixels.hexdigest()


def phash(image: Image.Image) -> str:
    """Perceptual hash of 64 bits as 16 hex digits; similar pictures differ in few bits.

    Which of the 64 lowest frequencies of a 32x32 grey copy exceed their median; the hashes are
    those of the ImageHash package.

    Reference: Zauner 2010, DCT-based hash of pHash.
    """
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    place = (2 * np.arange(32) + 1) / 64
    basis = 2 * np.cos(np.pi * np.arange(8)[:, None] * place)
    lowest = np.round(basis @ np.asarray(grey, dtype=np.float64) @ basis.T, 6)
    bits = (lowest > np.median(lowest)).ravel()
    return np.packbits(bits).tobytes().hex()


def hamming_distance(first: str, second: str) -> int:
    """Bits in which two hashes of `phash` differ, 0..64; up to about 10 the pictures are alike."""
    return (int(first, 16) ^ int(second, 16)).bit_count()
