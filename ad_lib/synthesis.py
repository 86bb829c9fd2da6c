"""Which algorithm does a task run, and with which arguments?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from ad_lib.algorithm.compiled_step import CompiledDistiller
from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.guide import sample_with_distillation
from ad_lib.algorithm.multidiffusion import Views, expand_with_distillation
from ad_lib.algorithm.optimize import optimize_latents
from ad_lib.algorithm.seen import Show, UnderNoise, clean
from ad_lib.algorithm.step import Distiller, loss_scale
from ad_lib.algorithm.trace import LossTrace
from ad_lib.inputs import BatchInputs
from ad_lib.model.backbone import Backbone
from ad_lib.model.compiling import Compiled
from ad_lib.model.denoise import NoisePredictor
from ad_lib.model.seamless import wrapped_axes
from ad_lib.settings import Seamless, Settings

GOLDEN_RATIO = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, fill the range from 0 to 1 evenly, however many there are."""

OnStepEnd = Callable[[int, int], None]
"""Told how many steps are done since the last time, and how many each item takes in all."""

Synthesize = Callable[[BatchInputs, OnStepEnd], tuple[Tensor, LossTrace]]


def optimized(inputs: BatchInputs, on_step_end: OnStepEnd) -> tuple[Tensor, LossTrace]:
    """A batch's finished latents by Algorithm 1."""
    settings = inputs.settings
    with inputs.backbone.seamless(settings.seamless), _distiller(inputs) as distiller:
        content = inputs.content
        timesteps = ordered_timesteps(inputs.backbone, settings, inputs.image_size)
        return optimize_latents(
            distiller,
            timesteps,
            content.one_per_item() if content else inputs.initial_latents,
            inputs.style,
            content,
            show=_shown(inputs),
            on_step_end=lambda step: on_step_end(1, len(timesteps)),
        )


def sampled(inputs: BatchInputs, on_step_end: OnStepEnd) -> tuple[Tensor, LossTrace]:
    """A batch's finished latents by Algorithm 2."""
    settings, backbone = inputs.settings, inputs.backbone
    with backbone.seamless(settings.seamless), _distiller(inputs) as distiller:
        dynamics = backbone.dynamics(settings.num_inference_steps, inputs.image_size)
        return sample_with_distillation(
            _predictor(inputs),
            distiller,
            dynamics,
            inputs.initial_latents,
            inputs.style,
            inputs.noise,
            inputs.content,
            on_step_end=lambda step: on_step_end(1, len(dynamics.timesteps)),
        )


def expanded(inputs: BatchInputs, on_step_end: OnStepEnd) -> tuple[Tensor, LossTrace]:
    """One item's finished latents by MultiDiffusion; its steps are those of single views."""
    settings, backbone = inputs.settings, inputs.backbone
    (noise,) = inputs.noise
    latents = inputs.initial_latents
    height, width = latents.shape[-2:]
    views = Views(
        size=settings.view_size,
        stride=settings.view_stride,
        shift=settings.view_shift,
        wrap=wrapped_axes(settings.seamless),
        batch_size=settings.view_batch_size,
    )
    rows, columns = views.shape(height, width)
    view_pixels = (rows * backbone.vae_scale_factor, columns * backbone.vae_scale_factor)
    axes = axes_inside_a_view(settings, latents)
    dynamics = backbone.dynamics(settings.num_inference_steps, view_pixels)
    total = views.count(height, width, len(dynamics.timesteps))
    with backbone.seamless(axes), _distiller(inputs, view_pixels) as distiller:
        return expand_with_distillation(
            _predictor(inputs, view_pixels),
            distiller,
            dynamics,
            latents,
            inputs.style,
            noise,
            views=views,
            on_views_end=lambda num_views: on_step_end(num_views, total),
        )


ALGORITHMS: Mapping[str, Synthesize] = {
    "optimize": optimized,
    "sample": sampled,
    "expand": expanded,
}


def _shown(inputs: BatchInputs) -> Show:
    """What optimisation looks at, by the setting `latents`."""
    if inputs.settings.latents == "clean":
        return clean
    steps = inputs.settings.num_inference_steps
    return UnderNoise(inputs.backbone.dynamics(steps, inputs.image_size), inputs.noise)


@contextmanager
def _distiller(
    inputs: BatchInputs, image_size: tuple[int, int] | None = None
) -> Iterator[Distiller]:
    """The batch's optimisation step, for (height, width) pixels or the result's."""
    settings = inputs.settings
    backbone, size = inputs.backbone, image_size or inputs.image_size
    extract = backbone.feature_extractor(settings.layers, size)
    compile_ = _compilation(inputs, image_size) if _graphs_recur(inputs) else None
    with extract:
        values = (extract, settings, inputs.regions, loss_scale(backbone.dtype))
        if compile_ is None:
            yield Distiller(*values)
        else:
            yield CompiledDistiller(*values, compile=compile_)


def _graphs_recur(inputs: BatchInputs) -> bool:
    """Whether other batches may use the graph of this one's optimisation step.

    Each mask makes a graph of its own, and so does each size of a batch that items leave; compiling
    takes minutes, so that `auto` leaves such steps as they are written. A step that puts latents
    under noise is never compiled.
    """
    if inputs.settings.latents == "noised":
        return False
    is_asked_for = inputs.backbone.chosen_techniques.compile != "auto"
    never_shrinks = inputs.settings.early_stopping_patience is None
    return is_asked_for or (inputs.regions is None and never_shrinks)


def _predictor(inputs: BatchInputs, image_size: tuple[int, int] | None = None) -> NoisePredictor:
    """The denoiser, for (height, width) pixels of a view or of the result."""
    predictor = inputs.noise_predictor(image_size)
    compile_ = _compilation(inputs, image_size)
    return predictor if compile_ is None else predictor.compiled(compile_)


def _compilation(inputs: BatchInputs, image_size: tuple[int, int] | None) -> Compiled | None:
    batch = inputs.settings.view_batch_size if image_size else len(inputs.requests)
    cells = (side // inputs.backbone.vae_scale_factor for side in image_size or inputs.image_size)
    return inputs.backbone.compilation(batch * prod(cells))


def ordered_timesteps(
    backbone: Backbone, settings: Settings, image_size: tuple[int, int] | None = None
) -> Sequence[Timestep]:
    """Algorithm 1's timesteps in the order that the settings name."""
    timesteps = backbone.dynamics(settings.num_inference_steps, image_size).timesteps
    if settings.timesteps == "ascending":
        return timesteps[::-1]
    if settings.timesteps == "random":  # one order for everybody: items do not depend on it
        order = torch.randperm(len(timesteps), generator=torch.Generator().manual_seed(0))
        return [timesteps[place] for place in order.tolist()]
    if settings.timesteps == "spread":
        leaps = torch.arange(len(timesteps), dtype=torch.float64) * GOLDEN_RATIO % 1
        return [timesteps[place] for place in leaps.argsort().argsort().tolist()]
    if isinstance(settings.timesteps, int):
        fixed = torch.tensor(settings.timesteps, device=backbone.device)
        return [Timestep(settings.timesteps, fixed)] * len(timesteps)
    return timesteps


def axes_inside_a_view(settings: Settings, latents: Tensor) -> Seamless:
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
