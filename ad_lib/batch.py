"""Which requests are rendered together, and what comes of each?

Invariant: what an item becomes does not depend on its batch-mates, up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ad_lib.algorithm.noise import NOISE, Noise
from ad_lib.baselines import BASELINES, Compare
from ad_lib.encoded import EncodedPictures
from ad_lib.errors import NumericsError
from ad_lib.finish import finished
from ad_lib.inputs import BatchInputs
from ad_lib.matching import matches_of_batch
from ad_lib.model.backbone import Backbone
from ad_lib.model.room import room
from ad_lib.pictures.hashes import picture_digest
from ad_lib.pictures.tensors import bands, tensor_to_image
from ad_lib.presets import find_preset
from ad_lib.requests import Request
from ad_lib.settings import Settings
from ad_lib.synthesis import ALGORITHMS, OnStepEnd, Synthesize

_REFERENCE_PROPORTIONS = 1.5
"""Longer over shorter side of a reference that keeps its proportions, as most pictures have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One picture and how it came about.

    Attributes:
        image: 8-bit RGB, of exactly the size that was asked for.
        style_losses, content_losses: before each Adam step.
        seconds: this item's share of its batch's time.
        synthesis_seconds: its share of the time without encoding and decoding; of a baseline all.
        seed: the request's seed.
        peak_memory_bytes: what its batch held on the accelerator at most; None on a CPU.
        degraded: whether a fallback changed pixels.
        match_uncertainty: 0 to 1, see `algorithm.matches`; None where nothing is distilled.
    """

    image: Image.Image
    style_losses: tuple[float, ...]
    content_losses: tuple[float, ...]
    seconds: float
    synthesis_seconds: float
    seed: int
    peak_memory_bytes: int | None = None
    degraded: bool = False
    match_uncertainty: float | None = None


def render(
    backbone: Backbone,
    requests: Sequence[Request],
    *,
    batch_size: int | Literal["auto"] = "auto",
    on_step_end: Callable[[int, int], None] = lambda items, steps: None,
    noise: Callable[[int], Noise] | None = None,
    encoded: EncodedPictures | None = None,
) -> list[Result]:
    """Renders every request, in order.

    Args:
        backbone: the frozen model.
        requests: any mixture of tasks and sizes; those that can share a batch do.
        batch_size: items optimised together at most; memory grows with it. `auto` is what the
            device's memory has room for, see `automatic_batch_size`.
        on_step_end: told after each timestep how many items advanced, and the timesteps of each;
            of a picture that is expanded, how many views, and all that it has in all timesteps.
        noise: makes an item's noise from its seed; None is as its setting `noise` says.
        encoded: pictures that earlier calls encoded; this one's are kept there too.

    Raises:
        NumericsError: an item's latents stopped being finite.
        RequestError: the settings do not fit this backbone.
    """
    fitting = partial(_fitting, backbone)
    results: dict[int, Result] = {}
    encoded = encoded or EncodedPictures()
    for batch in plan_batches(
        requests, fitting if batch_size == "auto" else lambda one: batch_size
    ):
        chosen = [requests[position] for position in batch]
        rendered = _render_batch(backbone, chosen, on_step_end, noise, encoded)
        results.update(zip(batch, rendered, strict=True))
    return [results[position] for position in range(len(requests))]


def automatic_batch_size(
    backbone: Backbone,
    settings: Settings,
    *,
    width: int,
    height: int,
    num_references: int,
    sharers: int = 1,
) -> int:
    """How many items the memory of the backbone's device has room for.

    It depends on the memory that there is in all, in coarse classes, and not on what is free: the
    same job is always cut into the same batches. Where it is wrong, memory runs out.

    Args:
        backbone: the frozen model.
        settings: of the items.
        width: of a result, in pixels.
        height: of a result, in pixels.
        num_references: of each item.
        sharers: processes that share the memory evenly.
    """
    cells, reference_cells = _cells(backbone, settings, width * height, num_references)
    return backbone.cell_bytes.batch_size(
        room(backbone.device, backbone.weight_bytes, sharers=sharers),
        cells=cells,
        reference_cells=reference_cells,
    )


def memory_needed(
    backbone: Backbone,
    settings: Settings,
    *,
    width: int,
    height: int,
    num_references: int,
    batch_size: int,
) -> int:
    """Bytes that a batch takes beside the weights, at most, decoding included.

    Args:
        backbone: the frozen model.
        settings: of the items.
        width: of a result, in pixels.
        height: of a result, in pixels.
        num_references: of each item.
        batch_size: its items.
    """
    cells, reference_cells = _cells(backbone, settings, width * height, num_references)
    with_decoding = max(2, batch_size)  # which needs less than a second item
    return backbone.cell_bytes.peak(with_decoding, cells=cells, reference_cells=reference_cells)


def _cells(
    backbone: Backbone, settings: Settings, num_pixels: int, num_references: int
) -> tuple[int, int]:
    """Latent cells of a result, and of all of its references."""
    cell, side = backbone.vae_scale_factor**2, settings.reference_size
    of_one = num_pixels if side is None else round(_REFERENCE_PROPORTIONS * side**2)
    return -(-num_pixels // cell), -(-num_references * of_one // cell)


def _fitting(backbone: Backbone, request: Request) -> int:
    return automatic_batch_size(
        backbone,
        request.settings,
        width=request.width,
        height=request.height,
        num_references=len(request.styles),
    )


def plan_batches(
    requests: Sequence[Request], batch_size: Callable[[Request], int]
) -> list[list[int]]:
    """Positions of the requests, cut into batches that can run together.

    Items of a batch agree in algorithm, settings, and in the number and size of their pictures;
    items with the same styles, then the same content, stand side by side, so that a batch holds few
    distinct references. A picture that is expanded in views is a batch of its own.

    Args:
        requests: any.
        batch_size: how many items that are like this one may run together.
    """
    digests = {id(image): picture_digest(image) for one in requests for image in _pictures(one)}

    def kind(position: int) -> tuple[str, ...]:
        return _kind(requests[position], digests)

    def neighbours(position: int) -> tuple[object, ...]:
        request = requests[position]
        return (*(digests[id(image)] for image in _pictures(request)), request.seed)

    order = sorted(range(len(requests)), key=lambda p: (kind(p), neighbours(p), p))
    batches: list[list[int]] = []
    for _, group in groupby(order, kind):
        alike = list(group)
        first = requests[alike[0]]
        most = 1 if _algorithm(first) == "expand" else batch_size(first)
        batches += [alike[start : start + most] for start in range(0, len(alike), most)]
    return batches


def _algorithm(request: Request) -> str:
    return find_preset(request.task).algorithm


def _pictures(request: Request) -> list[Image.Image]:
    """The styles, then the other pictures that a request has."""
    others = (request.content, request.source_mask, request.target_mask, request.control_image)
    return [*request.styles, *(image for image in others if image is not None)]


def _kind(request: Request, digests: Mapping[int, str]) -> tuple[str, ...]:
    """What items of one batch have in common."""
    reference_sizes = [image.size for image in request.styles]
    if request.settings.reference_size is None:
        reference_sizes = [(request.width, request.height)] * len(request.styles)
    present = [
        one is not None for one in (request.content, request.target_mask, request.control_image)
    ]
    example = digests[id(request.styles[0])] if request.settings.decoder_epochs else ""
    shape = (request.width, request.height, reference_sizes, present, example)
    return (_algorithm(request), repr(shape), repr(request.settings))


def _render_batch(
    backbone: Backbone,
    requests: Sequence[Request],
    on_step_end: Callable[[int, int], None],
    noise: Callable[[int], Noise] | None,
    encoded: EncodedPictures,
) -> list[Result]:
    started = time.perf_counter()
    find_preset(requests[0].task).check_family(backbone.family)
    backbone.check(requests[0].settings, (requests[0].height, requests[0].width))
    _forget_peak_memory(backbone.device)
    make = noise or NOISE[requests[0].settings.noise]
    drawn = [make(request.seed) for request in requests]
    inputs = BatchInputs(backbone, requests, drawn, encoded)
    make_pictures = _MAKERS[_algorithm(requests[0])]
    made = make_pictures(inputs, lambda done, total: on_step_end(done * len(requests), total))
    _check_finite(made.images)
    seconds = (time.perf_counter() - started) / len(requests)
    peak_memory_bytes = peak_memory(backbone.device)
    return [
        Result(
            image=tensor_to_image(made.images[row]),
            style_losses=tuple(made.losses[row][0]),
            content_losses=tuple(made.losses[row][1]),
            seconds=seconds,
            synthesis_seconds=made.synthesis_seconds / len(requests),
            seed=request.seed,
            peak_memory_bytes=peak_memory_bytes,
            match_uncertainty=made.matches[row] if made.matches else None,
        )
        for row, request in enumerate(requests)
    ]


class _Made(NamedTuple):
    """The pictures of a batch; each one's style and content losses and matches, if it has any."""

    images: Float[Tensor, "b 3 height width"]
    losses: Sequence[tuple[Sequence[float], Sequence[float]]]
    synthesis_seconds: float
    matches: Sequence[float] = ()


