"""Sliding windows against scipy's."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from ad_lib.pictures.sliding import sliding_maximum, sliding_sum


def test_a_sliding_sum_is_scipys_correlation_where_the_window_fits(images):
    weights = [0.5, 2.0, -1.0, 3.0, 0.25]
    whole = images.double().numpy()
    for axis in (2, 3):
        whole = ndimage.correlate1d(whole, weights, axis)
    expected = torch.from_numpy(whole[..., 2:-2, 2:-2].copy())
    torch.testing.assert_close(sliding_sum(images.double(), weights), expected)


def test_a_sliding_maximum_is_scipys_where_the_window_fits(images):
    expected = ndimage.maximum_filter(images.numpy(), (1, 1, 5, 5))[..., 2:-2, 2:-2]
    assert np.array_equal(sliding_maximum(images, 5).numpy(), expected)
    marked = sliding_maximum(images > 0.99, 5)
    assert np.array_equal(marked.numpy(), expected > 0.99)
