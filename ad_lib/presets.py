"""Which tasks are there, with which published numbers, and which settings do they read?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from ad_lib.errors import RequestError, unknown_name
from ad_lib.model.families.family import Family
from ad_lib.settings import Settings, shown

Algorithm = Literal["optimize", "sample", "expand"]
Baseline = Literal["adain", "external", "gpdm", "quilting", "styleid", "swd"]
"""Other people's methods, to compare with; see `ad_lib.baselines`."""

_EVERY_TASK = {
    "num_inference_steps",
    "num_optimization_steps",
    "learning_rate",
    "attn_scale",
    "layers",
    "style_weights",
    "reference_size",
    "seamless",
    "colors",
    "decoder_epochs",
    "rope",
}
_SAMPLING = {"guidance_scale", "adain", "start_time", "variant"}
_READS: Mapping[Algorithm | Baseline, set[str]] = {
    "optimize": _EVERY_TASK
    | {"timesteps", "early_stopping_patience", "early_stopping_threshold", "latents"},
    "sample": _EVERY_TASK | _SAMPLING | {"init"},
    "expand": _EVERY_TASK
    | _SAMPLING
    | {"view_size", "view_stride", "view_shift", "view_batch_size"},
    "adain": {"style_weights", "reference_size"},
    "gpdm": {
        *("num_optimization_steps", "learning_rate", "reference_size", "noise", "patch_size"),
        *("num_projections", "pyramid_factor", "coarsest_patches"),
    },
    "swd": {"num_optimization_steps", "reference_size", "noise", "num_draws"},
    "styleid": {
        *("num_inference_steps", "layers", "query_preservation", "attention_temperature"),
        *("style_weights", "reference_size"),
    },
    "external": set(),
    "quilting": {"patch_size", "reference_size", "noise"},
}

MEANT_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "draft": "style-transfer-draft",
        "expand": "texture-expand",
        "style": "style-transfer",
        "style-transfer-t2i": "style-t2i",
        "stylize": "style-transfer",
        "t2i": "style-t2i",
        "text-to-image": "style-t2i",
        "texture": "texture-optimize",
        "texture-synthesis": "texture-optimize",
        "transfer": "style-transfer",
        "txt2img": "style-t2i",
    }
)
"""What a person means by a task that there is not."""

