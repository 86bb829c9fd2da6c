"""What is rendered to be measured: a task on made-up pictures, in a size, a number and a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ad_lib.algorithm.multidiffusion import Views
from ad_lib.bench.pictures import disc, synthetic_picture, two_halves
from ad_lib.errors import RequestError
from ad_lib.presets import Preset, find_preset
from ad_lib.requests import Request

_PROMPTS = ("a red fox", "a house by the sea", "a bowl of fruit", "a street at night")
_FIRST_STYLE = 1000
"""The number of the first style's picture; those of contents count from 0."""

MAX_PICTURES = 4096
"""Of one workload."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Pictures to make.

    Attributes:
        task: a preset's name.
        size: pixels of each side of a result.
        batch_size: pictures that run together; for `texture-expand` the views of one picture.
        contents: number of contents, each under each style; of prompts, or of samples of a texture,
            where the task has no content.
        styles: number of styles, or of textures.
        settings: what replaces the preset's numbers.

    Raises:
        RequestError: the task does not take these numbers.
    """

    task: str
    size: int
    batch_size: int = 1
    contents: int = 1
    styles: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("batch_size", "contents", "styles"):
            if getattr(self, name) < 1:
                raise RequestError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.num_pictures > MAX_PICTURES:
            raise RequestError(
                f"{self.contents} contents under {self.styles} styles are {self.num_pictures} "
                f"pictures, more than {MAX_PICTURES}: ask for fewer"
            )

    @property
    def preset(self) -> Preset:
        """The task."""
        return find_preset(self.task)

    @property
    def num_pictures(self) -> int:
        """Pictures in all."""
        return self.contents * self.styles

    def requests(self) -> list[Request]:
        """The pictures, style by style; each has a seed of its own."""
        return [
            self._request(content, style)
            for style in range(self.styles)
            for content in range(self.contents)
        ]

    def num_views(self, vae_scale_factor: int) -> int | None:
        """Views of all steps together, each counted when it is looked at; None without views."""
        if self.preset.algorithm != "expand":
            return None
        settings = self.preset.settings_with(self._settings(self.preset))
        views = Views(
            size=settings.view_size, stride=settings.view_stride, shift=settings.view_shift
        )
        side = -(-self.size // vae_scale_factor)
        return views.count(side, side, settings.num_inference_steps)

    def _request(self, content: int, style: int) -> Request:
        preset, parts = self.preset, dict[str, Any]()
        if {"content", "layout"} & set(preset.roles):
            parts["content"] = synthetic_picture(content, self.size)
        if "target_mask" in preset.roles:
            parts |= {"source_mask": two_halves(self.size), "target_mask": disc(self.size)}
        if preset.takes_prompt:
            parts["prompt"] = _PROMPTS[content % len(_PROMPTS)]
        return Request.preset(
            self.task,
            styles=[synthetic_picture(_FIRST_STYLE + style, self.size)],
            width=self.size,
            height=self.size,
            seed=style * self.contents + content,
            **parts,
            **self._settings(preset),
        )

    def _settings(self, preset: Preset) -> dict[str, Any]:
        if preset.algorithm != "expand":
            return dict(self.settings)
        reference = min(preset.settings.reference_size or self.size, self.size)
        fitting = {"reference_size": reference, "view_batch_size": self.batch_size}
        return {**fitting, **self.settings}
