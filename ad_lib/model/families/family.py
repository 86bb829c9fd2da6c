"""What has to be known of a family of models before any of its networks is imported?

Importing this module, and the facts of a family, loads neither torch nor diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ad_lib.errors import RequestError
from ad_lib.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Family:
    """Models that share their networks' classes, and so one class of backbone.

    Attributes:
        name: short, such as `sd15`.
        title: for messages, such as `Stable Diffusion 1.5`.
        hub_id: its best known model on the hub.
        networks: the parts that have weights, each with the name of its weights without
            `.safetensors`: `model` by transformers, `diffusion_pytorch_model` by diffusers.
        others: the parts without weights: tokenizers and the scheduler.
        denoiser: the network whose attention is distilled; its configuration tells the family.
        denoiser_kind: what it is called in messages, such as `U-Net`.
        owns: whether a denoiser's configuration is of this family.
        home: the package with its modules `loading` and `random_weights`.
        pixels_per_cell: along one axis of the latents.
        pixels_per_token: along one axis, in each of the layers that are distilled by default.
        prompt_task: the preset with its published numbers for pictures of a prompt.
        has_rotary_positions: whether its attention turns queries and keys by their places.
        has_joint_attention: whether the tokens of picture and prompt attend together.
        checkpoint_key: what some tensor's name begins with in a single file in the original
            layout; None where such files are not read.
    """

    name: str
    title: str
    hub_id: str
    networks: Mapping[str, str]
    others: tuple[str, ...]
    denoiser: str
    denoiser_kind: str
    owns: Callable[[Mapping[str, Any]], bool]
    home: str
    pixels_per_cell: int
    pixels_per_token: tuple[int, ...]
    prompt_task: str
    has_rotary_positions: bool = False
    has_joint_attention: bool = False
    checkpoint_key: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Every folder that a model of the family has."""
        return (*self.networks, *self.others)

    def check(self, settings: Settings) -> None:
        """Refuses settings that no model of the family can follow.

        Raises:
            RequestError: one of them does not fit; the message says what would.
        """
        if settings.rope != "shared" and not self.has_rotary_positions:
            raise RequestError(
                f"rope {settings.rope!r} is for models with rotary positions, and {self.title} has "
                "none: drop it"
            )

    def module(self, name: str) -> Any:
        """One of the modules of its package; imports torch and the networks' libraries.

        `loading` has `assembled(weights, load, dtype)`, `random_weights` has
        `build_networks(name, tiny=...)` and `assembled(name, networks, weights)`; both give a
        `Backbone` on the CPU.
        """
        return import_module(f"{self.home}.{name}")
