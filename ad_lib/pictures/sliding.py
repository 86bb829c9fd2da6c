"""Sums and maxima of what lies around each pixel.

Invariant: a window slides along one axis after the other, and only where it fits. Shifted copies
are added up; with one channel that is many times as fast on a CPU as a convolution or a pooling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Num
from torch import Tensor


def sliding_sum(values: Num[Tensor, "*b h w"], weights: Sequence[float]) -> Num[Tensor, "*b y x"]:
    """Weighted sums of windows; the weights of a window are the products of those of its axes."""
    for axis in (-1, -2):
        length = values.shape[axis] - len(weights) + 1
        total = values.narrow(axis, 0, length) * weights[0]
        for offset in range(1, len(weights)):
            total.add_(values.narrow(axis, offset, length), alpha=weights[offset])
        values = total
    return values


def sliding_maximum(values: Num[Tensor, "*b h w"], size: int) -> Num[Tensor, "*b y x"]:
    """The largest value in each window of size x size."""
    for axis in (-1, -2):
        length = values.shape[axis] - size + 1
        largest = values.narrow(axis, 0, length)
        for offset in range(1, size):
            largest = torch.maximum(largest, values.narrow(axis, offset, length))
        values = largest
    return values
