"""What does Attention Distillation need of a frozen model: encode, decode, predict, features.

Invariant: nothing outside of `families` knows which family a backbone is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ad_lib.algorithm.dynamics import Dynamics
from ad_lib.errors import BackboneError, RequestError
from ad_lib.model.compile_cache import CompileCache, cache_folder
from ad_lib.model.compiling import Compiled, Compiler, inductor_options
from ad_lib.model.decoder_cache import DecoderCache
from ad_lib.model.denoise import NoisePredictor
from ad_lib.model.devices import device_name
from ad_lib.model.families.family import Family
from ad_lib.model.parts import LoadPart
from ad_lib.model.prompts import PromptEmbeds
from ad_lib.model.room import CellBytes
from ad_lib.model.seamless import seamless
from ad_lib.model.taps import FeatureExtractor, Tap
from ad_lib.model.techniques import Techniques
from ad_lib.model.trial_pass import cell_bytes
from ad_lib.model.weight_files import quoted
from ad_lib.model.weights import Weights
from ad_lib.settings import Seamless, Settings

NUM_DEFAULT_LAYERS = 6
"""The published method distils the last six self-attention layers."""


class Backbone(ABC):
    """A frozen latent diffusion model; what differs between families is abstract or a hook.

    Args:
        networks: by the names of their parts; the family's denoiser and `vae` are among them.
        tokenizers: by the names of their parts.
        scheduler: with the model's own numbers.
        weights: where the parts came from.

    Attributes:
        layers: the attention modules that can be distilled, in execution order.
        wraps_around: whether the denoiser can go on at the opposite side of a picture.
    """

    family: Family
    layers: Sequence[nn.Module]
    _controlnet: Any = None
    wraps_around: bool = False

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        tokenizers: Mapping[str, Any],
        scheduler: Any,
        weights: Weights,
    ) -> None:
        for part, network in networks.items():
            name = "_controlnet" if part == "controlnet" else part  # laid out with all others below
            setattr(self, name, network.eval().requires_grad_(False))
        self.text_encoders: list[Any] = [
            network for part, network in networks.items() if part.startswith("text_encoder")
        ]
        self.tokenizers = list(tokenizers.values())
        self.scheduler = scheduler
        self.weights = weights
        self.controlnet_weights: Weights | None = None
        self.tuned_decoders = DecoderCache()
        self._techniques = Techniques()
        self._lay_out()

    vae: Any

    @property
    def denoiser(self) -> Any:
        """The network whose attention is distilled."""
        return getattr(self, self.family.denoiser)

    @property
    def networks(self) -> list[nn.Module]:
        """Every network, each once."""
        found = [self.denoiser, self.vae, *self.text_encoders, self.controlnet]
        return [one for one in found if one is not None]

    @property
    def device(self) -> torch.device:
        """Where the networks live."""
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision; latents, losses and the optimiser stay in float32."""
        return self.denoiser.dtype

    def to(self, device: str | torch.device) -> Self:
        """The same backbone with its networks on another device."""
        for network in self.networks:
            nn.Module.to(network, device)
        for of_device in ("null_prompt", "compiler"):
            vars(self).pop(of_device, None)
        self._lay_out()
        return self

    @property
    def controlnet(self) -> Any:
        """Adds to what the denoiser computes; None where there is none."""
        return self._controlnet

    @controlnet.setter
    def controlnet(self, network: Any) -> None:
        self._controlnet = network
        self._lay_out()

    @property
    def techniques(self) -> Techniques:
        """What is done to make the networks faster; another value counts from the next render."""
        return self._techniques

    @techniques.setter
    def techniques(self, techniques: Techniques) -> None:
        self._techniques = techniques
        self._lay_out()

    @property
    def chosen_techniques(self) -> Techniques:
        """The techniques with every choice made: for this device, and after compiling failed."""
        wanted = self._techniques
        if self.compiler.has_failed:
            wanted = replace(wanted, compile="off")
        return wanted.on(self.device.type)

    @cached_property
    def compiler(self) -> Compiler:
        """Compiles functions for this backbone on its device."""
        cache = CompileCache(
            cache_folder(), device_name(self.device), self.weights.revision, self.dtype
        )
        return Compiler(cache=cache)

    def compilation(self, num_cells: int) -> Compiled | None:
        """How the functions of a render are compiled; None where they run as they are written.

        Args:
            num_cells: of the latents of a batch.
        """
        chosen = self.chosen_techniques
        if chosen.compile == "off":
            return None
        return Compiled(self.compiler, inductor_options(chosen, num_cells))

    def _lay_out(self) -> None:
        """Brings the weights into the layout that convolutions like, or into the usual one."""
        layout: Any = torch.contiguous_format
        if self._techniques.on(self.device.type).channels_last:
            layout = torch.channels_last
        for network in (self.denoiser, self.vae, self.controlnet):
            if network is not None:
                nn.Module.to(network, memory_format=layout)  # pyright: ignore[reportCallIssue]

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of a latent: 4 for Stable Diffusion, more for some."""

    @property
    @abstractmethod
    def vae_scale_factor(self) -> int:
        """Pixels per latent cell along one axis."""

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """The denoiser's latents (of the posterior mean) of images in [0, 1], in float32."""
        pixels = (2 * images - 1).to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels, return_dict=False)[0]
        return self.normalized(posterior.mode().float())

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Images in [0, 1] of the denoiser's latents, in float32, decoded one by one."""
        decodable = self.denormalized(latents).to(self.device, self.vae.dtype)
        images = [self.vae.decode(one, return_dict=False)[0] for one in decodable.split(1)]
        return (torch.cat(images).float() / 2 + 0.5).clamp(0, 1)

    @abstractmethod
    def normalized(self, latents: Tensor) -> Tensor:
        """From the autoencoder's latents to the denoiser's, about unit variance."""

    @abstractmethod
    def denormalized(self, latents: Tensor) -> Tensor:
        """From the denoiser's latents to the autoencoder's."""

    @abstractmethod
    def encode_prompt(self, prompt: str, prompt_2: str | None = None) -> PromptEmbeds:
        """One prompt as the denoiser takes it.

        Args:
            prompt: what is drawn.
            prompt_2: for a second text encoder, where there is one; None is the same prompt.
        """

    def encode_negative_prompt(self, prompt: str | None) -> PromptEmbeds:
        """What guidance leads away from; None is the model's own default: the empty prompt."""
        return self.encode_prompt(prompt or "")

    @cached_property
    def null_prompt(self) -> PromptEmbeds:
        """The encoded empty prompt, which conditions every feature pass."""
        return self.encode_prompt("")

    @abstractmethod
    def dynamics(
        self, num_inference_steps: int, image_size: tuple[int, int] | None = None
    ) -> Dynamics:
        """The sampler for one number of steps.

        Args:
            num_inference_steps: how many steps a sample takes.
            image_size: (height, width) in pixels of the picture that the network is given; some
                models choose their noise levels by it. None is the size that they were trained at.
        """

    @cached_property
    def cell_bytes(self) -> CellBytes:
        """What the network takes for each latent cell, which says how many items fit together."""
        return cell_bytes(self.feature_extractor(), self.denoiser, self.latent_channels)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all networks' weights."""
        return sum(weight.nbytes for one in self.networks for weight in one.parameters())

    def timesteps(self, num_inference_steps: int) -> Tensor:
        """(T,) the sampler's timesteps, descending."""
        levels = self.dynamics(num_inference_steps).timesteps
        return torch.stack([level.tensor for level in levels])

    @abstractmethod
    def predict(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, conditioning: Mapping[str, Any]
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's output for latents, in the form in which the sampler takes it.

        Args:
            latents: gradients flow back to them.
            timestep: one for all.
            conditioning: from `PromptEmbeds.conditioning`.
        """

    @abstractmethod
    def tap(self, last: nn.Module) -> Tap:
        """What records the features of some layers; `last` is the last of them."""

    def knowing_prompt(self, prompt: PromptEmbeds, tap: Tap) -> Mapping[Any, Any]:
        """Attention processors that compute once what follows from the feature passes' prompt.

        Args:
            prompt: of every feature pass.
            tap: says which passes are for features.

        Returns:
            By module; empty for families whose attention mixes prompt and picture.
        """
        return {}

    @abstractmethod
    def token_grids(self, latent_size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """The (rows, columns) of the tokens on every level, for latents of (height, width)."""

    def feature_extractor(
        self,
        layers: tuple[int, int] | None = None,
        image_size: tuple[int, int] | None = None,
        prompt: PromptEmbeds | None = None,
    ) -> FeatureExtractor:
        """The denoiser as a callable from latents to the features of a range of layers.

        Args:
            layers: half-open range in execution order; None is the last six.
            image_size: (height, width) in pixels of the picture in the making, which SDXL is told
                for references of other sizes too; None is the size of the latents at hand.
            prompt: conditions the features; None is the empty prompt, as published.

        Raises:
            RequestError: the denoiser has no such layers.
        """
        condition = prompt or self.null_prompt
        if image_size is not None:
            condition = condition.for_size(image_size)

        def run(latents: Tensor, timestep: Tensor) -> None:
            size = image_size or self._pixels(latents)
            self.predict(latents, timestep, condition.conditioning(len(latents), size))

        chosen = self._chosen(layers)
        tap = self.tap(chosen[-1])
        knows = self.chosen_techniques.constant_cross_attention
        return FeatureExtractor(
            run, chosen, tap, self.knowing_prompt(condition, tap) if knows else {}
        )

    def noise_predictor(
        self,
        image_size: tuple[int, int],
        prompt: PromptEmbeds | None = None,
        negative_prompt: PromptEmbeds | None = None,
        guidance_scale: float = 1.0,
        control: Any = None,
    ) -> NoisePredictor:
        """The denoiser as a callable from latents to its prediction, in float32.

        Args:
            image_size: (height, width) in pixels of the picture that the network is given.
            prompt: for each latent or for all; None is the empty prompt.
            negative_prompt: what guidance leads away from; None is the model's own default.
            guidance_scale: 1 is no guidance.
            control: for families with ControlNets.
        """
        assert control is None, "only a family with ControlNets is given a control"
        return NoisePredictor(
            predict=self.predict,
            prompt=prompt or self.null_prompt,
            image_size=image_size,
            negative_prompt=negative_prompt or self.encode_negative_prompt(None),
            guidance_scale=guidance_scale,
        )

    def add_controlnet(self, weights: Weights, load: LoadPart) -> None:
        """Loads a ControlNet for the denoiser.

        Raises:
            BackboneError: it does not fit, or the family has none.
        """
        raise BackboneError(
            f"{quoted(weights.model_id)} cannot be used: {self.family.title} takes no ControlNet; "
            "drop it, or load a model of Stable Diffusion"
        )

    def control(self, images: Float[Tensor, "b 3 height width"], scale: float = 1.0) -> Any:
        """Control images in the form that `noise_predictor` takes, in [0, 1], one for each latent.

        Raises:
            RequestError: there is no ControlNet.
        """
        raise RequestError(
            f"a control image needs a ControlNet, and {self.family.title} takes none: drop it, or "
            "load a model of Stable Diffusion with load_backbone(..., controlnet=...)"
        )

    def check(self, settings: Settings, image_size: tuple[int, int]) -> None:
        """Refuses settings that this model cannot follow; what no model can, a request refuses.

        Args:
            settings: of a request.
            image_size: (height, width) of its result, in pixels.

        Raises:
            RequestError: one of them does not fit; the message says what would.
        """
        self._chosen(settings.layers)
        self.family.check(settings)
        for name, side, axes in zip(
            ("height", "width"), image_size, (("y", "both"), ("x", "both")), strict=True
        ):
            cell = self.vae_scale_factor
            if settings.seamless in axes and side % cell:
                raise RequestError(
                    f"a picture that is seamless along {axes[0]} needs a {name} divisible by "
                    f"{cell} with {self.family.title}; got {side}: make it "
                    f"{max(round(side / cell), 1) * cell}"
                )

    def seamless(self, axes: Seamless) -> AbstractContextManager[None]:
        """Within it the networks continue at the opposite side of a picture.

        Raises:
            RequestError: the denoiser cannot; its tokens have places on a plane.
        """
        if axes != "none" and not self.wraps_around:
            raise RequestError(
                f"seamless {axes!r}: {self.family.title} gives its tokens places on a plane, which "
                "cannot go on at the opposite side; use texture-expand at a size above its views, "
                "or a model with a U-Net"
            )
        networks = (self.denoiser, self.vae, self.controlnet)
        return seamless(*(one for one in networks if one is not None), axes=axes)

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write a diffusers folder that `load_backbone` and diffusers' pipelines read."""

    def _pixels(self, latents: Tensor) -> tuple[int, int]:
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        return height, width

    def _chosen(self, layers: tuple[int, int] | None) -> Sequence[nn.Module]:
        total = len(self.layers)
        start, stop = layers or (max(total - NUM_DEFAULT_LAYERS, 0), total)
        if stop > total:
            raise RequestError(
                f"layers must lie in 0..{total}, this {self.family.denoiser_kind} has {total} "
                f"self-attention layers; got [{start}, {stop}). A range for another model?"
            )
        return self.layers[start:stop]
