"""Algorithm 2: sample from the model while distilling the style's attention at every timestep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.features import ExtractFeatures, References
from ad_lib.algorithm.losses import (
    Attend,
    attention_distillation_loss,
    content_loss,
    distilled_attention,
)
from ad_lib.algorithm.noise import Noise
from ad_lib.algorithm.optimize import LossTrace


@runtime_checkable
class PredictNoise(Protocol):
    """The frozen network as a denoiser: the noise in latents at a timestep, guidance included."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor
    ) -> Float[Tensor, "b c h w"]: ...


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What happens between two steps of the sampler.

    Attributes:
        num_optimization_steps: Adam steps, each time from a new state; 0 is plain DDIM.
        learning_rate: of Adam; betas 0.9 and 0.999.
        content_weight: lambda.
        attend: how the latents' queries attend to the style.
        adain: first give the latents the noised style's channel statistics.
        start_time: only at timesteps below this.
        variant: whether AdaIN's style has noise of its own (`reference`, as released) or the noise
            under which the features are seen (`paper`, as Algorithm 2 is written).
    """

    num_optimization_steps: int
    learning_rate: float
    content_weight: float = 0.0
    attend: Attend = distilled_attention
    adain: bool = False
    start_time: int = 999
    variant: Literal["reference", "paper"] = "reference"


def sample_with_distillation(
    predict_noise: PredictNoise,
    extract_features: ExtractFeatures,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c h w"],
    style: References,
    noise: Sequence[Noise],
    distillation: Distillation,
    content: References | None = None,
    *,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b c h w"], LossTrace]:
    """Guided sampling: Algorithm 2 of Zhou et al. 2025 (arXiv:2502.20235), as they released it.

    Args:
        predict_noise: the frozen network under the prompt.
        extract_features: the same network, conditioned on the empty prompt.
        scheduler: DDIM with its timesteps set; the last step ends at timestep 0.
        latents: z_T, unit Gaussian noise.
        style: z_s, the clean latents of the references.
        noise: of each item; drawn anew at every timestep.
        distillation: what happens at every timestep.
        content: z_c, the clean latents of each item's content, one per item.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The sampled latents z_0, detached, and the losses before each Adam step.
    """
    losses = []
    for step, t in enumerate(scheduler.timesteps):  # on the CPU, so that no step waits for the GPU
        latents = denoised(predict_noise, scheduler, latents, t)
        if t < distillation.start_time:
            latents, of_step = distilled(
                extract_features, scheduler, latents, t, style, noise, distillation, content
            )
            losses += of_step
        on_step_end(step)
    return latents, LossTrace.of(losses, len(latents))


@torch.no_grad()
def denoised(
    predict_noise: PredictNoise,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c h w"],
    timestep: Tensor,
) -> Float[Tensor, "b c h w"]:
    """z_t -> z_t': one deterministic step of DDIM."""
    noise_pred = predict_noise(latents, timestep)
    step: Any = scheduler.step(noise_pred, int(timestep), latents, return_dict=False)  # pyright: ignore
    return step[0]


def distilled(
    extract_features: ExtractFeatures,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c h w"],
    timestep: Tensor,
    style: References,
    noise: Sequence[Noise],
    distillation: Distillation,
    content: References | None = None,
) -> tuple[Float[Tensor, "b c h w"], list[tuple[Tensor, Tensor]]]:
    """Moves z_t' towards the style's attention; the network stays frozen.

    Args:
        extract_features: the frozen network, conditioned on the empty prompt.
        scheduler: DDIM with its timesteps set.
        latents: z_t', just denoised from `timestep`.
        timestep: t, where the denoising step came from.
        style: z_s, clean.
        noise: of each item.
        distillation: what happens.
        content: z_c, clean.

    Returns:
        The moved latents, detached, and the style and content loss before each Adam step.
    """
    losses: list[tuple[Tensor, Tensor]] = []
    if distillation.num_optimization_steps == 0:
        return latents, losses
    t = previous_timestep(scheduler, timestep)

    # See the references at the noise level of the latents.
    noised_style = noised(style, scheduler, t, noise, "style")
    if distillation.adain:
        own_noise = distillation.variant == "reference"
        target = noised(style, scheduler, t, noise, "adain") if own_noise else noised_style
        latents = adain(latents, target)
    style_features = noised_style.features(extract_features, t)
    content_features = None
    if content:
        noised_content = noised(content, scheduler, t, noise, "content")
        content_features = noised_content.features(extract_features, t)

    latents = latents.detach().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=distillation.learning_rate)
    for _ in range(distillation.num_optimization_steps):
        current = extract_features(latents, t)
        loss_style = attention_distillation_loss(current, style_features, distillation.attend)
        loss_content = torch.zeros_like(loss_style)
        if content_features:
            loss_content = content_loss(current, content_features)
        loss = loss_style + distillation.content_weight * loss_content

        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append((loss_style.detach(), loss_content.detach()))
    return latents.detach(), losses


def previous_timestep(scheduler: DDIMScheduler, timestep: Tensor) -> Tensor:
    """The timestep whose noise level a DDIM step from `timestep` arrives at; 0 after the last."""
    config: Any = scheduler.config
    assert scheduler.num_inference_steps, "the scheduler's timesteps are not set"
    return (timestep - config.num_train_timesteps // scheduler.num_inference_steps).clamp(min=0)


def noised(
    references: References,
    scheduler: DDIMScheduler,
    timestep: Tensor,
    noise: Sequence[Noise],
    tag: str,
) -> References:
    """Every item's references under that item's own noise, at the noise level of `timestep`.

    Items that share their noise and their references see the same draw, made once.
    """
    latents: list[Tensor] = []
    rows: dict[tuple[int, ...], list[int]] = {}
    index = []
    for item, draw in zip(references.index, noise, strict=True):
        wanted = (id(draw), *item)
        if wanted not in rows:
            rows[wanted] = list(range(len(latents), len(latents) + len(item)))
            for row in item:
                clean = references.latents[row]
                drawn = draw(tag, clean.shape).to(clean)
                mixed: Any = scheduler.add_noise(clean, drawn, timestep[None])  # pyright: ignore
                latents.append(mixed)
        index.append(rows[wanted])
    return References(latents, index, references.weights)


def noised_start(
    style: References, scheduler: DDIMScheduler, noise: Sequence[Noise]
) -> Float[Tensor, "b c h w"]:
    """z_T that is each item's one style under all the noise that the model knows."""
    config: Any = scheduler.config
    last = torch.tensor(config.num_train_timesteps - 1)
    return noised(style, scheduler, last, noise, "init").one_per_item()
