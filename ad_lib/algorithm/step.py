"""One optimisation step of Attention Distillation, as a function of tensors.

Algorithm 1, Algorithm 2 and MultiDiffusion all move latents by it. Invariant: nothing waits for
the device, no Python value depends on a tensor, and nothing is kept between calls, so that the
whole step may be compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.features import AttentionFeatures, ExtractFeatures, References
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.losses import (
    Attend,
    attention_distillation_loss,
    content_loss,
    distilled_attention,
)
from ad_lib.algorithm.stacked_references import StackedReferences
from ad_lib.settings import Settings

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Of Adam: Kingma and Ba 2015 (arXiv:1412.6980), with PyTorch's defaults."""


def unchanged(latents: Tensor) -> Tensor:
    """Latents as they are."""
    return latents


def loss_scale(dtype: torch.dtype) -> float:
    """What the loss is multiplied by, so that gradients in a network's precision survive.

    The mean over 4096 tokens of 320 channels gives each a gradient of 13 times the smallest number
    of float16, and every layer before makes it smaller. A power of two changes no digit; 2**16 has
    been seen to overflow no network, down to means over 1024 values.
    """
    return 2.0**16 if dtype == torch.float16 else 1.0


class AdamState(NamedTuple):
    """The latents, and Adam's running means of their gradient and of its square, in float32."""

    latents: Float[Tensor, "b c h w"]
    mean: Float[Tensor, "b c h w"]
    square: Float[Tensor, "b c h w"]


class ReferenceFeatures(NamedTuple):
    """The references at one timestep: features with K_s and V_s, features with Q_c, and z_c."""

    style: Sequence[AttentionFeatures]
    content: Sequence[AttentionFeatures]
    content_latents: Float[Tensor, "b c h w"] | None

    def expanded(self, batch: int) -> ReferenceFeatures:
        """Those of one item without content, for each of `batch` views of it."""
        return ReferenceFeatures([layer.expanded(batch) for layer in self.style], (), None)


def learning_rates(
    settings: Settings, num_steps: int, device: torch.device
) -> Float[Tensor, "steps 3"]:
    """For each step of one Adam: minus its step size, the root of its second correction, lambda.

    They are made on the host in float64, once, so that a step needs no counter, and is the same
    function of tensors for every learning rate and content weight.
    """
    rows = [
        (
            -settings.learning_rate / (1 - BETAS[0] ** count),
            (1 - BETAS[1] ** count) ** 0.5,
            settings.content_weight,
        )
        for count in range(1, num_steps + 1)
    ]
    return torch.tensor(rows, dtype=torch.float32).reshape(num_steps, 3).to(device)


