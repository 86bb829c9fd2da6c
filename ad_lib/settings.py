"""Which numbers do the algorithms run with, and which values may they have?

They are checked when a `Settings` is built, which never changes: one that exists is sound.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from ad_lib.errors import RequestError, unknown_name

MAX_TIMESTEPS = 999
"""With 1000 steps DDIM's leading spacing starts at timestep 1000, which the model lacks."""

MAX_NUMBER = 1e38
"""The largest learning rate, weight or scale: float32 holds no larger numbers."""

ORDERS = ("descending", "ascending", "random", "spread")
"""Of Algorithm 1's timesteps."""

UNSURE = 0.2
"""The `match_uncertainty` above which a person is warned.

Above it lie 39 % of the bad and 4 % of the good held-out pairs of docs/LIMITS.md: false alarms are
rare, and silence promises nothing.
"""

Seamless = Literal["none", "x", "y", "both"]
Rope = Literal["shared", "none", "shifted"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of the algorithms; `Preset.uses` says which task reads which.

    Attributes:
        num_inference_steps: timesteps visited, from high to low, 1..999.
        num_optimization_steps: Adam steps at each timestep, at least 0; of `baseline-gpdm` at each
            scale; of `baseline-swd` evaluations of L-BFGS with each draw of directions.
        learning_rate: of Adam on the latents, above 0; of `baseline-gpdm` on pixels in [-1, 1].
        content_weight: the paper's lambda, the weight of the content loss, at least 0.
        attn_scale: factor on the query inside the distilled attention, above 0; larger picks
            fewer style tokens per query.
        layers: half-open range of self-attention layers in execution order; None is the last six.
        style_weights: how often each style counts, one number of at least 0 per style; 2 is as if
            it were listed twice. None counts each once.
        reference_size: pixels of the references' shorter side, with their own proportions; None
            crops them to the size of the result, as published.
        timesteps: Algorithm 1's order of timesteps (`descending` as published), or one timestep
            for the whole run. `spread` leaps among them by the golden ratio, so that every few
            steps see the whole range: four times fewer of them do.
        latents: what Algorithm 1's network sees: `clean` latents, as published, or everything
            `noised` to the timestep, the result and its references alike (Case 2 of Fig. 16).
        early_stopping_patience: Algorithm 1 ends for an item when the mean loss of so many Adam
            steps, 2 at least, is no longer below that of as many before; None never ends early.
            Losses of neighbouring steps must be alike for this: `timesteps` is `spread` or one.
        early_stopping_threshold: by what share of itself that mean must fall, 0 to below 1.
        guidance_scale: of the prompt over the negative prompt; 1 is off.
        adain: give the latents the noised style's channel statistics at every timestep.
        start_time: the style is distilled at timesteps below this; 999 is always.
        variant: `reference` draws noise for AdaIN and features apart, as the released code does;
            `paper` uses one noised style for both, as Algorithm 2 is written.
        noise: `by_draw` draws by (seed, what it is for, step), so that items that differ in other
            settings see the same noise, and views of one picture share that of the style; `stream`
            draws one after another from one generator, as versions before did.
        init: sampling starts from `noise`, or from the noised `style`.
        controlnet_conditioning_scale: weight of the ControlNet's residuals.
        seamless: axes along which the picture continues on its opposite side; True is `both`,
            False is `none`.
        view_size: side of MultiDiffusion's views, in latent cells.
        view_stride: distance of neighbouring views, in latent cells.
        view_shift: move the grid of views from step to step, so that no border stays.
        view_batch_size: views distilled together; they see the same noise on the style.
        colors: `result` leaves the colours as they come, `content` gives the result the content's
            colours pixel by pixel, `style` gives it the reference's channel statistics.
        decoder_epochs: steps of fine-tuning the decoder on the (first) reference; 0 is off, the
            published number is 75.
        rope: where a style's tokens lie for the queries of the result, in models with rotary
            positions: `shared` at the places that they have in their own picture, so that queries
            prefer what lies where they lie; `none` at no place; `shifted` beside the result.
        query_preservation: of `baseline-styleid`, the paper's gamma: the content's share of each
            query, 0 to 1; larger keeps more of the content's structure.
        attention_temperature: of `baseline-styleid`, the paper's tau: factor on the logits of its
            attention to the style, above 0; larger picks fewer tokens per query.
        patch_size: side of the patches that baselines compare or lay side by side, in pixels.
        num_projections: random directions onto which `baseline-gpdm` projects patches at each step.
        num_draws: how often the directions of `baseline-swd` are drawn anew.
        pyramid_factor: of `baseline-gpdm`: each scale over the next finer one, above 0, below 1.
        coarsest_patches: of `baseline-gpdm`: shorter side of the coarsest scale, in patches.
    """

    num_inference_steps: int = 200
    num_optimization_steps: int = 1
    learning_rate: float = 0.05
    content_weight: float = 0.0
    attn_scale: float = 1.0
    layers: tuple[int, int] | None = None
    style_weights: tuple[float, ...] | None = None
    reference_size: int | None = None
    timesteps: Literal["descending", "ascending", "random", "spread"] | int = "descending"
    latents: Literal["clean", "noised"] = "clean"
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    guidance_scale: float = 1.0
    adain: bool = False
    start_time: int = MAX_TIMESTEPS
    variant: Literal["reference", "paper"] = "reference"
    noise: Literal["by_draw", "stream"] = "stream"
    init: Literal["noise", "style"] = "noise"
    controlnet_conditioning_scale: float = 1.0
    seamless: Seamless = "none"
    view_size: int = 64
    view_stride: int = 32
    view_shift: bool = True
    view_batch_size: int = 8
    colors: Literal["result", "content", "style"] = "result"
    decoder_epochs: int = 0
    rope: Rope = "shared"
    query_preservation: float = 0.75
    attention_temperature: float = 1.5
    patch_size: int = 8
    num_projections: int = 64
    num_draws: int = 20
    pyramid_factor: float = 0.85
    coarsest_patches: int = 3

    def __post_init__(self) -> None:
        _check_whole("num_inference_steps", self.num_inference_steps, 1, MAX_TIMESTEPS)
        _check_whole("num_optimization_steps", self.num_optimization_steps, 0, 1000)
        _check_number("learning_rate", self.learning_rate, above=0.0)
        _check_number("content_weight", self.content_weight, at_least=0.0)
        _check_number("attn_scale", self.attn_scale, above=0.0)
        if self.layers is not None:
            object.__setattr__(self, "layers", _checked_layers(self.layers))
        if self.style_weights is not None:
            object.__setattr__(self, "style_weights", _checked_weights(self.style_weights))
        if self.reference_size is not None:
            _check_whole("reference_size", self.reference_size, 64, 8192)
        if isinstance(self.timesteps, str):
            _check_choice("timesteps", self.timesteps, ORDERS)
        else:
            _check_whole("timesteps", self.timesteps, 0, MAX_TIMESTEPS)
        _check_choice("latents", self.latents, ("clean", "noised"))
        _check_number("early_stopping_threshold", self.early_stopping_threshold, at_least=0.0)
        if self.early_stopping_threshold >= 1:
            raise RequestError(
                "early_stopping_threshold must be below 1, as losses stay above 0; got "
                f"{shown(self.early_stopping_threshold)}"
            )
        if self.early_stopping_patience is not None:
            _check_whole("early_stopping_patience", self.early_stopping_patience, 2, 1000)
            _check_comparable(self.timesteps)
        _check_number("guidance_scale", self.guidance_scale, at_least=1.0)
        _check_choice("adain", self.adain, (True, False))
        _check_whole("start_time", self.start_time, 0, MAX_TIMESTEPS)
        _check_choice("variant", self.variant, ("reference", "paper"))
        _check_choice("noise", self.noise, ("by_draw", "stream"))
        _check_choice("init", self.init, ("noise", "style"))
        _check_number(
            "controlnet_conditioning_scale", self.controlnet_conditioning_scale, at_least=0.0
        )
        if isinstance(self.seamless, bool):
            object.__setattr__(self, "seamless", "both" if self.seamless else "none")
        _check_choice("seamless", self.seamless, ("none", "x", "y", "both"))
        _check_whole("view_size", self.view_size, 8, 1024)
        _check_whole("view_stride", self.view_stride, 1, self.view_size)
        _check_choice("view_shift", self.view_shift, (True, False))
        _check_whole("view_batch_size", self.view_batch_size, 1, 1024)
        _check_choice("colors", self.colors, ("result", "content", "style"))
        _check_whole("decoder_epochs", self.decoder_epochs, 0, 10_000)
        _check_choice("rope", self.rope, ("shared", "none", "shifted"))
        _check_number("query_preservation", self.query_preservation, at_least=0.0)
        if self.query_preservation > 1:
            raise RequestError(
                "query_preservation is a share and must be at most 1; got "
                f"{shown(self.query_preservation)}"
            )
        _check_number("attention_temperature", self.attention_temperature, above=0.0)
        _check_whole("patch_size", self.patch_size, 2, 512)
        _check_whole("num_projections", self.num_projections, 1, 1024)
        _check_whole("num_draws", self.num_draws, 1, 1000)
        _check_number("pyramid_factor", self.pyramid_factor, above=0.0)
        if self.pyramid_factor >= 1:
            raise RequestError(
                "pyramid_factor must be below 1, as coarser scales are smaller; got "
                f"{shown(self.pyramid_factor)}"
            )
        _check_whole("coarsest_patches", self.coarsest_patches, 1, 1000)

    def updated(self, overrides: Mapping[str, Any]) -> Settings:
        """These settings with some replaced.

        Raises:
            RequestError: a name is unknown (the nearest one is named) or a value out of range.
        """
        known = [field.name for field in fields(self)]
        for name in overrides:
            if name not in known:
                raise RequestError(unknown_name("setting", name, known, MEANT_SETTINGS))
        return replace(self, **overrides)


MEANT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "adain_weight": "adain",
        "attention_scale": "attn_scale",
        "batch": "compute.batch_size",
        "batch_size": "compute.batch_size",
        "block_size": "patch_size",
        "cfg": "guidance_scale",
        "cfg_scale": "guidance_scale",
        "cn_scale": "controlnet_conditioning_scale",
        "coarse_dim": "coarsest_patches",
        "codec": "output.codec",
        "color": "colors",
        "conditioning_scale": "controlnet_conditioning_scale",
        "controlnet_scale": "controlnet_conditioning_scale",
        "device": "compute.device",
        "epochs": "decoder_epochs",
        "format": "output.codec",
        "gamma": "query_preservation",
        "guidance": "guidance_scale",
        "height": "output.size",
        "inference_steps": "num_inference_steps",
        "iter": "num_optimization_steps",
        "iterations": "num_optimization_steps",
        "iters": "num_optimization_steps",
        "lambda": "content_weight",
        "lambda_content": "content_weight",
        "layer": "layers",
        "lr": "learning_rate",
        "model": "backbone",
        "negative": "inputs.negative_prompt",
        "negative_prompt": "inputs.negative_prompt",
        "num_iterations": "num_optimization_steps",
        "num_proj": "num_projections",
        "num_steps": "num_inference_steps",
        "optimization_steps": "num_optimization_steps",
        "patch": "patch_size",
        "prompt": "inputs.prompt",
        "pyr_factor": "pyramid_factor",
        "resolution": "output.size",
        "sampling_steps": "num_inference_steps",
        "scale": "guidance_scale",
        "size": "output.size",
        "start": "start_time",
        "steps": "num_inference_steps",
        "strength": "content_weight",
        "stride": "view_stride",
        "tau": "attention_temperature",
        "temperature": "attention_temperature",
        "tile": "seamless",
        "tileable": "seamless",
        "tiling": "seamless",
        "weights": "style_weights",
        "width": "output.size",
    }
)
"""What a person means by a setting that there is not: ours, or another key of a job."""


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number in {low}..{high}; got {shown(value)}")


def _check_comparable(timesteps: str | int) -> None:
    """Refuses orders in which the loss changes with the timestep more than with the picture."""
    if timesteps in ORDERS and timesteps != "spread":
        raise RequestError(
            "early_stopping_patience compares the losses of neighbouring steps, which is of use "
            f"with timesteps: spread, or with one timestep; got timesteps: {timesteps}"
        )


def _check_number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None
) -> None:
    bound = f"above {above:g}" if above is not None else f"at least {at_least:g}"
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    usable = usable and value < float("inf")
    usable = usable and (value > above if above is not None else value >= (at_least or 0.0))
    if not usable:
        raise RequestError(f"{name} must be a number {bound}; got {shown(value)}")
    if value > MAX_NUMBER:
        raise RequestError(f"{name} must be at most {MAX_NUMBER:g}; got {shown(value)}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if any(value is choice or (value == choice and isinstance(value, str)) for choice in choices):
        return
    if choices == (True, False):
        raise RequestError(f"{name} must be true or false; got {shown(value)}")
    listed = ", ".join(map(repr, choices))
    raise RequestError(f"{name} must be one of {listed}; got {shown(value)}")


def _checked_weights(weights: Any) -> tuple[float, ...]:
    if not isinstance(weights, list | tuple) or not weights:
        raise RequestError(f"style_weights must be a list of numbers; got {shown(weights)}")
    for weight in weights:
        _check_number("style_weights", weight, at_least=0.0)
    if not any(weights):
        raise RequestError(f"style_weights must not all be 0; got {shown(list(weights))}")
    return tuple(float(weight) for weight in weights)


def _checked_layers(layers: Any) -> tuple[int, int]:
    bounds = list(layers) if isinstance(layers, list | tuple) else []
    whole = [bound for bound in bounds if isinstance(bound, int) and not isinstance(bound, bool)]
    if len(bounds) != 2 or len(whole) != 2:
        raise RequestError(f"layers must be two numbers [start, stop); got {shown(layers)}")
    start, stop = whole
    if not 0 <= start < stop:
        raise RequestError(
            f"layers must satisfy 0 <= start < stop; got [{shown(start)}, {shown(stop)})"
        )
    return start, stop


def shown(value: Any) -> str:
    """A value as Python writes it, without the middle of a long one."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 80
    shortened.maxtuple = shortened.maxlist = 8
    try:
        return shortened.repr(value)
    except ValueError:  # a whole number of thousands of digits has no text
        return "a number of very many digits"
