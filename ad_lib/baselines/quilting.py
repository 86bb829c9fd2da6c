"""Image quilting: what do blocks of the texture give, cut out and laid side by side?

Reference: Efros and Freeman 2001, "Image Quilting for Texture Synthesis and Transfer", section 2.1.
Invariant: every pixel of the result is a pixel of a texture; nothing is blended. Errors are sums of
whole numbers, so that a seed chooses the same blocks on every machine.

The paper's rule is followed to the letter: where a block can be continued by its neighbour in the
texture, the best error is 0 and nothing else is within the tolerance. So textures that are as large
as the result are copied in long runs, which the figure `patch_copy` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from ad_lib.algorithm.noise import Noise
from ad_lib.inputs import BatchInputs

OVERLAP = 1 / 6
"""Of a block with those before it; the published one."""

TOLERANCE = (11, 10)
"""The largest error of a block that may be taken, over that of the best one; the published one."""


class Place(NamedTuple):
    """Where a block was cut out: the number of its texture, and its first row and column there."""

    texture: int
    row: int
    column: int


def textured_by_quilting(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """A picture of blocks for each item, of `patch_size` pixels on a side.

    Args:
        inputs: of one batch; of several textures blocks come from all.
        on_step_end: told after each row of blocks of the whole batch.

    Returns:
        Pictures in [0, 1].
    """
    quilts = [
        Quilt(
            [_whole_numbers(pixels) for pixels in inputs.style_pictures(item)],
            inputs.settings.patch_size,
            inputs.image_size,
            noise,
        )
        for item, noise in enumerate(inputs.noise)
    ]
    rows, columns = quilts[0].num_blocks
    for row in range(rows):
        for quilt, column in product(quilts, range(columns)):
            quilt.lay(row, column)
        on_step_end(1, rows)
    return torch.stack([quilt.picture for quilt in quilts]).float() / 255


class Quilt:
    """A picture that is laid block by block, in raster order.

    Attributes:
        places: where the blocks come from, in the order in which they were laid.
    """

    def __init__(
        self,
        textures: Sequence[Float[Tensor, "3 _ _"]],
        side: int,
        size: tuple[int, int],
        noise: Noise,
    ) -> None:
        """An empty picture.

        Args:
            textures: whole numbers in 0..255, none smaller than a block.
            side: of a block, in pixels.
            size: (height, width) that is wanted.
            noise: of the item; its draw `quilting` says which of the good blocks are taken.
        """
        self.places: list[Place] = []
        self._textures = textures
        self._searches = [BlockSearch(texture, side) for texture in textures]
        self._side, self._size = side, size
        self._tops, self._lefts = (block_starts(length, side) for length in size)
        drawn = noise("quilting", 0, (len(self._tops), len(self._lefts)))
        self._shares = torch.special.ndtr(drawn.double())  # uniform in 0..1
        laid_size = (self._tops[-1] + side, self._lefts[-1] + side)
        self._pixels = torch.zeros(3, *laid_size, dtype=torch.float64)

    @property
    def num_blocks(self) -> tuple[int, int]:
        """How many rows and columns of blocks there are."""
        return len(self._tops), len(self._lefts)

    @property
    def picture(self) -> Float[Tensor, "3 height width"]:
        """What is laid, 0..255; the last blocks may have reached beyond it."""
        return self._pixels[:, : self._size[0], : self._size[1]]

    def laid_at(self, row: int, column: int) -> Float[Tensor, "3 side side"]:
        """What is laid already where a block goes; a view, which the block is written into."""
        top, left = self._tops[row], self._lefts[column]
        return self._pixels[:, top : top + self._side, left : left + self._side]

    def lay(self, row: int, column: int) -> None:
        """Lays the next block, which touches those above it and before it."""
        laid, touches = self.laid_at(row, column), {"above": row > 0, "before": column > 0}
        overlaps = overlaps_of(self._side, **touches)
        errors = [search.errors(laid, overlaps) for search in self._searches]
        place = chosen(errors, float(self._shares[row, column]))
        self.places.append(place)
        rows = slice(place.row, place.row + self._side)
        columns = slice(place.column, place.column + self._side)
        block = self._textures[place.texture][:, rows, columns]
        is_new = beyond_cuts(laid, block, **touches)
        laid[:, is_new] = block[:, is_new]


def overlap_of(side: int) -> int:
    """Pixels that a block of this side shares with the one before it."""
    return max(1, round(side * OVERLAP))


def block_starts(length: int, side: int) -> range:
    """Where blocks start along an axis: they cover it, and the last may reach beyond."""
    overlap = overlap_of(side)
    return range(0, length - overlap, side - overlap)


def overlaps_of(side: int, *, above: bool, before: bool) -> Bool[Tensor, "side side"]:
    """The pixels of a block that lie on blocks `above` it, or on the one `before` it."""
    overlap = overlap_of(side)
    overlaps = torch.zeros(side, side, dtype=torch.bool)
    overlaps[:overlap] |= above
    overlaps[:, :overlap] |= before
    return overlaps


class BlockSearch:
    """How far is every block of a texture from what is laid already?"""

    def __init__(self, texture: Float[Tensor, "3 hs ws"], side: int) -> None:
        """Transforms the texture, once for all blocks.

        Args:
            texture: whole numbers in 0..255.
            side: of a block.
        """
        self._size = texture.shape[1:]
        self._num_rows, self._num_columns = (length - side + 1 for length in self._size)
        self._pixels = torch.fft.rfft2(texture)
        self._squares = torch.fft.rfft2(texture.square().sum(0))

    def errors(
        self, laid: Float[Tensor, "3 side side"], overlaps: Bool[Tensor, "side side"]
    ) -> Int[Tensor, "rows columns"]:
        """The sum of squared differences in the overlap, for each place of a block.

        Over the overlap it is sum(T^2) - 2 sum(T L) + sum(L^2). Two of these are correlations with
        the texture T, which are products in Fourier space. All are whole numbers far below 2^53, so
        that rounding makes them exact.
        """
        known = laid * overlaps
        kernels = torch.cat([overlaps[None].to(laid), known])
        ones, pixels = torch.fft.rfft2(kernels, s=self._size).conj().split([1, 3])
        correlated = self._squares * ones[0] - 2 * (self._pixels * pixels).sum(0)
        sums = torch.fft.irfft2(correlated, s=self._size)[: self._num_rows, : self._num_columns]
        return (sums + known.square().sum()).round().long()


def chosen(errors: Sequence[Int[Tensor, "_ _"]], share: float) -> Place:
    """One of the places whose error is within the tolerance of the best one.

    Args:
        errors: of every place in each texture.
        share: in 0..1, which of them: places in raster order, one texture after the other.
    """
    every = torch.cat([of_texture.flatten() for of_texture in errors])
    most, of_best = TOLERANCE
    within = (of_best * every <= most * every.min()).nonzero()[:, 0]
    number = int(within[min(int(share * len(within)), len(within) - 1)])
    texture = 0
    while number >= errors[texture].numel():
        number -= errors[texture].numel()
        texture += 1
    return Place(texture, *divmod(number, errors[texture].shape[1]))


def beyond_cuts(
    laid: Float[Tensor, "3 side side"],
    block: Float[Tensor, "3 side side"],
    *,
    above: bool,
    before: bool,
) -> Bool[Tensor, "side side"]:
    """Which pixels a new block gives: those to the right of one cut, and below the other one."""
    side = block.shape[-1]
    overlap = overlap_of(side)
    surface = (laid - block).square().sum(0)
    is_new = torch.ones(side, side, dtype=torch.bool)
    if before:
        is_new &= _beyond(minimum_error_cut(surface[:, :overlap]), side)
    if above:
        is_new &= _beyond(minimum_error_cut(surface[:overlap].T), side).T
    return is_new


def minimum_error_cut(surface: Float[Tensor, "length overlap"]) -> list[int]:
    """The column in each row of the cheapest path through an overlap, from first to last row.

    From row to row a path moves by one column at most. Of equally cheap ones it is the leftmost, as
    seen from the last row.

    Args:
        surface: the squared difference at each pixel.

    Reference: equation 1, E_i,j = e_i,j + min(E_i-1,j-1, E_i-1,j, E_i-1,j+1).
    """
    costs = [surface[0]]
    for errors in surface[1:]:
        steps = pad(costs[-1], (1, 1), value=torch.inf).unfold(0, 3, 1)
        costs.append(errors + steps.amin(1))
    path = [int(costs.pop().argmin())]
    for row in reversed(costs):
        first = max(0, path[-1] - 1)
        path.append(first + int(row[first : path[-1] + 2].argmin()))
    return path[::-1]


def _beyond(cut: Sequence[int], side: int) -> Bool[Tensor, "length side"]:
    """The pixels of each row from its column of a cut on."""
    return torch.arange(side) >= torch.tensor(cut)[:, None]


def _whole_numbers(pixels: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "3 h w"]:
    """Pixels in [0, 1] as the 8-bit values that they come from."""
    return (pixels[0].cpu().double() * 255).round()
