"""How similar are the patches of two pictures, wherever in them they are?

Invariant: what is computed of a reference depends on no other picture, so it is computed once and
compared with many. Pictures are (B, 3, H, W) in [0, 1]; a figure does not depend on batch-mates.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.references import check_references
from ad_lib.pictures.wasserstein import ascending, wasserstein_distance

PATCH = 7
"""Pixels; side of the patches that are compared."""

_DIRECTIONS, _ROWS = 16, 48
"""Computed together: allocating more memory takes longer than what is computed in it."""


def swd_patch(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_projections: int = 128,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Sliced Wasserstein distance between the patches of two pictures: 0 for the same texture.

    All 7x7 patches are projected onto random directions of unit length; along each the 1-D
    Wasserstein-1 distance is taken, exactly where both pictures have as many patches and by
    interpolated quantiles where not. Mean over directions, then over the levels of a pyramid that
    halves the pictures while their shorter side is at least 32 pixels, so that strokes of all
    widths count. Where things are does not matter, only what there is and how much of it.

    Args:
        images: the pictures to judge.
        references: what their patches should be like, one for each or one for all; any size.
        num_projections: directions.
        seed: of the directions.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Rabin et al. 2011 (sliced Wasserstein), Karras et al. 2018 (patches on a pyramid).
    """
    check_references(images, references)
    known = KnownPatches(references, num_projections=num_projections, seed=seed)
    return known.distance(images)


def gram_raw(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_filters: int = 64,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """How far apart the Gram matrices of a random filter bank are: 0 the same texture, at most 1.

    Responses of 7x7 filters without a mean, so that flat colour does not count, cut at zero; the
    Gram matrix is their mean product over positions. Figure: |G - G'| / (|G| + |G'|) in Frobenius
    norms, mean over the same pyramid as `swd_patch`.

    Args:
        images: the pictures to judge.
        references: what they should be like, one for each or one for all; any size.
        num_filters: in the bank.
        seed: of the bank.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Ustyuzhaninov et al. 2017 (arXiv:1606.00021), textures from random shallow filters.
    """
    check_references(images, references)
    return KnownGrams(references, num_filters=num_filters, seed=seed).distance(images)


class KnownPatches:
    """The patches of references, as `swd_patch` compares them: sorted along each direction.

    Args:
        references: as in `swd_patch`.
        num_projections: as in `swd_patch`.
        seed: as in `swd_patch`.
    """

    def __init__(
        self,
        references: Float[Tensor, "r 3 hr wr"],
        *,
        num_projections: int = 128,
        seed: int = 0,
    ) -> None:
        self._directions = _directions(num_projections, seed).to(references)
        self._levels = [
            [_along(level, some) for some in self._directions.split(_DIRECTIONS)]
            for level in _pyramid(references)
        ]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return sum(some.nbytes for level in self._levels for some in level)

    def distance(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The figure of `swd_patch`."""
        distances = []
        for level, known in zip(_pyramid(images), self._levels, strict=False):
            some = zip(self._directions.split(_DIRECTIONS), known, strict=True)
            found = [wasserstein_distance(_along(level, one), theirs) for one, theirs in some]
            distances.append(torch.cat(found, 1))
        return torch.stack(distances).mean((0, 2))


class KnownGrams:
    """The Gram matrices of references, as `gram_raw` compares them.

    Args:
        references: as in `gram_raw`.
        num_filters: as in `gram_raw`.
        seed: as in `gram_raw`.
    """

    def __init__(
        self, references: Float[Tensor, "r 3 hr wr"], *, num_filters: int = 64, seed: int = 0
    ) -> None:
        self._bank = _bank(num_filters, seed).to(references)
        self._levels = [_gram(level, self._bank) for level in _pyramid(references)]

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return sum(level.nbytes for level in self._levels)

    def distance(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The figure of `gram_raw`."""
        distances = []
        for level, theirs in zip(_pyramid(images), self._levels, strict=False):
            ours = _gram(level, self._bank)
            spread = ours.norm(dim=(1, 2)) + theirs.norm(dim=(1, 2))
            distances.append((ours - theirs).norm(dim=(1, 2)) / spread.clamp_min(1e-6))
        return torch.stack(distances).mean(0)


def _pyramid(images: Tensor) -> Iterator[Tensor]:
    """The pictures, then halved, as long as no side falls below 32 pixels."""
    images = images.contiguous()
    yield images
    while min(images.shape[-2:]) >= 64:
        images = F.avg_pool2d(images, 2)
        yield images


def _along(images: Tensor, directions: Tensor) -> Tensor:
    """(B, P, n) what the patches are along each direction, in ascending order."""
    height, width = (side - PATCH + 1 for side in images.shape[-2:])
    values = images.new_empty(len(images), len(directions), height, width)
    for rows, target in zip(_strips(images), values.split(_ROWS, 2), strict=True):
        target.copy_(F.conv2d(rows, directions))
    return ascending(values.flatten(2))


def _gram(images: Tensor, bank: Tensor) -> Tensor:
    """(B, filters, filters) mean products of the responses, cut at zero, over all positions."""
    height, width = (side - PATCH + 1 for side in images.shape[-2:])
    total = images.new_zeros(len(images), len(bank), len(bank))
    for rows in _strips(images):
        responses = F.conv2d(rows, bank).relu_().flatten(2)
        total.baddbmm_(responses, responses.mT)
    return total / (height * width)


def _strips(images: Tensor) -> Iterator[Tensor]:
    """Pictures cut across, so that every patch lies in one strip."""
    for top in range(0, images.shape[2] - PATCH + 1, _ROWS):
        yield images[:, :, top : top + _ROWS + PATCH - 1].contiguous()


@lru_cache(maxsize=8)
def _directions(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(count, 3, PATCH, PATCH, generator=generator)
    return F.normalize(directions.flatten(1)).view_as(directions)


@lru_cache(maxsize=8)
def _bank(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(count, 3, PATCH, PATCH, generator=generator)
    bank = bank - bank.mean((2, 3), keepdim=True)
    return F.normalize(bank.flatten(1)).view_as(bank)
