"""The published settings, by name: which images a task takes and the numbers it runs with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from ad_lib.errors import RequestError, unknown_name

MAX_TIMESTEPS = 999
"""With 1000 steps DDIM's leading spacing starts at timestep 1000, which the model lacks."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of both algorithms.

    Attributes:
        num_inference_steps: timesteps visited, from high to low, 1..999.
        num_optimization_steps: Adam steps at each timestep, at least 0.
        learning_rate: of Adam on the latents, above 0.
        content_weight: the paper's lambda, the weight of the content loss, at least 0.
        attn_scale: factor on the query inside the distilled attention, above 0; larger picks
            fewer style tokens per query.
        layers: half-open range of self-attention layers in execution order; None is the last six.
    """

    num_inference_steps: int = 200
    num_optimization_steps: int = 1
    learning_rate: float = 0.05
    content_weight: float = 0.0
    attn_scale: float = 1.0
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_whole("num_inference_steps", self.num_inference_steps, 1, MAX_TIMESTEPS)
        _check_whole("num_optimization_steps", self.num_optimization_steps, 0, 1000)
        _check_number("learning_rate", self.learning_rate, above=0.0)
        _check_number("content_weight", self.content_weight, at_least=0.0)
        _check_number("attn_scale", self.attn_scale, above=0.0)
        if self.layers is not None:
            object.__setattr__(self, "layers", _checked_layers(self.layers))

    def updated(self, overrides: Mapping[str, Any]) -> Settings:
        """These settings with some replaced.

        Raises:
            RequestError: a name is unknown (the nearest one is named) or a value out of range.
        """
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise RequestError(unknown_name("setting", name, known))
        return replace(self, **overrides)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A task under its public name.

    Attributes:
        roles: the images that it takes, the reference last; a task with a `content` keeps its
            structure and starts from it, one without starts from noise.
        settings: the published numbers.
        summary: one line for people.
        size: pixels of the result's shorter side when a request gives no size.
        algorithm: `optimize` moves latents towards the references (Algorithm 1), `sample` denoises
            them and moves them at every timestep (Algorithm 2).
    """

    name: str
    roles: tuple[str, ...]
    settings: Settings
    summary: str
    size: int = 512
    algorithm: Literal["optimize", "sample"] = "optimize"

    @property
    def takes_content(self) -> bool:
        """Whether the task keeps a content image's structure."""
        return "content" in self.roles


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number in {low}..{high}; got {value!r}")


def _check_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None
) -> None:
    bound = f"above {above:g}" if above is not None else f"at least {at_least:g}"
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    usable = usable and value < float("inf")
    usable = usable and (value > above if above is not None else value >= (at_least or 0.0))
    if not usable:
        raise RequestError(f"{name} must be a number {bound}; got {value!r}")


def _checked_layers(layers: Any) -> tuple[int, int]:
    try:
        start, stop = (int(bound) for bound in layers)
    except (TypeError, ValueError):
        raise RequestError(f"layers must be two numbers [start, stop); got {layers!r}") from None
    if not 0 <= start < stop:
        raise RequestError(f"layers must satisfy 0 <= start < stop; got [{start}, {stop})")
    return start, stop


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="style-transfer",
                roles=("content", "style"),
                settings=Settings(content_weight=0.25),
                summary="paint the content with the style's strokes and colours",
            ),
            Preset(
                name="appearance-transfer",
                roles=("content", "style"),
                settings=Settings(content_weight=0.2),
                summary="give the content's object the look of the style's object",
            ),
            Preset(
                name="texture-optimize",
                roles=("texture",),
                settings=Settings(),
                summary="a new sample of a texture, optimised from noise",
            ),
            Preset(
                name="texture-sample",
                roles=("texture",),
                settings=Settings(num_inference_steps=50, num_optimization_steps=3),
                summary="a new sample of a texture, drawn from the model: faster",
                algorithm="sample",
            ),
        )
    }
)


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        RequestError: there is none; the nearest name is given.
    """
    if name not in PRESETS:
        raise RequestError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]
