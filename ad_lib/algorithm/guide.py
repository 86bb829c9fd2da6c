"""Algorithm 2: sample from the model while distilling the style's attention at every timestep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.dynamics import Dynamics, Timestep
from ad_lib.algorithm.features import References
from ad_lib.algorithm.noise import Noise, drawn_ahead
from ad_lib.algorithm.step import Distiller, learning_rates
from ad_lib.algorithm.trace import LossTrace
from ad_lib.settings import MAX_TIMESTEPS, Settings

MAX_DRAWN_AHEAD = 512 * 2**20
"""Bytes of noise that may lie on the device before a run; more is drawn step by step."""


@runtime_checkable
class PredictNoise(Protocol):
    """The frozen network as a denoiser: the noise in latents at a timestep, guidance included."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor
    ) -> Float[Tensor, "b c h w"]: ...


def sample_with_distillation(
    predict_noise: PredictNoise,
    distiller: Distiller,
    dynamics: Dynamics,
    latents: Float[Tensor, "b c h w"],
    style: References,
    noise: Sequence[Noise],
    content: References | None = None,
    *,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b c h w"], LossTrace]:
    """Guided sampling: Algorithm 2 of Zhou et al. 2025 (arXiv:2502.20235), as they released it.

    Args:
        predict_noise: the frozen network under the prompt.
        distiller: the optimisation step, and the settings.
        dynamics: the sampler.
        latents: z_T, unit Gaussian noise.
        style: z_s, the clean latents of the references.
        noise: of each item; drawn anew at every timestep.
        content: z_c, the clean latents of each item's content, one per item.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The sampled latents z_0, detached, and the losses before each Adam step.
    """
    visits = visited(dynamics, distiller.settings)
    rates = one_adam(distiller, latents)
    losses = rates.new_zeros(len(visits), len(rates), 2, len(latents))
    noise = before_the_loop(noise, style, content, visits, distiller.settings)
    for step, t in enumerate(dynamics.timesteps):
        latents = denoised(predict_noise, dynamics, latents, t)
        if visits[step]:
            after = dynamics.after(t)
            seen = under_noise(distiller.settings, dynamics, after, step, style, noise, content)
            latents, losses[step] = distilled(distiller, rates, latents, after.tensor, seen)
        on_step_end(step)
    return latents, LossTrace.of(losses[len(visits) - sum(visits) :])


def visited(dynamics: Dynamics, settings: Settings) -> list[bool]:
    """Whether the style is distilled after each step of the sampler: from `start_time` on down."""
    distils = settings.num_optimization_steps > 0
    always = settings.start_time == MAX_TIMESTEPS
    return [distils and (always or t.number < settings.start_time) for t in dynamics.timesteps]


def one_adam(distiller: Distiller, latents: Tensor) -> Float[Tensor, "m 3"]:
    """The rates of a new Adam, which begins anew at every timestep."""
    settings = distiller.settings
    return learning_rates(settings, settings.num_optimization_steps, latents.device)


def _adain_has_its_noise(settings: Settings) -> bool:
    """In the released code AdaIN has noise of its own; in Algorithm 2 it has the style's."""
    return settings.adain and settings.variant == "reference"


def before_the_loop(
    noise: Sequence[Noise],
    style: References,
    content: References | None,
    visits: Sequence[bool],
    settings: Settings,
) -> Sequence[Noise]:
    """The items' noise, drawn and on the device, so that no step copies anything.

    Noise of more than `MAX_DRAWN_AHEAD` bytes, or that items share, is drawn step by step.
    """
    tags = [("style", style)]
    tags += [("adain", style)] if _adain_has_its_noise(settings) else []
    tags += [("content", content)] if content else []
    steps = [step for step, is_visited in enumerate(visits) if is_visited]

    def draws(item: int) -> Iterator[tuple[str, int, Sequence[int]]]:
        for step in steps:
            for tag, references in tags:
                own = references.of_item(item)
                for number, latents in enumerate(own, start=step * len(own)):
                    yield tag, number, latents.shape

    items = range(len(noise))
    num_bytes = 4 * sum(prod(shape) for item in items for _, _, shape in draws(item))
    if num_bytes > MAX_DRAWN_AHEAD or len({*map(id, noise)}) < len(noise):
        return noise
    device = style.latents[0].device
    return [drawn_ahead(noise[item], draws(item), device) for item in items]


@torch.no_grad()
def denoised(
    predict_noise: PredictNoise,
    dynamics: Dynamics,
    latents: Float[Tensor, "b c h w"],
    timestep: Timestep,
) -> Float[Tensor, "b c h w"]:
    """z_t -> z_t': one deterministic step of the sampler."""
    return dynamics.step(predict_noise(latents, timestep.tensor), timestep, latents)


class UnderNoise(NamedTuple):
    """The references at one noise level; `target` has the statistics for AdaIN, where it is on."""

    style: References
    target: References | None
    content: References | None


def under_noise(
    settings: Settings,
    dynamics: Dynamics,
    timestep: Timestep,
    step: int,
    style: References,
    noise: Sequence[Noise],
    content: References | None = None,
) -> UnderNoise:
    """The references as the network sees them at a noise level.

    Args:
        settings: `adain` and `variant` are read.
        dynamics: the sampler.
        timestep: t', where the denoising step arrived.
        step: of the sampler, counted from 0; it says which noise is drawn.
        style: z_s, clean.
        noise: of each item.
        content: z_c, clean.
    """

    def noised_by(references: References, tag: str) -> References:
        return noised(references, dynamics, timestep, noise, tag, step)

    seen = noised_by(style, "style")
    target = seen if settings.adain else None
    if _adain_has_its_noise(settings):
        target = noised_by(style, "adain")
    return UnderNoise(seen, target, noised_by(content, "content") if content else None)


def distilled(
    distiller: Distiller,
    rates: Float[Tensor, "m 3"],
    latents: Float[Tensor, "b c h w"],
    timestep: Tensor,
    seen: UnderNoise,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "m 2 b"]]:
    """Moves z_t' towards the style's attention; the network stays frozen.

    Args:
        distiller: the optimisation step, and the settings.
        rates: of a new Adam.
        latents: z_t', just denoised.
        timestep: t', where the denoising step arrived.
        seen: the references at t'.

    Returns:
        The moved latents, detached, and the style and content loss before each Adam step.
    """
    if seen.target is not None:
        latents = adain(latents, seen.target)
    start = distiller.init(latents)
    state, losses = distiller.visit(start, rates, timestep, seen.style, seen.content)
    return state.latents, losses


def noised(
    references: References,
    dynamics: Dynamics,
    timestep: Timestep,
    noise: Sequence[Noise],
    tag: str,
    step: int,
) -> References:
    """Every item's references under that item's own noise, at the noise level of `timestep`.

    A draw's number counts the references of all steps before, drawn or not, and then on.

    Items that share their noise and their references see the same draw, made once.
    """
    latents: list[Tensor] = []
    rows: dict[tuple[int, ...], list[int]] = {}
    index = []
    for item, draw in zip(references.index, noise, strict=True):
        wanted = (id(draw), *item)
        if wanted not in rows:
            rows[wanted] = list(range(len(latents), len(latents) + len(item)))
            for number, row in enumerate(item, start=step * len(item)):
                clean = references.latents[row]
                drawn = draw(tag, number, clean.shape).to(clean)
                latents.append(dynamics.add_noise(clean, drawn, timestep))
        index.append(rows[wanted])
    return References(latents, index, references.weights)


def noised_start(
    style: References, dynamics: Dynamics, noise: Sequence[Noise]
) -> Float[Tensor, "b c h w"]:
    """z_T that is each item's one style under all the noise that the model knows."""
    return noised(style, dynamics, dynamics.noisiest, noise, "init", step=0).one_per_item()