def _distilled(synthesize: Synthesize, inputs: BatchInputs, on_step_end: OnStepEnd) -> _Made:
    inputs.encode()
    started = time.perf_counter()
    latents, trace = synthesize(inputs, on_step_end)
    _check_finite(latents)
    seconds = time.perf_counter() - started
    matches = matches_of_batch(inputs, latents).tolist()
    return _Made(finished(inputs, latents), trace.of_items(), seconds, matches)


def _compared(compare: Compare, inputs: BatchInputs, on_step_end: OnStepEnd) -> _Made:
    started = time.perf_counter()
    images = compare(inputs, on_step_end)
    return _Made(images, [((), ())] * len(images), time.perf_counter() - started)


_MAKERS: Mapping[str, Callable[[BatchInputs, OnStepEnd], _Made]] = MappingProxyType(
    {name: partial(_distilled, synthesize) for name, synthesize in ALGORITHMS.items()}
    | {name: partial(_compared, compare) for name, compare in BASELINES.items()}
)


def _forget_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """What the last batch held on an accelerator at most, in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def _check_finite(values: Tensor) -> None:
    of_bands = [values[:, :, rows].isfinite().flatten(1).all(1) for rows in bands(values.shape[2])]
    finite = torch.stack(of_bands).all(0)
    if not finite.all():
        raise NumericsError(
            f"{int((~finite).sum())} of {len(finite)} latents or pictures stopped being finite; "
            "lower the learning rate or use float32"
        )
