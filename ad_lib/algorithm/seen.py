"""What does Algorithm 1 show the network at a timestep: clean latents, or all of it under noise?

Clean is the published method. Under noise is Case 2 of Fig. 16 of its paper, an ablation: result,
style and content are at the timestep's noise level, as the network has learned them, and nothing is
denoised. Invariant: what is optimised stays clean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.dynamics import Dynamics, Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import noised
from ad_lib.algorithm.noise import Noise
from ad_lib.algorithm.step import unchanged


class Seen(NamedTuple):
    """The references at one timestep, and how the latents in the making become what is seen."""

    style: References
    content: References | None
    show: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]


class Show(Protocol):
    """What is seen of some items of a batch."""

    def __call__(
        self,
        step: int,
        timestep: Timestep,
        rows: Sequence[int],
        latents: Float[Tensor, "b c h w"],
        style: References,
        content: References | None,
    ) -> Seen:
        """What the network sees.

        Args:
            step: number of the visit, counted from 0; it says which noise is drawn.
            timestep: the noise level that the network is told.
            rows: which items of the batch these are.
            latents: z of these items, clean like the others.
            style: z_s.
            content: z_c.
        """
        ...


def clean(
    step: int,
    timestep: Timestep,
    rows: Sequence[int],
    latents: Float[Tensor, "b c h w"],
    style: References,
    content: References | None,
) -> Seen:
    """Everything as it is, as published."""
    return Seen(style, content, unchanged)


@dataclass(frozen=True)
class UnderNoise:
    """Everything at the noise level of the timestep, under noise that each visit draws anew.

    The content has the noise of the result, so that where they are equal their queries are.

    Attributes:
        dynamics: the sampler.
        noise: of each item of the batch; drawn under the tags `result` and `style`.
    """

    dynamics: Dynamics
    noise: Sequence[Noise]

    def __call__(
        self,
        step: int,
        timestep: Timestep,
        rows: Sequence[int],
        latents: Float[Tensor, "b c h w"],
        style: References,
        content: References | None,
    ) -> Seen:
        """As of `Show`."""
        own = [self.noise[row] for row in rows]
        drawn = torch.stack([noise("result", step, latents.shape[1:]) for noise in own])
        drawn = drawn.to(latents)

        def show(clean_latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
            return self.dynamics.add_noise(clean_latents, drawn, timestep)

        if content is not None:
            places = [[item] for item in range(len(rows))]
            content = References(list(show(content.one_per_item())), places)
        return Seen(noised(style, self.dynamics, timestep, own, "style", step), content, show)
