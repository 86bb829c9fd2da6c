"""Image quilting: what do blocks of the texture give, cut out and laid side by side?

Reference: Efros and Freeman 2001, "Image Quilting for Texture Synthesis and Transfer", section 2.1.
Invariant: every pixel of the result is a pixel of the texture; nothing is blended. Errors are sums
of whole numbers, so that the same seed chooses the same blocks on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ad_lib.algorithm.noise import Noise
from ad_lib.inputs import BatchInputs

OVERLAP = 1 / 6
"""Of a block with the blocks before it; the published one."""

TOLERANCE = 10
"""The published tolerance is a tenth: an error may be 1 + 1/10 of the best one's."""


def textured_by_quilting(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """A texture of blocks for each item, of `patch_size` pixels on a side.

    Args:
        inputs: of one batch; of several textures the first one is used.
        on_step_end: told after each row of blocks of the whole batch.

    Returns:
        Pictures in [0, 1].
    """
    height, width = inputs.image_size
    side = inputs.settings.patch_size
    num_rows = len(block_starts(height, side))
    quilts = [
        Quilt(_whole_numbers(inputs.style_pixels(item)[0]), side, (height, width), noise)
        for item, noise in enumerate(inputs.noise)
    ]
    for row in range(num_rows):
        for quilt in quilts:
            quilt.lay_row(row)
        on_step_end(1, num_rows)
    return torch.stack([quilt.pixels[:, :height, :width] for quilt in quilts]).float() / 255


class Quilt:
    """A picture that is laid row by row.

    Attributes:
        pixels: (3, h, w) what is laid so far, whole blocks; 0..255.
        places: of each block, row by row, where in the texture it was cut out: its first row and
            column.
    """

    def __init__(
        self, texture: Float[Tensor, "3 hs ws"], side: int, size: tuple[int, int], noise: Noise
    ) -> None:
        """An empty picture.

        Args:
            texture: whole numbers in 0..255, no smaller than a block.
            side: of a block, in pixels.
            size: (height, width) that is wanted.
            noise: of the item; its draw `quilting` says which of the good blocks is taken.
        """
        self._texture = texture
        self._side = side
        self._search = BlockSearch(texture, side)
        self._rows, self._columns = (block_starts(length, side) for length in size)
        shape = (len(self._rows), len(self._columns))
        self._shares = torch.special.ndtr(noise("quilting", 0, shape).double())  # uniform, 0 to 1
        self.pixels = texture.new_zeros(3, self._rows[-1] + side, self._columns[-1] + side)
        self.places: list[tuple[int, int]] = []

    def lay_row(self, row: int) -> None:
        """Lays the blocks of a row, from left to right."""
        for column in range(len(self._columns)):
            self._lay(row, column)

    def _lay(self, row: int, column: int) -> None:
        top, left = self._rows[row], self._columns[column]
        laid = self.pixels[:, top : top + self._side, left : left + self._side]
        overlaps = overlaps_of(self._side, above=row > 0, before=column > 0)
        errors = self._search.errors(laid, overlaps)
        place = chosen(errors, float(self._shares[row, column]))
        self.places.append(place)
        block = self._texture[:, place[0] : place[0] + self._side, place[1] : place[1] + self._side]
        is_new = beyond_cuts(laid, block, above=row > 0, before=column > 0)
        laid[:, is_new] = block[:, is_new]


def overlap_of(side: int) -> int:
    """Pixels that a block of this side shares with the one before it."""
    return max(1, round(side * OVERLAP))


def block_starts(length: int, side: int) -> range:
    """Where blocks start along an axis: as many as cover it, the last one may reach beyond."""
    step = side - overlap_of(side)
    return range(0, max(1, length - overlap_of(side)), step)


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
        """Transforms the texture once.

        Args:
            texture: whole numbers in 0..255.
            side: of a block.
        """
        self._size = (texture.shape[1], texture.shape[2])
        self._num = (texture.shape[1] - side + 1, texture.shape[2] - side + 1)
        self._pixels = torch.fft.rfft2(texture)
        self._squares = torch.fft.rfft2(texture.square().sum(0))

    def errors(
        self, laid: Float[Tensor, "3 side side"], overlaps: Bool[Tensor, "side side"]
    ) -> Int[Tensor, "rows columns"]:
        """The sum of squared differences in the overlap, for every place of the texture.

        It is sum(T^2) - 2 sum(T L) + sum(L^2) over the overlap, where the first two are correlations
        of the texture and are computed in Fourier space. All of them are whole numbers below 2^53,
        so that rounding gives them exactly.
        """
        known = laid * overlaps
        kernels = torch.fft.rfft2(torch.cat([overlaps[None].to(laid), known]), s=self._size).conj()
        squares = self._squares * kernels[0]
        products = (self._pixels * kernels[1:]).sum(0)
        correlated = torch.fft.irfft2(squares - 2 * products, s=self._size)
        rows, columns = self._num
        return (correlated[:rows, :columns] + known.square().sum()).round().long()


def chosen(errors: Int[Tensor, "rows columns"], share: float) -> tuple[int, int]:
    """One of the places whose error is within the tolerance of the best one.

    Args:
        errors: of every place.
        share: in 0..1, which of them, in raster order.
    """
    within = (TOLERANCE * errors <= (TOLERANCE + 1) * errors.min()).flatten().nonzero()[:, 0]
    number = int(within[min(int(share * len(within)), len(within) - 1)])
    return divmod(number, errors.shape[1])


def beyond_cuts(
    laid: Float[Tensor, "3 side side"],
    block: Float[Tensor, "3 side side"],
    *,
    above: bool,
    before: bool,
) -> Bool[Tensor, "side side"]:
    """Which pixels the new block gives: those right of the vertical cut and below the other one."""
    side = block.shape[-1]
    overlap = overlap_of(side)
    surface = (laid - block).square().sum(0)
    is_new = torch.ones(side, side, dtype=torch.bool)
    if before:
        is_new &= beyond_cut(surface[:, :overlap], side)
    if above:
        is_new &= beyond_cut(surface[:overlap].T, side).T
    return is_new


def beyond_cut(surface: Float[Tensor, "length overlap"], side: int) -> Bool[Tensor, "length side"]:
    """What lies on the minimum error cut through an overlap, or beyond it.

    Args:
        surface: the squared difference at each pixel of the overlap.
        side: how wide the result is.
    """
    cut = torch.tensor(minimum_error_cut(surface))
    return torch.arange(side) >= cut[:, None]


def minimum_error_cut(surface: Float[Tensor, "length overlap"]) -> list[int]:
    """The column of each row of the cheapest path from the first row to the last.

    From row to row a path moves by one column at most. Of equally cheap ones the leftmost is taken,
    seen from the last row.

    Reference: equation 1 of the paper, E_ij = e_ij + min(E_i-1,j-1, E_i-1,j, E_i-1,j+1).
    """
    costs = [surface[0]]
    for errors in surface[1:]:
        padded = torch.nn.functional.pad(costs[-1], (1, 1), value=torch.inf)
        costs.append(errors + padded.unfold(0, 3, 1).amin(1))
    column = int(costs[-1].argmin())
    path = [column]
    for row in reversed(costs[:-1]):
        first = max(0, column - 1)
        column = first + int(row[first : column + 2].argmin())
        path.append(column)
    return path[::-1]


def _whole_numbers(pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """Pixels in [0, 1] as the 8-bit values that they come from."""
    return (pixels.cpu().double() * 255).round()
