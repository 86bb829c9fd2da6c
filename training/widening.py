"""Making a trained network wider without changing what it computes (Net2Net, Chen et al. 2016).

Every feature of a widened layer is there twice; whoever reads it weighs the two copies unequally,
with the old weight as their sum, so that training pulls them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNEVEN = 0.3
"""Deviation of a copy's share of the weight from one half."""


@torch.no_grad()
def widen(narrow: nn.Module, wide: nn.Module) -> None:
    """Make `wide` compute what `narrow` does.

    Args:
        narrow: convolutions and group norms, without concatenations.
        wide: of the same layers and the same numbers of groups, each width the same or doubled.

    Raises:
        ValueError: a width is neither the same nor doubled.
    """
    targets = dict(wide.named_parameters())
    for name, weight in narrow.named_parameters():
        targets[name].copy_(_widened(name, weight, targets[name].shape))


def _widened(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    for dim in range(min(weight.ndim, 2)):
        if shape[dim] == weight.shape[dim]:
            continue
        if shape[dim] != 2 * weight.shape[dim]:
            raise ValueError(f"{name} has {weight.shape[dim]} features; {shape[dim]} are not twice")
        weight = weight.repeat_interleave(2, dim)
        if dim == 1:
            share = 0.5 + UNEVEN * torch.randn(shape[0], shape[1] // 2, *[1] * (weight.ndim - 2))
            weight = weight * torch.stack([share, 1 - share], 2).flatten(1, 2)
    return weight
