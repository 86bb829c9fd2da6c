"""A small request of every task, for tests of what all of them have in common."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from ad_lib import PRESETS, Request
from tests.bad_images import picture


def photo(seed: int) -> Image.Image:
    """A 128x96 picture."""
    return Image.fromarray(picture(seed=seed))


def halves(size: tuple[int, int]) -> Image.Image:
    """A label map: red on the left, blue on the right."""
    mask = Image.new("RGB", size, "red")
    ImageDraw.Draw(mask).rectangle((size[0] // 2, 0, *size), fill="blue")
    return mask


def disc(size: tuple[int, int]) -> Image.Image:
    """A label map: a blue disc on red."""
    mask = Image.new("RGB", size, "red")
    ImageDraw.Draw(mask).ellipse((size[0] // 5, size[1] // 5, *size), fill="blue")
    return mask


PARTS: dict[str, Any] = {
    "style-transfer": lambda seed: {"content": photo(seed)},
    "style-transfer-draft": lambda seed: {"content": photo(seed)},
    "appearance-transfer": lambda seed: {"content": photo(seed)},
    "style-t2i-sd15": lambda seed: {"prompt": ("a red fox", "a house")[seed % 2]},
    "style-t2i": lambda seed: {"prompt": "a red fox", "content": photo(seed)},
    "texture-optimize": lambda seed: {},
    "texture-sample": lambda seed: {},
    "texture-draft": lambda seed: {},
    "texture-masked": lambda seed: {
        "source_mask": halves((128, 96)),
        "target_mask": disc((90 + seed, 80)),
    },
    "texture-layout": lambda seed: {"content": photo(seed)},
    "texture-expand": lambda seed: {},
    "baseline-adain": lambda seed: {"content": photo(seed)},
    "baseline-gpdm": lambda seed: {},
    "baseline-swd": lambda seed: {},
    "baseline-quilting": lambda seed: {},
    "baseline-styleid": lambda seed: {"content": photo(seed)},
    "external": lambda seed: {"external": photo(seed)},
}
"""What each task needs besides its reference."""

OWN_TASKS = sorted(name for name, preset in PRESETS.items() if not preset.is_baseline)
"""The tasks of the method; the others are baselines."""

SMALL: dict[str, dict[str, Any]] = {
    "texture-expand": {
        **{"view_size": 8, "view_stride": 6, "view_batch_size": 2, "reference_size": 64}
    },
    "baseline-gpdm": {"num_optimization_steps": 2, "pyramid_factor": 0.5},
    "baseline-swd": {"num_optimization_steps": 3, "num_draws": 2},
    "baseline-quilting": {"patch_size": 16},
}
"""Settings that make a task quick."""


def request(task: str, seed: int = 0, *, style: int = 50, **changes: Any) -> Request:
    """A request of a task, 72x64 pixels and two steps unless said otherwise."""
    sizes: dict[str, Any] = {"width": 72, "height": 64}
    if PRESETS[task].uses("num_inference_steps"):
        sizes["num_inference_steps"] = 2
    settings = sizes | SMALL.get(task, {}) | PARTS[task](seed) | changes
    return Request.preset(task, styles=[photo(style)], seed=seed, **settings)
