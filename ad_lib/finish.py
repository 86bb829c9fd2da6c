"""How do latents become the finished picture: a tuned decoder, tiles, colours?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from ad_lib.inputs import BatchInputs
from ad_lib.model.seamless import cut_where_calm, seamless, wrapped_axes
from ad_lib.model.tiles import decode_tiled
from ad_lib.model.tuned_decoder import using_decoder
from ad_lib.pictures.colour import channel_statistics_map, keep_colours
from ad_lib.pictures.tensors import bands

WHOLE_UP_TO = 192
"""Latent cells; a picture with a longer side is decoded in tiles, to bound memory."""


def finished(inputs: BatchInputs, latents: Tensor) -> Tensor:
    """(b, 3, height, width) the pictures of finished latents, in [0, 1], at their exact size."""
    height, width = inputs.image_size
    with _tuned_decoder(inputs):
        images = _decoded(inputs, latents)[..., :height, :width]
    if not inputs.is_laid_out:
        images = cut_where_calm(images, inputs.settings.seamless)
    return _recoloured(inputs, images)


@contextmanager
def _tuned_decoder(inputs: BatchInputs) -> Iterator[None]:
    """The decoder fine-tuned on the batch's first reference, if the settings say so."""
    backbone, epochs = inputs.backbone, inputs.settings.decoder_epochs
    if epochs == 0:
        yield
        return
    tuned = backbone.tuned_decoders.tuned(
        backbone.vae,
        inputs.style_pixels(0),
        revision=backbone.weights.revision,
        num_epochs=epochs,
    )
    with using_decoder(backbone.vae, tuned):
        yield


def _decoded(inputs: BatchInputs, latents: Tensor) -> Tensor:
    backbone, axes = inputs.backbone, inputs.settings.seamless
    if max(latents.shape[-2:]) <= WHOLE_UP_TO:
        with seamless(backbone.vae, axes=axes):
            return backbone.decode(latents)
    factor = backbone.vae_scale_factor
    return decode_tiled(backbone.decode, latents, wrap=wrapped_axes(axes), factor=factor)


def _recoloured(inputs: BatchInputs, images: Tensor) -> Tensor:
    """With the colours that the settings ask for, each from its own content or first style.

    They are changed in place, band by band.
    """
    colors = inputs.settings.colors
    if colors != "result":
        for item, image in enumerate(images.split(1)):
            recolour = _RECOLOUR[colors](inputs, item, image)
            for rows in bands(image.shape[2]):
                image[:, :, rows] = recolour(image[:, :, rows], rows)
    return images


_Recolour = Callable[[Tensor, slice], Tensor]
"""A band of a picture, and which rows it is, to the same in other colours."""


def _in_colours_of_content(inputs: BatchInputs, item: int, image: Tensor) -> _Recolour:
    content = inputs.content_pixels(item)
    return lambda band, rows: keep_colours(band, content[:, :, rows].to(band))


def _in_colours_of_style(inputs: BatchInputs, item: int, image: Tensor) -> _Recolour:
    recolour = channel_statistics_map(image, inputs.style_pixels(item).to(image))
    return lambda band, rows: recolour(band)


_RECOLOUR = {"content": _in_colours_of_content, "style": _in_colours_of_style}
