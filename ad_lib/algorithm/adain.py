"""AdaIN: how do latents get the channel statistics of their styles?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.features import References


def adain(latents: Float[Tensor, "b c h w"], style: References) -> Float[Tensor, "b c h w"]:
    """Latents with the channel means and deviations of each item's styles, pooled over them.

    Reference: Huang and Belongie 2017, AdaIN; deviations are unbiased, as in the released code.
    """
    statistics = [_pooled_statistics(style, item) for item in range(len(latents))]
    mean, deviation = (torch.stack(one)[..., None, None] for one in zip(*statistics, strict=True))
    own_mean = latents.mean((2, 3), keepdim=True)
    own_deviation = latents.std((2, 3), keepdim=True)
    return (latents - own_mean) / (own_deviation + 1e-6) * deviation + mean


def _pooled_statistics(style: References, item: int) -> tuple[Tensor, Tensor]:
    """(c,) mean and deviation of all cells of an item's styles, each counted by its weight."""
    cells = [one.flatten(1) for one in style.of_item(item)]
    weights = torch.cat(
        [
            torch.full_like(one[0], weight)
            for one, weight in zip(cells, style.weights or [1.0] * len(cells), strict=True)
        ]
    )
    values, total = torch.cat(cells, 1), weights.sum()
    mean = (weights * values).sum(1) / total
    variance = (weights * (values - mean[:, None]) ** 2).sum(1) / (total - 1)
    return mean, variance.sqrt()
