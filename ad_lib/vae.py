"""The autoencoder's decoder, over canvases of any size and tuned to one example."""

from __future__ import annotations

import hashlib
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from ad_lib.errors import BackboneError
from ad_lib.tensors import pad_to_multiple

Decode = Callable[[Tensor], Tensor]
"""(B, C, h, w) latents to (B, 3, factor * h, factor * w) pictures."""

# ---------------------------------------------------------------------------- tiles


@dataclass(frozen=True)
class _Tiles:
    """How one axis is covered by equally long tiles.

    Attributes:
        size: cells of the whole axis.
        length: cells of a tile; longer than the axis where a single tile wraps around.
        starts: first cell of each tile.
        weights: (tiles, pixels of a tile); at every pixel of the axis they sum to one.
    """

    size: int
    length: int
    starts: list[int]
    weights: Tensor


@torch.no_grad()
def decode_tiled(
    decode: Decode,
    latents: Float[Tensor, "b c h w"],
    *,
    tile: int = 64,
    overlap: int = 16,
    wrap: tuple[bool, bool] = (False, False),
    factor: int = 8,
) -> Float[Tensor, "b 3 height width"]:
    """Decodes latents tile by tile; beside the result, memory is that of one tile.

    Neighbouring tiles overlap. The outer quarter of an overlap is context that is thrown away, so
    that no tile shows what its decoder made of its border; over the half in between the tiles are
    blended by a linear ramp. What a decoder computes from the whole picture (group norms, the
    attention of its middle block) it computes from each tile: tiles differ a little, and the
    ramps hide it.

    Args:
        decode: a decoder that pads with zeros: not within `seamless`.
        latents: any size, in the dtype and on the device that the result shall have.
        tile: longest side of a tile, in latent cells.
        overlap: of neighbouring tiles, in latent cells.
        wrap: whether (rows, columns) go on at the opposite side; then tiles run across the border.
        factor: pixels per latent cell along an axis.

    Raises:
        ValueError: the overlap does not leave a tile anything of its own.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap must lie in 0..{tile - 1} for tiles of {tile}; got {overlap}")
    height, width = latents.shape[2:]
    rows = _plan(height, tile, overlap, wraps=wrap[0], factor=factor)
    columns = _plan(width, tile, overlap, wraps=wrap[1], factor=factor)
    canvas = latents.new_zeros(len(latents), 3, height * factor, width * factor)
    for top, vertical in zip(rows.starts, rows.weights, strict=True):
        strip = _cells(latents, 2, top, rows.length)
        for left, horizontal in zip(columns.starts, columns.weights, strict=True):
            image = decode(_cells(strip, 3, left, columns.length)).to(canvas)
            image = image * vertical.to(canvas)[:, None] * horizontal.to(canvas)
            _add(canvas, image, top * factor, left * factor)
    return canvas


def _plan(size: int, tile: int, overlap: int, *, wraps: bool, factor: int) -> _Tiles:
    """As few tiles as there can be, as short as that allows, evenly spread."""
    covered = size if wraps else max(size - overlap, 1)
    count = math.ceil(covered / (tile - overlap))
    length = math.ceil(covered / count) + overlap
    if wraps:
        starts = [size * i // count for i in range(count)]
    else:
        length = min(length, size)
        starts = [(size - length) * i // max(count - 1, 1) for i in range(count)]
    return _Tiles(size, length, starts, _weights(size, length, starts, overlap, wraps, factor))


def _weights(
    size: int, length: int, starts: list[int], overlap: int, wraps: bool, factor: int
) -> Tensor:
    halo, pixels = overlap // 4 * factor, length * factor
    ramp = max((overlap - 2 * (overlap // 4)) * factor, 1)
    distance = torch.arange(pixels) + 0.5
    rising = ((distance - halo) / ramp).clamp(0, 1)
    weights = torch.ones(len(starts), pixels)
    weights[0 if wraps else 1 :] *= rising
    weights[: None if wraps else -1] *= rising.flip(0)

    places = (torch.tensor(starts)[:, None] * factor + torch.arange(pixels)) % (size * factor)
    total = torch.zeros(size * factor).index_add_(0, places.flatten(), weights.flatten())
    return weights / total[places]


def _cells(latents: Tensor, axis: int, start: int, length: int) -> Tensor:
    """`length` cells along an axis from `start` on, going on at the beginning after the end."""
    size = latents.shape[axis]
    return latents.index_select(axis, (torch.arange(length) + start).to(latents.device) % size)


def _add(canvas: Tensor, image: Tensor, top: int, left: int) -> None:
    """Adds a tile to the canvas; what runs over an edge goes on at the opposite one."""
    height, width = canvas.shape[2:]
    for row, y, rows in _runs(top, image.shape[2], height):
        for column, x, columns in _runs(left, image.shape[3], width):
            part = image[:, :, row : row + rows, column : column + columns]
            canvas[:, :, y : y + rows, x : x + columns] += part


def _runs(start: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(offset in the tile, place on the axis, length) of the pieces that do not cross the end."""
    offset = 0
    while offset < length:
        place = (start + offset) % size
        run = min(length - offset, size - place)
        yield offset, place, run
        offset += run


