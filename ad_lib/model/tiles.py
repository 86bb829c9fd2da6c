"""How are latents of any size decoded in the memory of one tile?

Neighbouring tiles overlap and are blended; at every pixel their weights sum to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.windows import add, cut

Decode = Callable[[Tensor], Tensor]
"""(B, C, h, w) latents to (B, 3, factor * h, factor * w) pictures."""


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

    Neighbouring tiles overlap. The outer quarter of an overlap is context and not used, because
    decoded pixels at a tile's border are wrong; over the half in between the tiles are blended by
    a linear ramp. What a decoder computes from the whole picture (group norms, the attention of
    its middle block) it computes here from each tile, so tiles differ a little; the ramp hides it.

    Args:
        decode: a decoder that pads with zeros: not within `seamless`.
        latents: any size, in the dtype and on the device that the result shall have.
        tile: longest side of a tile, in latent cells.
        overlap: of neighbouring tiles, in latent cells.
        wrap: whether (rows, columns) continue at the opposite side; then tiles cross the border.
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
        for left, horizontal in zip(columns.starts, columns.weights, strict=True):
            tile_latents = cut(latents, top, left, rows.length, columns.length)
            image = decode(tile_latents).to(canvas)
            image = image * vertical.to(canvas)[:, None] * horizontal.to(canvas)
            add(canvas, image, top * factor, left * factor)
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
