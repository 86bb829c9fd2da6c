"""Algorithm 2: sample from the model while distilling the style's attention at every timestep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from ad_lib.features import ExtractFeatures, References
from ad_lib.losses import attention_distillation_loss
from ad_lib.noise import Noise, draw_together
from ad_lib.optimize import LossTrace, stacked


class PredictNoise(Protocol):
    """The frozen network as a denoiser: the noise in latents at a timestep, guidance included."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor
    ) -> Float[Tensor, "b c h w"]: ...


def sample_with_distillation(
    predict_noise: PredictNoise,
    extract_features: ExtractFeatures,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c h w"],
    style: References,
    noise: Sequence[Noise],
    *,
    num_optimization_steps: int,
    learning_rate: float,
    attn_scale: float = 1.0,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b c h w"], LossTrace]:
    """Guided sampling: Algorithm 2 of Zhou et al. 2025 (arXiv:2502.20235), as they released it.

    Args:
        predict_noise: the frozen network under the prompt.
        extract_features: the same network, conditioned on the empty prompt.
        scheduler: DDIM with its timesteps set; the last step ends at timestep 0.
        latents: z_T, unit Gaussian noise.
        style: z_s, the clean latents of the references.
        noise: of each item; `style` is drawn anew at every timestep.
        num_optimization_steps: Adam steps after each step of the sampler, each time from a new
            state; 0 is plain DDIM.
        learning_rate: of Adam; betas 0.9 and 0.999.
        attn_scale: factor on the query inside the distilled attention.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The sampled latents z_0, detached, and the losses before each Adam step.
    """
    trace = []
    for step, t in enumerate(scheduler.timesteps):  # on the CPU, so that no step waits for the GPU
        with torch.no_grad():
            noise_pred = predict_noise(latents, t)
            latents = _ddim_step(scheduler, noise_pred, t, latents)
        t = previous_timestep(scheduler, t)

        style_features = noised(style, scheduler, t, noise).features(extract_features, t)
        latents = latents.detach().requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=learning_rate)
        for _ in range(num_optimization_steps):
            current = extract_features(latents, t)
            loss = attention_distillation_loss(current, style_features, attn_scale=attn_scale)

            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            trace.append((loss.detach(), torch.zeros_like(loss)))
        latents = latents.detach()
        on_step_end(step)

    return latents, LossTrace(*stacked(trace, latents))


def previous_timestep(scheduler: DDIMScheduler, timestep: Tensor) -> Tensor:
    """The timestep whose noise level a DDIM step from `timestep` arrives at; 0 after the last."""
    config: Any = scheduler.config
    assert scheduler.num_inference_steps, "the scheduler's timesteps are not set"
    return (timestep - config.num_train_timesteps // scheduler.num_inference_steps).clamp(min=0)


def noised(
    style: References, scheduler: DDIMScheduler, timestep: Tensor, noise: Sequence[Noise]
) -> References:
    """Every item's references under that item's own noise, at the noise level of `timestep`."""
    clean = style.per_item()
    drawn = draw_together(noise, "style", clean.shape[1:]).to(clean)
    mixed: Any = scheduler.add_noise(clean, drawn, timestep[None])  # pyright: ignore
    index = torch.arange(clean.shape[0] * clean.shape[1], device=clean.device)
    return References(mixed.flatten(0, 1), index.view(clean.shape[:2]))


def _ddim_step(
    scheduler: DDIMScheduler, noise_pred: Tensor, timestep: Tensor, latents: Tensor
) -> Tensor:
    step: Any = scheduler.step(noise_pred, int(timestep), latents, return_dict=False)  # pyright: ignore
    return step[0]
