"""Algorithm 1: optimise latents towards the style's attention and the content's queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.early_stopping import MovingItems
from ad_lib.algorithm.features import References
from ad_lib.algorithm.seen import Show, clean
from ad_lib.algorithm.step import Distiller, learning_rates
from ad_lib.algorithm.trace import LossTrace


def optimize_latents(
    distiller: Distiller,
    timesteps: Sequence[Timestep],
    latents: Float[Tensor, "b c h w"],
    style: References,
    content: References | None = None,
    *,
    show: Show = clean,
    on_step_end: Callable[[int], None] = lambda step: None,
) -> tuple[Float[Tensor, "b c h w"], LossTrace]:
    """Content-preserving optimisation: Algorithm 1 of Zhou et al. 2025 (arXiv:2502.20235).

    As published the network sees clean latents at every timestep: no noise is added and nothing is
    denoised.
    An item that has stopped falling leaves the batch, where the settings ask for it.

    Args:
        distiller: the optimisation step; one Adam state for the whole run.
        timesteps: in the order in which they are visited, as published from high to low.
        latents: z, where the optimisation starts: the content's latents or noise.
        style: z_s, the clean latents of the references.
        content: z_c, the clean latents of each item's content, one per item.
        show: what the network sees of z, z_s and z_c at each timestep.
        on_step_end: told the index of each timestep that is done.

    Returns:
        The optimised latents, detached, and the losses before each Adam step.
    """
    num_steps = distiller.settings.num_optimization_steps
    rates = learning_rates(distiller.settings, len(timesteps) * num_steps, latents.device)
    rates = rates.unflatten(0, (len(timesteps), num_steps))
    losses = rates.new_zeros(len(timesteps), num_steps, 2, len(latents))
    moving = MovingItems(distiller, latents, style, content, show)
    for step, t in enumerate(timesteps):
        moving.visit(step, rates[step], t, losses[step])
        moving.stop_flat(losses[: step + 1])
        on_step_end(step)
    return moving.latents, LossTrace.of(losses, moving.num_steps)
