"""Many requests on one backbone: grouped so that references are shared, returned in order.

Invariant: what an item becomes does not depend on its batch-mates, up to rounding.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ad_lib.backbone import Backbone
from ad_lib.errors import NumericsError
from ad_lib.features import References
from ad_lib.guide import sample_with_distillation
from ad_lib.images import fit_image, image_to_tensor, pad_to_multiple, tensor_to_image
from ad_lib.noise import Noise, draw_together, seeded_noise
from ad_lib.optimize import LossTrace, optimize_latents
from ad_lib.presets import find_preset
from ad_lib.requests import Request


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One picture and how it came about.

    Attributes:
        image: 8-bit RGB, of exactly the size that was asked for.
        style_losses, content_losses: before each Adam step.
        seconds: this item's share of its batch's time.
        seed: the request's seed.
        peak_memory_bytes: what its batch held on the accelerator at most; None on a CPU.
        degraded: whether a fallback changed pixels.
    """

    image: Image.Image
    style_losses: tuple[float, ...]
    content_losses: tuple[float, ...]
    seconds: float
    seed: int
    peak_memory_bytes: int | None = None
    degraded: bool = False


def render(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    batch_size: int = 4,
    on_step_end: Callable[[int, int], None] = lambda items, steps: None,
    noise: Callable[[int], Noise] = seeded_noise,
) -> list[Result]:
    """Renders every request, in order.

    Args:
        backbone: the frozen model.
        requests: any mixture of tasks and sizes; those that can share a batch do.
        batch_size: items optimised together at most; memory grows with it.
        on_step_end: told after each timestep how many items advanced, and the timesteps of each.
        noise: makes an item's noise from its seed.

    Raises:
        NumericsError: an item's latents stopped being finite.
        RequestError: the settings do not fit this backbone.
    """
    results: dict[int, Result] = {}
    for batch in plan_batches(requests, batch_size):
        chosen = [requests[position] for position in batch]
        rendered = _render_batch(backbone, chosen, on_step_end, noise)
        results.update(zip(batch, rendered, strict=True))
    return [results[position] for position in range(len(requests))]


def plan_batches(requests: Sequence[Request], batch_size: int) -> list[list[int]]:
    """Positions of the requests, cut into batches that can run together.

    Items of a batch agree in algorithm, size, settings and number of styles; items with the same
    styles, then the same content, stand side by side, so that a batch holds few distinct
    references.
    """
    pictures = _PictureDigests()

    def kind(position: int) -> tuple[str, ...]:
        request = requests[position]
        shape = (request.width, request.height, len(request.styles), request.content is not None)
        return (find_preset(request.task).algorithm, repr(shape), repr(request.settings))

    def neighbours(position: int) -> tuple[object, ...]:
        request = requests[position]
        contents = (request.content,) if request.content is not None else ()
        return (*map(pictures.digest, (*request.styles, *contents)), request.seed)

    order = sorted(range(len(requests)), key=lambda p: (kind(p), neighbours(p), p))
    batches: list[list[int]] = []
    for position in order:
        if batches and len(batches[-1]) < batch_size and kind(batches[-1][0]) == kind(position):
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def _render_batch(
    backbone: Backbone,
    requests: Sequence[Request],
    on_step_end: Callable[[int, int], None],
    noise: Callable[[int], Noise],
) -> list[Result]:
    started = time.perf_counter()
    first = requests[0]
    latents, trace = _compute_latents(
        backbone,
        requests,
        [noise(request.seed) for request in requests],
        lambda step: on_step_end(len(requests), first.settings.num_inference_steps),
    )
    _check_finite(latents)
    images = backbone.decode(latents)[..., : first.height, : first.width]
    _check_finite(images)
    seconds = (time.perf_counter() - started) / len(requests)
    return _results(requests, images, trace, seconds)


def _compute_latents(
    backbone: Backbone,
    requests: Sequence[Request],
    noise: Sequence[Noise],
    on_step_end: Callable[[int], None],
) -> tuple[Tensor, LossTrace]:
    """The batch's finished latents, by the algorithm that its task names."""
    first = requests[0]
    settings = first.settings
    image_size = (first.height, first.width)
    extract = backbone.feature_extractor(settings.layers, image_size)
    timesteps = backbone.timesteps(settings.num_inference_steps)
    style = _references(backbone, [request.styles for request in requests], first)

    if find_preset(first.task).algorithm == "sample":
        return sample_with_distillation(
            backbone.noise_predictor(image_size=image_size),
            extract,
            backbone.scheduler,
            _initial_noise(backbone, first, noise),
            style,
            noise,
            num_optimization_steps=settings.num_optimization_steps,
            learning_rate=settings.learning_rate,
            attn_scale=settings.attn_scale,
            on_step_end=on_step_end,
        )

    contents = [(request.content,) for request in requests if request.content is not None]
    content = _references(backbone, contents, first) if contents else None
    return optimize_latents(
        extract,
        timesteps,
        content.per_item().flatten(0, 1) if content else _initial_noise(backbone, first, noise),
        style,
        content,
        num_optimization_steps=settings.num_optimization_steps,
        learning_rate=settings.learning_rate,
        content_weight=settings.content_weight,
        attn_scale=settings.attn_scale,
        on_step_end=on_step_end,
    )


def _results(
    requests: Sequence[Request], images: Tensor, trace: LossTrace, seconds: float
) -> list[Result]:
    style, content = trace.style.T.tolist(), trace.content.T.tolist()
    return [
        Result(
            image=tensor_to_image(images[row]),
            style_losses=tuple(style[row]),
            content_losses=tuple(content[row]),
            seconds=seconds,
            seed=request.seed,
        )
        for row, request in enumerate(requests)
    ]


def _references(
    backbone: Backbone, images: Sequence[Sequence[Image.Image]], like: Request
) -> References:
    """Encodes each distinct picture once, at the size of the result."""
    pictures = _PictureDigests()
    rows: dict[str, int] = {}
    latents: list[Tensor] = []
    for image in (image for of_item in images for image in of_item):
        if pictures.digest(image) not in rows:
            rows[pictures.digest(image)] = len(latents)
            latents.append(_encode(backbone, fit_image(image, like.width, like.height)))
    index = [[rows[pictures.digest(image)] for image in of_item] for of_item in images]
    return References(torch.cat(latents), torch.tensor(index, device=backbone.device))


def _encode(backbone: Backbone, image: Image.Image) -> Tensor:
    return backbone.encode(pad_to_multiple(image_to_tensor(image), backbone.scale_factor))


def _initial_noise(backbone: Backbone, like: Request, noise: Sequence[Noise]) -> Tensor:
    factor = backbone.scale_factor
    shape = (backbone.latent_channels, -(-like.height // factor), -(-like.width // factor))
    return draw_together(noise, "init", shape).to(backbone.device)


def _check_finite(values: Tensor) -> None:
    finite = values.isfinite().flatten(1).all(1)
    if not finite.all():
        raise NumericsError(
            f"{int((~finite).sum())} of {len(finite)} latents or pictures stopped being finite; "
            "lower the learning rate or use float32"
        )


class _PictureDigests:
    """Tells pictures apart by their pixels; each object is hashed once."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}

    def digest(self, image: Image.Image) -> str:
        if id(image) not in self._known:
            pixels = hashlib.sha256(f"{image.mode} {image.size} ".encode())
            pixels.update(image.tobytes())
            self._known[id(image)] = pixels.hexdigest()
        return self._known[id(image)]
