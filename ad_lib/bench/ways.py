"""The ways of rendering that are compared: the literal loop, and ours with ever more techniques."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

from torch import Tensor

from ad_lib.algorithm.dynamics import Dynamics, Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.multidiffusion import Views
from ad_lib.algorithm.noise import NOISE, Noise
from ad_lib.baselines.literal import (
    LiteralNetwork,
    Losses,
    expand_literally,
    label_mask,
    no_mask,
    optimize_literally,
    sample_literally,
)
from ad_lib.batch import plan_batches
from ad_lib.encoded import EncodedPictures
from ad_lib.finish import finished
from ad_lib.inputs import BatchInputs
from ad_lib.model.backbone import NUM_DEFAULT_LAYERS, Backbone
from ad_lib.pictures.masks import label_map
from ad_lib.presets import find_preset
from ad_lib.requests import Request, fit_role
from ad_lib.settings import Settings
from ad_lib.synthesis import ALGORITHMS


class Rendered(NamedTuple):
    """What became of one picture.

    Attributes:
        latents: (c, h, w) where it ended.
        first_loss: of the style, before the first Adam step.
    """

    latents: Tensor
    first_loss: float


Way = Callable[[Backbone, Sequence[Request], int | None], list[Rendered]]
"""Renders requests, decoding included, or only so many of their first timesteps."""


def literally(
    backbone: Backbone, requests: Sequence[Request], num_steps: int | None = None
) -> list[Rendered]:
    """One picture after the other, as the published implementation does it."""
    return [_one_literally(backbone, request, num_steps) for request in requests]


@dataclass(frozen=True)
class InBatches:
    """Ours: batches of requests.

    Attributes:
        batch_size: pictures that run together at most.
        shares: whether a batch holds each of its references once, or each item its own.
    """

    batch_size: int
    shares: bool = True

    def __call__(
        self, backbone: Backbone, requests: Sequence[Request], num_steps: int | None = None
    ) -> list[Rendered]:
        """Renders every request, in order."""
        found: dict[int, Rendered] = {}
        encoded = EncodedPictures()
        cut = backbone if num_steps is None else cast(Backbone, _FirstSteps(backbone, num_steps))
        for batch in plan_batches(requests, lambda one: self.batch_size):
            chosen = [requests[position] for position in batch]
            noise = [_noise(request) for request in chosen]
            if self.shares:
                inputs = BatchInputs(cut, chosen, noise, encoded)
            else:
                inputs = _NothingShared(cut, chosen, noise)
            found.update(zip(batch, _one_batch(inputs), strict=True))
        return [found[position] for position in range(len(requests))]


def _noise(request: Request) -> Noise:
    return NOISE[request.settings.noise](request.seed)


def _one_batch(inputs: BatchInputs) -> list[Rendered]:
    run = ALGORITHMS[find_preset(inputs.requests[0].task).algorithm]
    latents, trace = run(inputs, lambda num_done, num_steps: None)
    finished(inputs, latents)
    first = trace.style[0].tolist() if len(trace.style) else [0.0] * len(latents)
    return [Rendered(one, loss) for one, loss in zip(latents, first, strict=True)]


class _NothingShared(BatchInputs):
    """A batch whose items each have references of their own, equal ones too."""

    @cached_property
    def style(self) -> References:
        return _joined([one.style for one in self._alone])

    @cached_property
    def content(self) -> References | None:
        contents = [one.content for one in self._alone]
        return _joined([one for one in contents if one is not None]) if all(contents) else None

    @cached_property
    def _alone(self) -> list[BatchInputs]:
        pairs = zip(self.requests, self.noise, strict=True)
        return [BatchInputs(self.backbone, [request], [noise]) for request, noise in pairs]


def _joined(references: Sequence[References]) -> References:
    latents: list[Tensor] = []
    index: list[Sequence[int]] = []
    for one in references:
        index += [[len(latents) + row for row in item] for item in one.index]
        latents += one.latents
    return References(latents, index, references[0].weights)


class _FirstSteps:
    """A backbone whose sampler has only the first of its timesteps."""

    def __init__(self, backbone: Backbone, num_steps: int) -> None:
        self._backbone = backbone
        self._num_steps = num_steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def dynamics(
        self, num_inference_steps: int, image_size: tuple[int, int] | None = None
    ) -> Dynamics:
        whole = self._backbone.dynamics(num_inference_steps, image_size)
        return cast(Dynamics, _Beginning(whole, whole.timesteps[: self._num_steps]))


class _Beginning:
    """A sampler that ends before its time."""

    def __init__(self, whole: Dynamics, timesteps: Sequence[Timestep]) -> None:
        self._whole = whole
        self.timesteps = timesteps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


def _one_literally(backbone: Backbone, request: Request, num_steps: int | None) -> Rendered:
    noise = _noise(request)
    inputs = BatchInputs(backbone, [request], [noise])
    algorithm = find_preset(request.task).algorithm
    latents, losses = _LITERAL[algorithm](inputs, noise, num_steps)
    finished(inputs, latents)
    return Rendered(latents[0], losses[0].style if losses else 0.0)


def _optimized(
    inputs: BatchInputs, noise: Noise, num_steps: int | None
) -> tuple[Tensor, list[Losses]]:
    settings, content = inputs.settings, inputs.content
    kept = None if content is None else content.one_per_item()
    return optimize_literally(
        _network(inputs, inputs.image_size),
        _scheduler(inputs).timesteps[:num_steps],
        inputs.initial_latents if kept is None else kept,
        _style(inputs),
        kept,
        settings,
        mask=_mask(inputs),
    )


def _sampled(
    inputs: BatchInputs, noise: Noise, num_steps: int | None
) -> tuple[Tensor, list[Losses]]:
    content = inputs.content
    return sample_literally(
        _network(inputs, inputs.image_size),
        _scheduler(inputs),
        inputs.initial_latents,
        _style(inputs),
        noise,
        _prompts(inputs),
        inputs.settings,
        None if content is None else content.one_per_item(),
        num_steps=num_steps,
    )


def _expanded(
    inputs: BatchInputs, noise: Noise, num_steps: int | None
) -> tuple[Tensor, list[Losses]]:
    settings, latents = inputs.settings, inputs.initial_latents
    views = Views(size=settings.view_size, stride=settings.view_stride, shift=settings.view_shift)
    height, width = latents.shape[-2:]
    factor = inputs.backbone.vae_scale_factor
    shape = views.shape(height, width)
    latents, losses = expand_literally(
        _network(inputs, (shape[0] * factor, shape[1] * factor)),
        _scheduler(inputs),
        latents,
        _style(inputs),
        noise,
        _prompts(inputs),
        settings,
        lambda step: views.at(height, width, step),
        shape,
        num_steps=num_steps,
    )
    return latents, [_of_all_views(losses, len(views.at(height, width)), settings), *losses]


def _of_all_views(losses: Sequence[Losses], num_views: int, settings: Settings) -> Losses:
    """The first losses of the first step, from those of its batches of views."""
    sizes = [
        min(settings.view_batch_size, num_views - start)
        for start in range(0, num_views, settings.view_batch_size)
    ]
    firsts = losses[:: settings.num_optimization_steps][: len(sizes)]
    weighted = (size * loss.style for size, loss in zip(sizes, firsts, strict=True))
    return Losses(sum(weighted) / num_views, 0.0)


_LITERAL = {"optimize": _optimized, "sample": _sampled, "expand": _expanded}


def _network(inputs: BatchInputs, image_size: tuple[int, int]) -> LiteralNetwork:
    backbone, settings = inputs.backbone, inputs.settings
    total = len(backbone.layers)
    start, stop = settings.layers or (total - NUM_DEFAULT_LAYERS, total)
    layers: Any = backbone.layers[start:stop]
    return LiteralNetwork(backbone.denoiser, layers, backbone.null_prompt, image_size)


def _scheduler(inputs: BatchInputs) -> Any:
    scheduler = copy.deepcopy(inputs.backbone.scheduler)
    scheduler.set_timesteps(inputs.settings.num_inference_steps, device=inputs.backbone.device)
    return scheduler


def _style(inputs: BatchInputs) -> Tensor:
    """(s, c, h, w) the one item's references."""
    return References(inputs.style.latents, [[row] for row in inputs.style.index[0]]).one_per_item()


def _prompts(inputs: BatchInputs) -> Any:
    request, backbone = inputs.requests[0], inputs.backbone
    negative = backbone.encode_negative_prompt(request.negative_prompt)
    return backbone.encode_prompt(request.prompt), negative


def _mask(inputs: BatchInputs) -> Any:
    request = inputs.requests[0]
    if request.source_mask is None or request.target_mask is None:
        return no_mask
    masks = {"source_mask": request.source_mask, "target_mask": request.target_mask}
    source, target = (
        label_map(fit_role(role, mask, request.width, request.height, request.settings))
        for role, mask in masks.items()
    )
    device = inputs.backbone.device
    return label_mask(source.to(device), target.to(device))