REQUEST_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "content": "content",
        "layout": "content",
        "style": "styles",
        "texture": "styles",
        "source_mask": "source_mask",
        "target_mask": "target_mask",
        "control": "control_image",
        "external": "external",
    }
)
"""The field of a request that holds a role's images; a layout is the content of its texture."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A task under its public name.

    Attributes:
        roles: the images that it needs, in the order of their importance for the result.
        optional_roles: images that it can use besides.
        takes_prompt: whether a prompt says what is drawn.
        settings: the published numbers.
        summary: one line for people.
        size: pixels of the result's shorter side when a request gives no size.
        algorithm: `optimize` moves latents towards the references (Algorithm 1), `sample` denoises
            them and moves them at every timestep (Algorithm 2), `expand` does that in overlapping
            views of a large picture (MultiDiffusion); others are a baseline's.
    """

    name: str
    roles: tuple[str, ...]
    settings: Settings
    summary: str
    optional_roles: tuple[str, ...] = ()
    takes_prompt: bool = False
    size: int = 512
    algorithm: Algorithm | Baseline = "optimize"

    @property
    def is_baseline(self) -> bool:
        """Whether this is another method than ours, to compare with."""
        return self.algorithm in get_args(Baseline)

    @property
    def all_roles(self) -> tuple[str, ...]:
        """Every image that it needs or can use."""
        return (*self.roles, *self.optional_roles)

    @property
    def reference_role(self) -> str:
        """The role whose look is distilled: `style` or `texture`."""
        return next(role for role in self.roles if REQUEST_FIELDS[role] == "styles")

    @property
    def starts_from_content(self) -> bool:
        """Whether optimisation starts from a content that every request has: no noise is drawn."""
        return self.algorithm == "optimize" and any(
            REQUEST_FIELDS[role] == "content" for role in self.roles
        )

    def uses(self, setting: str) -> bool:
        """Whether the task reads a setting."""
        fields_used = {REQUEST_FIELDS[role] for role in self.all_roles}
        if self.is_baseline:
            return setting in _READS[self.algorithm]
        if setting == "content_weight":
            return not fields_used.isdisjoint({"content", "target_mask"})
        if setting == "controlnet_conditioning_scale":
            return "control_image" in fields_used
        if setting == "noise":
            return not self.starts_from_content
        return setting in _READS[self.algorithm]

    def check_family(self, family: Family) -> None:
        """Refuses models that the task is not defined for.

        Raises:
            RequestError: one of them; the message says what would do.
        """
        if self.algorithm == "styleid" and family.has_joint_attention:
            raise RequestError(
                f"{self.name} puts a style's keys and values into self-attention, and in "
                f"{family.title} words and picture attend together: load a model with a U-Net, "
                "such as sd15, or drop the task"
            )

    def settings_with(self, overrides: Mapping[str, Any]) -> Settings:
        """The published numbers with some replaced.

        Raises:
            RequestError: a setting that is unknown, out of range or of no use to this task.
        """
        settings = self.settings.updated(overrides)
        self.check(settings)
        return settings

    def check(self, settings: Settings) -> None:
        """Refuses settings that this task would silently ignore.

        Raises:
            RequestError: one of them differs from its default and the task does not read it.
        """
        for field in fields(settings):
            value = getattr(settings, field.name)
            if value != getattr(self.settings, field.name) and not self.uses(field.name):
                others = [preset.name for preset in PRESETS.values() if preset.uses(field.name)]
                raise RequestError(
                    f"{self.name} does not use {field.name}; got {shown(value)}: drop it, or "
                    f"choose one of {', '.join(others)}"
                )


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
                name="style-transfer-draft",
                roles=("content", "style"),
                settings=Settings(
                    num_inference_steps=45,
                    learning_rate=0.1,
                    content_weight=0.25,
                    timesteps="spread",
                    early_stopping_patience=8,
                ),
                summary="the same in a quarter of the time, by larger and better spread steps",
            ),
            Preset(
                name="appearance-transfer",
                roles=("content", "style"),
                settings=Settings(content_weight=0.2),
                summary="give the content's object the look of the style's object",
            ),
            Preset(
                name="style-t2i",
                roles=("style",),
                optional_roles=("content", "control"),
                takes_prompt=True,
                settings=Settings(
                    num_inference_steps=50,
                    num_optimization_steps=2,
                    learning_rate=0.015,
                    content_weight=0.25,
                    guidance_scale=7.0,
                    adain=True,
                    noise="by_draw",
                ),
                summary="draw a prompt in the style's manner; the numbers for SDXL",
                size=1024,
                algorithm="sample",
            ),
            Preset(
                name="style-t2i-sd15",
                roles=("style",),
                optional_roles=("content", "control"),
                takes_prompt=True,
                settings=Settings(
                    num_inference_steps=50,
                    num_optimization_steps=3,
                    learning_rate=0.015,
                    content_weight=0.25,
                    guidance_scale=7.5,
                    adain=True,
                    noise="by_draw",
                ),
                summary="draw a prompt in the style's manner; the numbers for Stable Diffusion 1.5",
                algorithm="sample",
            ),
            Preset(
                name="texture-optimize",
                roles=("texture",),
                settings=Settings(noise="by_draw"),
                summary="a new sample of a texture, optimised from noise",
            ),
            Preset(
                name="texture-sample",
                roles=("texture",),
                optional_roles=("control",),
                settings=Settings(
                    num_inference_steps=50, num_optimization_steps=3, noise="by_draw"
                ),
                summary="a new sample of a texture, drawn from the model: faster",
                algorithm="sample",
            ),
            Preset(
                name="texture-draft",
                roles=("texture",),
                optional_roles=("control",),
                settings=Settings(
                    num_inference_steps=8,
                    num_optimization_steps=5,
                    learning_rate=0.1,
                    noise="by_draw",
                ),
                summary="a texture in a quarter of texture-sample's time, by fewer, larger steps",
                algorithm="sample",
            ),
            Preset(
                name="texture-masked",
                roles=("target_mask", "source_mask", "texture"),
                settings=Settings(content_weight=0.15, noise="by_draw"),
                summary="lay a texture's labelled regions out anew, by a label map",
            ),
            Preset(
                name="texture-layout",
                roles=("layout", "texture"),
                settings=Settings(content_weight=0.25),
                summary="a texture whose parts lie where a rough painting puts their colours",
            ),
            Preset(
                name="texture-expand",
                roles=("texture",),
                settings=Settings(
                    num_inference_steps=50,
                    num_optimization_steps=3,
                    reference_size=512,
                    noise="by_draw",
                ),
                summary="a texture of any size up to 4096x4096, in overlapping views",
                size=1024,
                algorithm="expand",
            ),
            Preset(
                name="baseline-adain",
                roles=("content", "style"),
                settings=Settings(),
                summary="compare with: the content's latents with the style's statistics alone",
                algorithm="adain",
            ),
            Preset(
                name="baseline-gpdm",
                roles=("texture",),
                settings=Settings(
                    num_optimization_steps=300, learning_rate=0.01, patch_size=7, noise="by_draw"
                ),
                summary="compare with: a texture's patches matched, pixels moved without a network",
                algorithm="gpdm",
            ),
            Preset(
                name="baseline-swd",
                roles=("texture",),
                settings=Settings(num_optimization_steps=64, noise="by_draw"),
                summary=(
                    "compare with: a texture's features matched, the VAE encoder's in place of "
                    "VGG-19's"
                ),
                algorithm="swd",
            ),
            Preset(
                name="baseline-quilting",
                roles=("texture",),
                settings=Settings(patch_size=48, noise="by_draw"),
                summary="compare with: blocks of a texture, cut out and laid side by side",
                algorithm="quilting",
            ),
            Preset(
                name="baseline-styleid",
                roles=("content", "style"),
                settings=Settings(num_inference_steps=50),
                summary="compare with: StyleID, which draws the content with the style's keys",
                algorithm="styleid",
            ),
            Preset(
                name="external",
                roles=("external",),
                optional_roles=(
                    *("content", "layout", "style", "texture"),
                    *("source_mask", "target_mask", "control"),
                ),
                settings=Settings(),
                summary="compare with: a picture that another program has made, as it is",
                algorithm="external",
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
        raise RequestError(unknown_name("preset", name, PRESETS, MEANT_PRESETS))
    return PRESETS[name]
