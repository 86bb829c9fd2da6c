"""How long will an item take, roughly? It sizes the shards, and says when a worker hangs.

The unit is a step: the network's passes for one step of Adam on the latents. What another method
does is counted in such steps where a network does it, and by itself where none does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ad_lib.presets import Preset
from ad_lib.settings import Settings

SECONDS_PER_STEP = {(True, "cpu"): 1.0, (True, "cuda"): 0.02, (False, "cpu"): 40.0}
"""Rough seconds of one step at 512x512 by (is embedded, device)."""
SECONDS_PER_STEP_ELSEWHERE = 0.05

SECONDS_PER_GIVEN = 0.1
"""Rough seconds at 512x512 to fetch, measure and encode a picture of another program."""

SECONDS_PER_BLOCK = 0.05
"""Rough seconds to compare a block with all of a texture of 512x512, which a CPU does."""

SECONDS_PER_PROJECTION = {"cpu": 0.8 / 64}
"""Rough seconds to project and sort all patches of 512x512 pixels along one direction, by device.

With gradients, and for the result and its reference.
"""
SECONDS_PER_PROJECTION_ELSEWHERE = 0.01 / 64


def estimated_seconds(
    preset: Preset,
    settings: Settings,
    size: tuple[int, int],
    *,
    is_embedded: bool,
    device_type: str,
) -> float:
    """Rough seconds of an item of a task.

    Args:
        preset: the task.
        settings: of the item.
        size: (width, height) in pixels.
        is_embedded: whether the embedded model computes, which is small.
        device_type: `cpu`, `cuda` or another of torch's.
    """
    width, height = size
    num_steps = num_steps_of(preset, settings)
    per_step = _seconds_per_step(preset, is_embedded, device_type)
    return round(num_steps * per_step * width * height / 512**2, 3)


def num_steps_of(preset: Preset, settings: Settings) -> float:
    """Steps of an item at its size, or what its algorithm counts in their place."""
    return _NUM_STEPS.get(preset.algorithm, _of_timesteps)(settings)


def _seconds_per_step(preset: Preset, is_embedded: bool, device_type: str) -> float:
    """Of one step at 512x512 pixels, or of what the algorithm counts in its place."""
    if preset.algorithm == "external":
        return SECONDS_PER_GIVEN
    if preset.algorithm == "quilting":
        return SECONDS_PER_BLOCK
    if preset.algorithm == "gpdm":
        return SECONDS_PER_PROJECTION.get(device_type, SECONDS_PER_PROJECTION_ELSEWHERE)
    return SECONDS_PER_STEP.get((is_embedded, device_type), SECONDS_PER_STEP_ELSEWHERE)


def _of_timesteps(settings: Settings) -> float:
    return settings.num_inference_steps * max(1, settings.num_optimization_steps)


def _of_views(settings: Settings) -> float:
    """Views overlap: so often is each pixel computed."""
    return _of_timesteps(settings) * (settings.view_size / settings.view_stride) ** 2


def _of_pyramid(settings: Settings) -> float:
    """Projections at full size that those of all scales are worth: areas are a geometric series."""
    area = 1 / (1 - settings.pyramid_factor**2)
    return settings.num_projections * settings.num_optimization_steps * area


def _of_blocks(settings: Settings) -> float:
    """Blocks that cover 512x512 pixels; a sixth of each lies on the one before it."""
    return (512 / (settings.patch_size * 5 / 6)) ** 2


def _of_encoder(settings: Settings) -> float:
    """An evaluation goes forth and back through the encoder, at the resolution of the pixels."""
    return 1.5 * settings.num_draws * settings.num_optimization_steps


_NUM_STEPS: Mapping[str, Callable[[Settings], float]] = MappingProxyType(
    {
        "adain": lambda settings: 1,
        "expand": _of_views,
        "external": lambda settings: 1,
        "gpdm": _of_pyramid,
        "quilting": _of_blocks,
        "swd": _of_encoder,
    }
)
"""How many steps an algorithm takes; those that are not here take some at each timestep."""
