"""GPDM: what comes of matching patch distributions directly, without any network?

Pixels are moved until, at every scale, random projections of all their patches are distributed as
those of the reference. Reference: Elnekave and Weiss 2022, "Generating natural images with direct
Patch Distributions Matching" (arXiv:2203.11862), with the settings of the released code for
textures: from noise, patches of 7 pixels, 64 projections, 300 steps of Adam at each scale, scales
0.85 apart down to 3 patches. Other than there, pictures of different sizes are compared by the
exact distance and not by one in which patches of the smaller one are repeated at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.noise import Noise
from ad_lib.baselines.sliced_wasserstein import (
    Pairing,
    ascending,
    pairing,
    random_directions,
    transport_cost,
)
from ad_lib.inputs import BatchInputs
from ad_lib.settings import Settings

NOISE_SIGMA = 1.5
"""Standard deviation of the noise from which textures start, for pixels in [-1, 1]."""

MAX_PROJECTED = 1 << 24
"""Projected patches that are in memory at once, at about 50 bytes each; more are taken in turns."""


def textured_by_gpdm(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """A new sample of each item's texture; the patches of several references are one set.

    Items are computed one after another: one picture keeps a device busy.

    Args:
        inputs: of one batch.
        on_step_end: told after each step of an item.

    Returns:
        Pictures in [0, 1].
    """
    device = inputs.backbone.device
    made = []
    for item, noise in enumerate(inputs.noise):
        references = [2 * one.to(device) - 1 for one in inputs.style_pictures(item)]
        sizes = [inputs.image_size, *(one.shape[-2:] for one in references)]
        scales = pyramid_scales(min(map(min, sizes)), inputs.settings)
        num_steps = len(scales) * inputs.settings.num_optimization_steps * len(inputs.requests)
        made.append(
            generate(
                references,
                inputs.image_size,
                scales,
                noise,
                inputs.settings,
                on_step_end=lambda total=num_steps: on_step_end(1, total),
            )
        )
    return (torch.cat(made) + 1) / 2


def pyramid_scales(shortest_side: int, settings: Settings) -> list[float]:
    """Scales of the pyramid over full size, ascending to 1.

    Args:
        shortest_side: of the result and of its references, in pixels; at the first scale it has
            `coarsest_patches` patches, or its own size if that is less.
        settings: of the task.
    """
    coarsest = settings.coarsest_patches * settings.patch_size / shortest_side
    scales = [1.0]
    while scales[-1] > coarsest:
        scales.append(max(scales[-1] * settings.pyramid_factor, coarsest))
    return scales[::-1]


def generate(
    references: Sequence[Float[Tensor, "1 3 _ _"]],
    image_size: tuple[int, int],
    scales: Sequence[float],
    noise: Noise,
    settings: Settings,
    *,
    on_step_end: Callable[[], None] = lambda: None,
) -> Float[Tensor, "1 3 height width"]:
    """A picture with the references' patches, from coarse to fine; pixels lie in [-1, 1]."""
    image = NOISE_SIGMA * noise("init", 0, (1, 3, *image_size)).to(references[0])
    for level, scale in enumerate(scales):
        image = match_patch_distributions(
            resized(image, size_at(scale, image_size)),
            [resized(one, size_at(scale, one.shape[-2:])) for one in references],
            noise,
            settings,
            first_step=level * settings.num_optimization_steps,
            on_step_end=on_step_end,
        )
    return image


def match_patch_distributions(
    image: Float[Tensor, "1 3 h w"],
    references: Sequence[Float[Tensor, "1 3 _ _"]],
    noise: Noise,
    settings: Settings,
    *,
    first_step: int,
    on_step_end: Callable[[], None] = lambda: None,
) -> Float[Tensor, "1 3 h w"]:
    """Algorithm 1: steps of Adam down the distance of patches, by new directions at each step.

    Args:
        image: where it starts.
        references: at the same scale.
        noise: of the item.
        settings: of the task.
        first_step: how many steps were made at coarser scales.
        on_step_end: told after each step.
    """
    image = image.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=settings.learning_rate)
    side = settings.patch_size
    count = settings.num_projections
    num_theirs = sum(num_patches(one, side) for one in references)
    paired = pairing(num_patches(image, side), num_theirs, image.device)
    at_once = max(1, MAX_PROJECTED // len(paired.share))
    for step in range(first_step, first_step + settings.num_optimization_steps):
        directions = random_directions(noise, "projections", step, count, (3, side, side))
        optimizer.zero_grad()
        for some in directions.to(image).split(at_once):
            (patch_swd(image, references, some, paired) * len(some) / count).backward()
        optimizer.step()
        on_step_end()
    return image.detach().clamp(-1, 1)


def patch_swd(
    image: Float[Tensor, "1 3 h w"],
    references: Sequence[Float[Tensor, "1 3 _ _"]],
    directions: Float[Tensor, "r 3 p p"],
    paired: Pairing,
) -> Float[Tensor, ""]:
    """The sliced Wasserstein-1 distance between all patches of a picture and of its references.

    A convolution with a direction projects every patch onto it; the mean over directions remains.

    Args:
        image: gradients flow back to it.
        references: the patches of all of them are one set.
        directions: of unit length.
        paired: for the numbers of patches of both sides.
    """
    ours = F.conv2d(image, directions)[0].flatten(1)
    with torch.no_grad():
        theirs = torch.cat([F.conv2d(one, directions)[0].flatten(1) for one in references], 1)
        theirs = ascending(theirs)
    return transport_cost(ascending(ours), theirs, paired, power=1).mean()


def num_patches(image: Float[Tensor, "1 3 h w"], side: int) -> int:
    """How many patches of so many pixels a side a picture has; they overlap."""
    height, width = image.shape[-2:]
    return (height - side + 1) * (width - side + 1)


def size_at(scale: float, size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of a picture at a scale, rounded up where halves of pixels remain."""
    height, width = (math.floor(scale * side + 0.5) for side in size)
    return height, width


def resized(image: Float[Tensor, "1 3 _ _"], size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """A picture at another size, smoothed where it becomes smaller."""
    return F.interpolate(image, size, mode="bilinear", antialias=True)
