"""How do the pictures and words of a batch's requests become latents, regions and prompts?

Invariant: each distinct picture is encoded once and alone, so that no item depends on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import noised_start
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.noise import Noise, draw_together
from ad_lib.encoded import EncodedPictures
from ad_lib.model.backbone import Backbone
from ad_lib.model.denoise import NoisePredictor
from ad_lib.model.prompts import PromptEmbeds, joined
from ad_lib.pictures.hashes import picture_digest
from ad_lib.pictures.masks import label_map
from ad_lib.pictures.tensors import image_to_tensor, pad_to_multiple
from ad_lib.pictures.textures import region_random
from ad_lib.requests import Request, fit_role
from ad_lib.settings import Settings


@dataclass(frozen=True)
class BatchInputs:
    """What requests that agree in everything but their pictures, words and seeds are made of.

    Attributes:
        backbone: the frozen model.
        requests: of one batch.
        noise: of each request.
        encoded: what earlier batches have encoded.
    """

    backbone: Backbone
    requests: Sequence[Request]
    noise: Sequence[Noise]
    encoded: EncodedPictures = field(default_factory=EncodedPictures)

    @property
    def settings(self) -> Settings:
        """The settings that all of them have."""
        return self.requests[0].settings

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of every result."""
        return self.requests[0].height, self.requests[0].width

    @property
    def is_laid_out(self) -> bool:
        """Whether a picture says what lies where, so that results must not be shifted."""
        first = self.requests[0]
        return any((first.content, first.target_mask, first.control_image))

    @cached_property
    def style(self) -> References:
        """The references' clean latents."""
        styles = [[self._fitted("style", one) for one in of.styles] for of in self.requests]
        return self._encoded(styles, self.settings.style_weights)

    @cached_property
    def content(self) -> References | None:
        """The contents' clean latents; a masked texture's content is where it starts."""
        if self.requests[0].target_mask is not None:
            starts = [self._masked_start(item) for item in range(len(self.requests))]
            return References(starts, [[item] for item in range(len(starts))])
        contents = [one.content for one in self.requests if one.content is not None]
        if not contents:
            return None
        return self._encoded([[self._fitted("content", one)] for one in contents])

    def encode(self) -> None:
        """Encodes every picture now, so that what follows is the algorithm alone."""
        _ = self.style, self.content

    @property
    def initial_latents(self) -> Tensor:
        """Where sampling starts, drawn under the tag `init`: noise, or the style under noise."""
        if self.settings.init == "style":
            dynamics = self.backbone.dynamics(self.settings.num_inference_steps, self.image_size)
            return noised_start(self.style, dynamics, self.noise)
        height, width = (-(-side // self.backbone.vae_scale_factor) for side in self.image_size)
        shape = (self.backbone.latent_channels, height, width)
        return draw_together(self.noise, "init", shape).to(self.backbone.device)

    def style_pixels(self, item: int, number: int = 0) -> Tensor:
        """(1, 3, h, w) one of an item's references, in [0, 1]."""
        return image_to_tensor(self._fitted("style", self.requests[item].styles[number]))

    def style_pictures(self, item: int) -> list[Tensor]:
        """Each (1, 3, h, w) all of an item's references, in [0, 1]."""
        numbers = range(len(self.requests[item].styles))
        return [self.style_pixels(item, number) for number in numbers]

    def content_pixels(self, item: int) -> Tensor:
        """(1, 3, height, width) an item's content, in [0, 1]."""
        content = self.requests[item].content
        assert content is not None, "a request that keeps its content's colours has a content"
        return image_to_tensor(self._fitted("content", content))

    def external_pixels(self, item: int) -> Tensor:
        """(1, 3, height, width) the picture that another program has made of an item, in [0, 1]."""
        external = self.requests[item].external
        assert external is not None, "the task has such a picture"
        return image_to_tensor(self._fitted("external", external))

    def noise_predictor(self, image_size: tuple[int, int] | None = None) -> NoisePredictor:
        """The denoiser under the items' prompts, at (height, width) pixels or the result's."""
        return self.backbone.noise_predictor(
            image_size or self.image_size,
            self._prompts([one.prompt for one in self.requests], self.backbone.encode_prompt),
            self._prompts(
                [one.negative_prompt for one in self.requests],
                self.backbone.encode_negative_prompt,
            ),
            self.settings.guidance_scale,
            self._control,
        )

    @property
    def _control(self) -> Any:
        images = [one.control_image for one in self.requests if one.control_image is not None]
        if not images:
            return None
        pixels = torch.cat([self._pixels(self._fitted("control", image)) for image in images])
        return self.backbone.control(pixels, self.settings.controlnet_conditioning_scale)

    @cached_property
    def regions(self) -> Regions | None:
        """Which tokens of its texture each item may see; None where there are no masks."""
        masks = [self._label_maps(one) for one in self.requests if one.target_mask is not None]
        if not masks:
            return None
        source, target = zip(*masks, strict=True)
        return Regions(
            source,
            target,
            source_size=self._latent_size(source[0]),
            target_size=self._latent_size(target[0]),
            token_grids=self.backbone.token_grids,
            device=self.backbone.device,
        )

    def _latent_size(self, labels: Tensor) -> tuple[int, int]:
        height, width = (side // self.backbone.vae_scale_factor for side in labels.shape)
        return height, width

    def _label_maps(self, request: Request) -> tuple[Tensor, Tensor]:
        """The labels of the texture and of the result, padded as their pictures are."""
        assert request.source_mask is not None, "requests have both masks or none"
        assert request.target_mask is not None, "requests have both masks or none"
        masks = {"source_mask": request.source_mask, "target_mask": request.target_mask}
        source, target = (
            self._padded(label_map(self._fitted(role, mask)).double()[None, None])[0, 0].long()
            for role, mask in masks.items()
        )
        return source, target

    def _masked_start(self, item: int) -> Tensor:
        request = self.requests[item]
        source, target = self._label_maps(request)
        texture = self._pixels(self._fitted("texture", request.styles[0]))
        start = region_random(texture, source, target, self.noise[item])
        return self.backbone.encode(start)[0]

    def _encoded(
        self, pictures: Sequence[Sequence[Image.Image]], weights: Sequence[float] | None = None
    ) -> References:
        rows: dict[str, int] = {}
        latents: list[Tensor] = []
        for image in (image for of_item in pictures for image in of_item):
            digest = picture_digest(image)
            if digest not in rows:
                rows[digest] = len(latents)
                latents.append(self._latents(image, digest))
        index = [[rows[picture_digest(image)] for image in of_item] for of_item in pictures]
        return References(latents, index, weights)

    def _latents(self, image: Image.Image, digest: str) -> Tensor:
        """A picture's latents; of a seamless task, what wraps around follows from all of this."""
        wraps = self.settings.seamless != "none"
        where = (self.requests[0].task, self.image_size, repr(self.settings)) if wraps else ()
        return self.encoded.latents(
            self.backbone, (digest, where), lambda: self.backbone.encode(self._pixels(image))[0]
        )

    def _fitted(self, role: str, image: Image.Image) -> Image.Image:
        height, width = self.image_size
        return fit_role(role, image, width, height, self.settings)

    def _pixels(self, image: Image.Image) -> Tensor:
        return self._padded(image_to_tensor(image))

    def _padded(self, pixels: Tensor) -> Tensor:
        return pad_to_multiple(pixels, self.backbone.vae_scale_factor)

    @staticmethod
    def _prompts(texts: Sequence[Any], encode: Callable[[Any], PromptEmbeds]) -> PromptEmbeds:
        known = {text: encode(text) for text in dict.fromkeys(texts)}
        return known[texts[0]] if len(known) == 1 else joined([known[text] for text in texts])
