"""Which algorithm a task runs, and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ad_lib.algorithm.guide import Distillation, sample_with_distillation
from ad_lib.algorithm.multidiffusion import Views, expand_with_distillation
from ad_lib.algorithm.optimize import LossTrace, optimize_latents
from ad_lib.inputs import BatchInputs
from ad_lib.model.backbone import Backbone
from ad_lib.model.seamless import seamless, wrapped_axes
from ad_lib.presets import Algorithm
from ad_lib.settings import Seamless, Settings

Synthesize = Callable[[BatchInputs, Callable[[int], None]], tuple[Tensor, LossTrace]]


def optimized(inputs: BatchInputs, on_step_end: Callable[[int], None]) -> tuple[Tensor, LossTrace]:
    """A batch's finished latents by Algorithm 1."""
    settings = inputs.settings
    with _seamless(inputs.backbone, settings.seamless):
        content = inputs.content
        return optimize_latents(
            inputs.backbone.feature_extractor(settings.layers, inputs.image_size),
            ordered_timesteps(inputs.backbone, settings),
            content.one_per_item() if content else inputs.initial_latents,
            inputs.style,
            content,
            num_optimization_steps=settings.num_optimization_steps,
            learning_rate=settings.learning_rate,
            content_weight=settings.content_weight,
            attend=inputs.attend,
            on_step_end=on_step_end,
        )


def sampled(inputs: BatchInputs, on_step_end: Callable[[int], None]) -> tuple[Tensor, LossTrace]:
    """A batch's finished latents by Algorithm 2."""
    settings, backbone = inputs.settings, inputs.backbone
    with _seamless(backbone, settings.seamless):
        backbone.timesteps(settings.num_inference_steps)
        return sample_with_distillation(
            inputs.noise_predictor(),
            backbone.feature_extractor(settings.layers, inputs.image_size),
            backbone.scheduler,
            inputs.initial_latents,
            inputs.style,
            inputs.noise,
            distillation(inputs),
            inputs.content,
            on_step_end=on_step_end,
        )


def expanded(inputs: BatchInputs, on_step_end: Callable[[int], None]) -> tuple[Tensor, LossTrace]:
    """One item's finished latents by MultiDiffusion."""
    settings, backbone = inputs.settings, inputs.backbone
    (noise,) = inputs.noise
    latents = inputs.initial_latents
    view = [min(settings.view_size, side) for side in latents.shape[-2:]]
    view_pixels = (view[0] * backbone.vae_scale_factor, view[1] * backbone.vae_scale_factor)
    with _seamless(backbone, _axes_inside_a_view(settings, latents)):
        backbone.timesteps(settings.num_inference_steps)
        return expand_with_distillation(
            inputs.noise_predictor(view_pixels),
            backbone.feature_extractor(settings.layers, view_pixels),
            backbone.scheduler,
            latents,
            inputs.style,
            noise,
            distillation(inputs),
            views=Views(
                size=settings.view_size,
                stride=settings.view_stride,
                shift=settings.view_shift,
                wrap=wrapped_axes(settings.seamless),
            ),
            view_batch_size=settings.view_batch_size,
            on_step_end=on_step_end,
        )


ALGORITHMS: Mapping[Algorithm, Synthesize] = {
    "optimize": optimized,
    "sample": sampled,
    "expand": expanded,
}


def distillation(inputs: BatchInputs) -> Distillation:
    """What the sampler does between two of its steps."""
    settings = inputs.settings
    return Distillation(
        num_optimization_steps=settings.num_optimization_steps,
        learning_rate=settings.learning_rate,
        content_weight=settings.content_weight,
        attend=inputs.attend,
        adain=settings.adain,
        start_time=settings.start_time,
        variant=settings.variant,
    )


def ordered_timesteps(backbone: Backbone, settings: Settings) -> Tensor:
    """(T,) Algorithm 1's timesteps in the order that the settings name."""
    timesteps = backbone.timesteps(settings.num_inference_steps)
    if settings.timesteps == "ascending":
        return timesteps.flip(0)
    if settings.timesteps == "random":  # one order for everybody: items do not depend on it
        order = torch.randperm(len(timesteps), generator=torch.Generator().manual_seed(0))
        return timesteps[order.to(timesteps.device)]
    if isinstance(settings.timesteps, int):
        return torch.full_like(timesteps, settings.timesteps)
    return timesteps


def _seamless(backbone: Backbone, axes: Seamless) -> AbstractContextManager[None]:
    networks = [backbone.unet, backbone.vae, backbone.controlnet]
    return seamless(*(one for one in networks if one is not None), axes=axes)


def _axes_inside_a_view(settings: Settings, latents: Tensor) -> Seamless:
    """Where a view is as long as the picture, it is the network that must wrap around."""
    rows, columns = (
        wraps and side <= settings.view_size
        for wraps, side in zip(wrapped_axes(settings.seamless), latents.shape[-2:], strict=True)
    )
    names: Mapping[tuple[bool, bool], Seamless] = {
        (False, False): "none",
        (False, True): "x",
        (True, False): "y",
        (True, True): "both",
    }
    return names[rows, columns]
