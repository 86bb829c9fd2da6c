"""MultiDiffusion: Algorithm 2 on pictures larger than the model, in overlapping views.

Invariant: every latent cell is covered by at least one view at every step, and no view is larger
than the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ad_lib.algorithm.dynamics import Dynamics
from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import PredictNoise, denoised, distilled, one_adam, visited
from ad_lib.algorithm.noise import Noise
from ad_lib.algorithm.step import Distiller
from ad_lib.algorithm.trace import LossTrace

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
    """

    size: int = 64
    stride: int = 8
    shift: bool = False
    wrap: tuple[bool, bool] = (False, False)

    def at(self, height: int, width: int, step: int = 0) -> list[tuple[Tensor, Tensor]]:
        """The rows and columns of every view at a step of the sampler, row by row."""
        rows, columns = (
            list(self._axis(side, wraps, int(step * ratio % 1 * self.stride) if self.shift else 0))
            for side, wraps, ratio in zip((height, width), self.wrap, _STEPS_OF_SHIFT, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    def _axis(self, side: int, wraps: bool, offset: int) -> Iterator[Int[Tensor, " size"]]:
        size = min(self.size, side)
        if wraps and size < side:
            starts = range(offset, side + offset, self.stride)
        else:
            last = side - size
            count = -(-(last + offset) // self.stride) + 1
            starts = sorted({min(max(i * self.stride - offset, 0), last) for i in range(count)})
        for start in starts:
            yield (start + torch.arange(size)) % side


def expand_with_distillation(
    predict_noise: PredictNoise,
    distiller: Distiller,
    dynamics: Dynamics,
    latents: Float[Tensor, "1 c h w"],
    style: References,
    noise: Noise,
    *,
    views: Views,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "1 c h w"], LossTrace]:
    """Texture expansion: every step of Algorithm 2 in all views, then their mean.

    Args:
        predict_noise: the frozen network under the prompt.
        distiller: the optimisation step, and the settings; `view_batch_size` views go through the
            network together.
        dynamics: the sampler.
        latents: z_T of the whole picture, unit Gaussian noise.
        style: z_s, the clean latents of the one item's references.
        noise: of the item; the views of one batch share a draw.
        views: where the network looks.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The latents z_0, detached, and the losses before each Adam step, averaged over views.

    Reference: Bar-Tal et al. 2023 (arXiv:2302.08113), MultiDiffusion; Zhou et al. 2025.
    """
    visits = visited(dynamics, distiller.settings)
    rates = one_adam(distiller, latents)
    losses = rates.new_zeros(len(visits), len(rates), 2, 1)
    height, width = latents.shape[-2:]
    for step, t in enumerate(dynamics.timesteps):
        total, count = torch.zeros_like(latents), torch.zeros_like(latents[:1, :1])
        of_views = []
        for batch in _batches(views.at(height, width, step), distiller.settings.view_batch_size):
            crops = torch.cat([latents[..., rows[:, None], columns] for rows, columns in batch])
            crops = denoised(predict_noise, dynamics, crops, t)
            if visits[step]:
                shared = References(style.latents, [style.index[0]] * len(batch), style.weights)
                crops, of_batch = distilled(
                    distiller,
                    rates,
                    dynamics,
                    crops,
                    dynamics.after(t),
                    step,
                    shared,
                    [noise] * len(batch),
                )
                of_views.append(of_batch)
            for (rows, columns), crop in zip(batch, crops, strict=True):
                total[..., rows[:, None], columns] += crop
                count[..., rows[:, None], columns] += 1
        latents = total / count  # the mean of the views that cover a cell
        if of_views:
            losses[step] = torch.cat(of_views, -1).mean(-1, keepdim=True)
        on_step_end(step)
    return latents, LossTrace.of(losses[len(visits) - sum(visits) :])


def _batches(
    views: Sequence[tuple[Tensor, Tensor]], size: int
) -> Iterator[Sequence[tuple[Tensor, Tensor]]]:
    for start in range(0, len(views), size):
        yield views[start : start + size]
