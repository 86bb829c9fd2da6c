"""Hashes against scipy, and how far apart those of like pictures are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image
from scipy import fft

from ad_lib.pictures.hashes import hamming_distance, phash
from tests.ad_lib.pictures.samples import photo


@pytest.mark.parametrize("name", ["cat", "brick", "hokusai_great_wave"])
def test_the_hash_is_the_sign_pattern_of_scipys_cosine_transform(name):
    image = photo(name, 300, 200)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    lowest = fft.dctn(grey, type=2)[:8, :8]
    bits = "".join("1" if value else "0" for value in (lowest > np.median(lowest)).ravel())
    assert phash(image) == f"{int(bits, 2):016x}"


def test_hashes_of_a_picture_at_another_size_are_near_and_of_others_far():
    hashes = [phash(photo(name)) for name in ("cat", "astronaut", "brick", "grass")]
    assert hamming_distance(hashes[0], phash(photo("cat").resize((100, 100)))) <= 4
    assert min(hamming_distance(a, b) for a, b in itertools.combinations(hashes, 2)) >= 16


def test_the_hamming_distance_counts_bits():
    assert hamming_distance("0" * 16, "f" * 16) == 64
    assert hamming_distance("00000000000000ff", "00000000000000fe") == 1
