"""Algorithm 1: optimise latents towards the style's attention and the content's queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.features import ExtractFeatures, References
from ad_lib.algorithm.losses import (
    Attend,
    attention_distillation_loss,
    content_loss,
    distilled_attention,
)


@dataclass(frozen=True)
class LossTrace:
    """The losses before every Adam step, each (steps, b)."""

    style: Float[Tensor, "steps b"]
    content: Float[Tensor, "steps b"]

    @classmethod
    def of(cls, losses: Sequence[tuple[Tensor, Tensor]], batch: int) -> LossTrace:
        """From the style and content losses of every step, each (b,)."""
        if not losses:
            return cls(torch.zeros(0, batch), torch.zeros(0, batch))
        style, content = zip(*losses, strict=True)
        return cls(torch.stack(style), torch.stack(content))


def optimize_latents(
    extract_features: ExtractFeatures,
    timesteps: Sequence[Tensor] | Tensor,
    latents: Float[Tensor, "b c h w"],
    style: References,
    content: References | None = None,
    *,
    num_optimization_steps: int,
    learning_rate: float,
    content_weight: float,
    attend: Attend = distilled_attention,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b c h w"], LossTrace]:
    """Content-preserving optimisation: Algorithm 1 of Zhou et al. 2025 (arXiv:2502.20235).

    The network sees clean latents at every timestep: no noise is added and nothing is denoised.

    Args:
        extract_features: the frozen network, conditioned on the empty prompt.
        timesteps: (T,), descending.
        latents: z, where the optimisation starts: the content's latents or noise.
        style: z_s, the clean latents of the references.
        content: z_c, the clean latents of each item's content, one per item.
        num_optimization_steps: Adam steps at each timestep; one Adam state for the whole run.
        learning_rate: of Adam; betas 0.9 and 0.999.
        content_weight: lambda.
        attend: how the latents' queries attend to the style.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The optimised latents, detached, and the losses before each Adam step.
    """
    latents = latents.detach().float().clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=learning_rate)
    losses = []

    for step, t in enumerate(timesteps):
        style_features = style.features(extract_features, t)  # K_s, V_s
        content_features = content.features(extract_features, t) if content else None  # Q_c

        for _ in range(num_optimization_steps):
            current = extract_features(latents, t)  # Q, K, V and Self-Attn(Q, K, V)
            loss_style = attention_distillation_loss(current, style_features, attend)
            loss_content = torch.zeros_like(loss_style)
            if content and content_features:
                loss_content = content_loss(current, content_features) * moved(latents, content)
            loss = loss_style + content_weight * loss_content

            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            losses.append((loss_style.detach(), loss_content.detach()))
        on_step_end(step)

    return latents.detach(), LossTrace.of(losses, len(latents))


def moved(latents: Float[Tensor, "b c h w"], content: References) -> Float[Tensor, " b"]:
    """1 for items that have left their content latents, 0 for those that still sit on them.

    At the content itself Q equals Q_c and the content loss is zero, with a zero subgradient. Two
    passes of different shapes round differently there, and L1 would turn that rounding into
    gradients of full size; so the zero is stated, not computed.
    """
    return (latents.detach() != content.one_per_item()).flatten(1).any(1).float()
