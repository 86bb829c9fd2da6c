"""How far apart are two sets of numbers, by the Wasserstein-1 distance?

Invariant: both sides come in ascending order, so that one side can be sorted once and kept.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def ascending(values: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
    """The values in order along the last axis; those on a CPU are sorted in place.

    NumPy sorts five times as fast as torch there, and a copy would cost as much as the sorting.
    """
    if values.device.type != "cpu":
        return values.sort(-1).values
    values = values.detach().contiguous()
    values.numpy().sort(axis=-1)
    return values


def wasserstein_distance(
    ours: Float[Tensor, "b c n"], theirs: Float[Tensor, "r c m"]
) -> Float[Tensor, "b c"]:
    """Wasserstein-1 distances between the values of each channel, both in ascending order.

    Exact where both sides have as many values; by interpolated quantiles where not.
    """
    count = max(ours.shape[2], theirs.shape[2])
    return (_quantiles(ours, count) - _quantiles(theirs, count)).abs_().mean(2)


def _quantiles(ordered: Tensor, count: int) -> Tensor:
    """`count` evenly spaced quantiles of values in ascending order along the last axis."""
    if ordered.shape[-1] == count:
        return ordered
    return F.interpolate(ordered, size=count, mode="linear", align_corners=False)
