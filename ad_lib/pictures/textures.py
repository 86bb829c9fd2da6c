"""Where does the optimisation of a masked texture start?"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ad_lib.algorithm.noise import Noise


def region_random(
    texture: Float[Tensor, "1 3 hs ws"],
    source: Int[Tensor, "hs ws"],
    target: Int[Tensor, "h w"],
    noise: Noise,
) -> Float[Tensor, "1 3 h w"]:
    """A label map filled with random pixels of the texture, each of its own label.

    It is where the optimisation of a masked texture starts, and its content.

    Args:
        texture: the example, in [0, 1].
        source: the label of every pixel of the example.
        target: the label of every pixel of the result, all of them in `source`.
        noise: of the item; its draw `region` says which pixel goes where.

    Reference: Zhou et al. 2025 (arXiv:2502.20235), controllable texture synthesis.
    """
    share = torch.special.ndtr(noise("region", 0, target.shape).double())  # uniform in [0, 1]
    filled = texture.new_empty(3, *target.shape)
    for label in target.unique():
        pixels = texture[0][:, source == label]
        here = target == label
        chosen = (share[here] * pixels.shape[1]).long().clamp(max=pixels.shape[1] - 1)
        filled[:, here] = pixels[:, chosen]
    return filled[None]