@dataclass(frozen=True)
class Distiller:
    """Moves latents towards the style's attention and the content's queries.

    Attributes:
        extract_features: the frozen network, conditioned on the empty prompt.
        settings: `attn_scale` and `rope` are read, and what `learning_rates` are made of.
        regions: which tokens of the style each item's queries may attend to; None is all.
        loss_scale: of the network's precision; gradients are divided by it again in float32.
        show: how the latents become what the network sees; the references are given as they are.
    """

    extract_features: ExtractFeatures
    settings: Settings
    regions: Regions | None = None
    loss_scale: float = 1.0
    show: Callable[[Tensor], Tensor] = unchanged

    @property
    def attend(self) -> Attend:
        """How the latents' queries attend to the style."""
        return partial(
            distilled_attention,
            attn_scale=self.settings.attn_scale,
            regions=self.regions,
            rope=self.settings.rope,
        )

    def of_items(self, rows: Sequence[int]) -> Distiller:
        """The same step for some items of the batch."""
        return replace(self, regions=self.regions and self.regions.of_items(rows))

    def showing(self, show: Callable[[Tensor], Tensor]) -> Distiller:
        """The same step with latents shown in another way."""
        return self if show is self.show else replace(self, show=show)

    def init(self, latents: Float[Tensor, "b c h w"]) -> AdamState:
        """The state before the first step."""
        start = latents.detach().float()
        return AdamState(start, torch.zeros_like(start), torch.zeros_like(start))

    def visit(
        self,
        state: AdamState,
        rates: Float[Tensor, "m 3"],
        timestep: Tensor,
        style: References | StackedReferences,
        content: References | StackedReferences | None = None,
    ) -> tuple[AdamState, Float[Tensor, "m 2 b"]]:
        """All optimisation steps of one timestep; features of the references are computed once.

        Args:
            state: where the latents are.
            rates: rows of `learning_rates`, one for each step.
            timestep: the noise level that the network is told.
            style: z_s as the network shall see it: clean or under noise.
            content: z_c alike.

        Returns:
            The new state, and the style and content loss of every item before each step.
        """
        return self.descend(state, rates, timestep, self.references(timestep, style, content))

    def references(
        self,
        timestep: Tensor,
        style: References | StackedReferences,
        content: References | StackedReferences | None = None,
    ) -> ReferenceFeatures:
        """The features of the references at a timestep."""
        style_features = style.features(self.extract_features, timestep)
        if content is None:
            return ReferenceFeatures(style_features, (), None)
        content_features = content.features(self.extract_features, timestep)
        return ReferenceFeatures(style_features, content_features, content.one_per_item())

    def descend(
        self,
        state: AdamState,
        rates: Float[Tensor, "m 3"],
        timestep: Tensor,
        references: ReferenceFeatures,
    ) -> tuple[AdamState, Float[Tensor, "m 2 b"]]:
        """The optimisation steps of one timestep, against features of the references."""
        losses = rates.new_empty(len(rates), 2, len(state.latents))
        for step, rate in enumerate(rates.unbind()):
            gradient, losses[step] = self._gradient(state.latents, timestep, references, rate[2])
            state = adam_step(state, gradient, rate)
        return state, losses

    @torch.enable_grad()
    def _gradient(
        self,
        latents: Tensor,
        timestep: Tensor,
        references: ReferenceFeatures,
        content_weight: Float[Tensor, ""],
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "2 b"]]:
        """The gradient of L_AD + lambda L_content, summed over items; and the two losses."""
        leaf = latents.detach().requires_grad_()
        shown = self.show(leaf)
        current = self.extract_features(shown, timestep)  # Q, K, V and Self-Attn(Q, K, V)
        style_loss = attention_distillation_loss(current, references.style, self.attend)
        kept_loss = torch.zeros_like(style_loss)
        if references.content_latents is not None:
            kept_loss = content_loss(current, references.content)
            kept_loss = kept_loss * moved(shown, references.content_latents)
        loss = style_loss + content_weight * kept_loss
        (gradient,) = torch.autograd.grad(self.loss_scale * loss.sum(), leaf)
        return gradient / self.loss_scale, torch.stack([style_loss, kept_loss]).detach()


def adam_step(
    state: AdamState, gradient: Float[Tensor, "b c h w"], rate: Float[Tensor, " 3"]
) -> AdamState:
    """One step of Adam; `rate` is a row of `learning_rates`."""
    mean = torch.lerp(state.mean, gradient, 1 - BETAS[0])
    square = torch.addcmul(BETAS[1] * state.square, gradient, gradient, value=1 - BETAS[1])
    latents = state.latents + rate[0] * mean / (square.sqrt() / rate[1] + EPSILON)
    return AdamState(latents, mean, square)


def moved(
    latents: Float[Tensor, "b c h w"], content_latents: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """1 for items whose latents differ from their content latents, 0 for the others.

    Where they are equal, Q equals Q_c and the content loss is zero, with a zero subgradient. Two
    passes of different shapes round differently, and L1 would turn that rounding into gradients
    of full size; so the loss is set to zero there.
    """
    return (latents.detach() != content_latents).flatten(1).any(1).float()
