"""MultiDiffusion: Algorithm 2 on pictures larger than the model, in overlapping views.

Invariant: every latent cell is covered by at least one view at every step, and no view is larger
than the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.dynamics import Dynamics, Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import (
    PredictNoise,
    before_the_loop,
    denoised,
    one_adam,
    under_noise,
    visited,
)
from ad_lib.algorithm.noise import Noise
from ad_lib.algorithm.step import Distiller, ReferenceFeatures
from ad_lib.algorithm.trace import LossTrace
from ad_lib.algorithm.windows import add, cut

_STEPS_OF_SHIFT = (0.7548776662466927, 0.5698402909980532)
"""Multiples of these two numbers, modulo 1, cover the unit square evenly (Roberts 2018)."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """A grid of overlapping square views of a picture, all lengths in latent cells.

    Attributes:
        size: side of a view, cut to the picture's.
        stride: distance of neighbouring views.
        shift: whether the grid moves from step to step, so that wide strides leave no borders.
        wrap: (vertically, horizontally) whether the picture continues on its opposite side.
        batch_size: views that go through the network together.
    """

    size: int = 64
    stride: int = 8
    shift: bool = False
    wrap: tuple[bool, bool] = (False, False)
    batch_size: int = 8

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of every view of a picture."""
        return min(self.size, height), min(self.size, width)

    def at(self, height: int, width: int, step: int = 0) -> list[tuple[int, int]]:
        """The first row and column of every view at a step of the sampler, row by row."""
        tops, lefts = (
            self._starts(side, wraps, int(step * ratio % 1 * self.stride) if self.shift else 0)
            for side, wraps, ratio in zip((height, width), self.wrap, _STEPS_OF_SHIFT, strict=True)
        )
        return [(top, left) for top in tops for left in lefts]

    def batches(self, height: int, width: int, step: int = 0) -> list[list[tuple[int, int]]]:
        """The views of a step, as many at a time as go through the network together."""
        places = self.at(height, width, step)
        return [
            places[start : start + self.batch_size]
            for start in range(0, len(places), self.batch_size)
        ]

    def count(self, height: int, width: int, num_steps: int) -> int:
        """How many views a picture has in so many steps of the sampler."""
        return sum(len(self.at(height, width, step)) for step in range(num_steps))

    def _starts(self, side: int, wraps: bool, offset: int) -> Sequence[int]:
        size = min(self.size, side)
        if wraps and size < side:
            return range(offset, side + offset, self.stride)
        last = side - size
        count = -(-(last + offset) // self.stride) + 1
        return sorted({min(max(i * self.stride - offset, 0), last) for i in range(count)})


def expand_with_distillation(
    predict_noise: PredictNoise,
    distiller: Distiller,
    dynamics: Dynamics,
    latents: Float[Tensor, "1 c h w"],
    style: References,
    noise: Noise,
    *,
    views: Views,
    on_views_end: Callable[[int], None] = lambda num_views: None,
) -> tuple[Float[Tensor, "1 c h w"], LossTrace]:
    """Texture expansion: every step of Algorithm 2 in all views, then their mean.

    Args:
        predict_noise: the frozen network under the prompt.
        distiller: the optimisation step, and the settings.
        dynamics: the sampler.
        latents: z_T of the whole picture, unit Gaussian noise.
        style: z_s, the clean latents of the one item's references.
        noise: of the item; all views of a step share a draw.
        views: where the network looks.
        on_views_end: told how many views are done since the last time.

    Returns:
        The latents z_0, detached, and the losses before each Adam step, averaged over views.

    Reference: Bar-Tal et al. 2023 (arXiv:2302.08113), MultiDiffusion; Zhou et al. 2025.
    """
    visits, rates = visited(dynamics, distiller.settings), one_adam(distiller, latents)
    losses = rates.new_zeros(len(visits), len(rates), 2, 1)
    if distiller.settings.noise != "stream":
        (noise,) = before_the_loop([noise], style, None, visits, distiller.settings)
    height, width = latents.shape[-2:]
    shape = views.shape(height, width)
    for step, t in enumerate(dynamics.timesteps):
        total, count = torch.zeros_like(latents), torch.zeros_like(latents[:1, :1])
        look = _Look(distiller, dynamics, dynamics.after(t), step, style, noise)
        batches = views.batches(height, width, step)
        for batch in batches:
            crops = torch.cat([cut(latents, *place, *shape) for place in batch])
            crops = denoised(predict_noise, dynamics, crops, t)
            if visits[step]:
                crops, of_batch = look.distilled(crops, rates)
                losses[step] += of_batch.sum(-1, keepdim=True)
            for place, crop in zip(batch, crops, strict=True):
                add(total, crop, *place)
                add(count, torch.ones_like(crop[:1]), *place)
            on_views_end(len(batch))
        latents = total / count  # the mean of the views that cover a cell
        losses[step] /= sum(map(len, batches))
    return latents, LossTrace.of(losses[len(visits) - sum(visits) :])


@dataclass
class _Look:
    """What all views of one step see of the style: looked at once, or for each batch of views.

    Each batch draws noise of its own where the noise is a `stream`, as in the released code.
    """

    distiller: Distiller
    dynamics: Dynamics
    timestep: Timestep
    step: int
    style: References
    noise: Noise
    _seen: tuple[References | None, ReferenceFeatures] | None = None

    def distilled(self, crops: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
        """The moved views, and the style and content loss of each before each Adam step."""
        target, features = self._references()
        if target is not None:
            crops = adain(crops, target.repeated(len(crops)))
        state, losses = self.distiller.descend(
            self.distiller.init(crops),
            rates,
            self.timestep.tensor,
            features.expanded(len(crops)),
        )
        return state.latents, losses

    def _references(self) -> tuple[References | None, ReferenceFeatures]:
        settings = self.distiller.settings
        if self._seen is None or settings.noise == "stream":
            noised = under_noise(
                settings, self.dynamics, self.timestep, self.step, self.style, [self.noise]
            )
            features = self.distiller.references(self.timestep.tensor, noised.style)
            self._seen = noised.target, features
        return self._seen