# ---------------------------------------------------------------------------- tuned decoders


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """A decoder that was fine-tuned on one picture.

    Attributes:
        weights: of the decoder alone, under the names that the autoencoder gives them
            (`decoder.*`), in float32 on the CPU.
        losses: (epochs,) mean |decoded - picture| in [-1, 1], each before its update.
    """

    weights: dict[str, Tensor]
    losses: Tensor


def finetune_decoder(
    vae: AutoencoderKL,
    image: Float[Tensor, "1 3 h w"],
    *,
    num_epochs: int = 75,
    learning_rate: float = 1e-4,
) -> TunedDecoder:
    """Teaches a copy of the decoder to give this one picture back, its high frequencies too.

    The autoencoder is left as it was. Everything is computed in float32, whatever its precision.
    Only the decoder learns: the latents are the posterior mean of the frozen encoder, computed
    once, and the convolution before the decoder stays.

    Args:
        vae: not within `seamless`, unless the picture is.
        image: in [0, 1]; sides that the autoencoder does not divide are padded by their edge.
        num_epochs: steps of Adam.
        learning_rate: of Adam.

    Reference: Zhou et al. 2025 (arXiv:2502.20235), and its published script.
    """
    learner = deepcopy(vae).float().eval().requires_grad_(False)
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    pixels = pad_to_multiple(2 * image.float() - 1, factor).to(vae.device)
    with torch.no_grad():
        latents: Any = learner.encode(pixels, return_dict=False)[0].mode()
    losses = []
    with torch.enable_grad():
        optimizer = torch.optim.Adam(
            learner.decoder.requires_grad_().parameters(), lr=learning_rate
        )
        for _ in range(num_epochs):
            loss = (learner.decode(latents, return_dict=False)[0] - pixels).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    weights = {f"decoder.{name}": value for name, value in learner.decoder.state_dict().items()}
    trace = torch.stack(losses) if losses else torch.empty(0)
    return TunedDecoder({name: value.cpu() for name, value in weights.items()}, trace.cpu())


@contextmanager
def using_decoder(vae: AutoencoderKL, tuned: TunedDecoder) -> Iterator[None]:
    """Within it the autoencoder decodes with tuned weights, in its own precision.

    Afterwards, also after an exception, its own weights are back: the same tensors.

    Raises:
        BackboneError: the weights are those of another autoencoder's decoder.
    """
    parameters = {f"decoder.{name}": one for name, one in vae.decoder.named_parameters()}
    _check_same_shapes(parameters, tuned.weights)
    originals = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tuned.weights[name].to(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = originals[name]


def _check_same_shapes(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name in sorted(parameters.keys() | weights.keys()):
        ours, theirs = (
            tuple(one[name].shape) if name in one else None for one in (parameters, weights)
        )
        if ours != theirs:
            raise BackboneError(
                f"the tuned decoder's {name} has the shape {theirs}, this autoencoder's {ours}: "
                "tune it with the same model"
            )


class DecoderCache:
    """Tuned decoders by content: an example is tuned to once, whoever asks for it again.

    The least recently used ones are forgotten; in a folder they stay, one safetensors file each,
    and other processes find them. For one rendering thread at a time.

    Args:
        capacity: decoders held in memory; one of Stable Diffusion takes 200 MB.
        folder: where they are kept too; None is nowhere.
    """

    def __init__(self, capacity: int = 4, folder: Path | None = None) -> None:
        self.capacity = capacity
        self.folder = folder
        self._held: OrderedDict[str, TunedDecoder] = OrderedDict()

    def tuned(
        self,
        vae: AutoencoderKL,
        image: Float[Tensor, "1 3 h w"],
        *,
        revision: str,
        num_epochs: int = 75,
        learning_rate: float = 1e-4,
    ) -> TunedDecoder:
        """The decoder tuned to a picture, by `finetune_decoder` where it is not known yet.

        Args:
            vae: as in `finetune_decoder`.
            image: as in `finetune_decoder`.
            revision: which weights the autoencoder has, such as `Backbone.weights.revision`.
            num_epochs: as in `finetune_decoder`.
            learning_rate: as in `finetune_decoder`.
        """
        key = _key(image, revision, str(vae.dtype), num_epochs, learning_rate)
        decoder = self._held.pop(key, None) or self._stored(key)
        if decoder is None:
            decoder = finetune_decoder(
                vae, image, num_epochs=num_epochs, learning_rate=learning_rate
            )
            self._store(key, decoder)
        self._held[key] = decoder
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
        return decoder

    def _stored(self, key: str) -> TunedDecoder | None:
        if self.folder is None or not (path := self.folder / f"{key}.safetensors").exists():
            return None
        weights = load_file(path)
        return TunedDecoder(losses=weights.pop("losses"), weights=weights)

    def _store(self, key: str, decoder: TunedDecoder) -> None:
        """Under its name only when it is complete; of two writers the last one stays."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.{os.getpid()}.partial"
        save_file({**decoder.weights, "losses": decoder.losses}, partial)
        partial.replace(self.folder / f"{key}.safetensors")


def _key(image: Tensor, *identity: object) -> str:
    digest = hashlib.sha256(repr((tuple(image.shape), *identity)).encode())
    digest.update(image.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
