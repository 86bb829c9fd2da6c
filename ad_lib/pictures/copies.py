"""How much of a picture was copied from another one?

Invariant: what is computed of a reference depends on no other picture, so it is computed once and
compared with many. Pictures are (B, 3, H, W) in [0, 1]; a figure does not depend on batch-mates.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.colour import luma
from ad_lib.pictures.references import check_references
from ad_lib.pictures.sliding import sliding_sum

_SPAN, _STEP = 12, 2  # samples along a patch, and their distance in pixels
_REACH = (_SPAN - 1) * _STEP  # pixels from a patch's first sample to its last
_COPIED = 0.9  # correlation from which on a patch is a copy
_FLAT = 0.01  # deviation of the fine luma below which a patch shows nothing

_MAIN_PARTS = 24
"""Directions (principal components of a reference's patches) that a main part is made of."""

_NEAR = 0.89
"""Below `_COPIED` by more than the rounding of a correlation."""

_PLACES, _ROWS = 2048, 16
"""Places, or rows of them, compared together: to allocate more memory takes longer than that."""


def patch_copy(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_patches: int = 256,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Share of a picture's patches that stand in the reference as they are, 0 to 1.

    Patches span 23 pixels of the luma, sampled at every second one; blurred by 3 pixels and rid of
    what is wider than 15, so that neither noise nor a smooth shade decides. One counts as copied if
    its best normalised correlation, over all places in the reference, exceeds 0.9; flat patches do
    not count, and a picture of flat patches has 0. Mirrored, turned or rescaled copies go unseen.

    Unrelated photos and paintings of 256 pixels have 0.01 (at most 0.07), shifted and JPEG-coded
    copies at least 0.7. Memory grows with the reference; `measure` reduces it.

    Args:
        images: the pictures to judge, at least 25 pixels a side.
        references: what they may have been copied from, one for each or one for all; any size.
        num_patches: looked up of each picture, at random places.
        seed: of the places.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    check_references(images, references)
    known = [KnownPlaces(one[None]) for one in references] * (len(images) // len(references))
    shares = [
        places.copied_share(one[None], num_patches=num_patches, seed=seed)
        for one, places in zip(images, known, strict=True)
    ]
    return torch.stack(shares)


class KnownPlaces:
    """All places of a reference, as `patch_copy` looks patches up.

    A patch of length 1 is the sum of a main part, in the few directions in which the reference's
    patches vary most, and a rest. Two patches correlate at most by the product of their main parts
    and that of the lengths of their rests; so few are left that must be compared in full.

    Args:
        reference: at least 25 pixels a side.
    """

    def __init__(self, reference: Float[Tensor, "1 3 h w"]) -> None:
        self._detail = _fine_detail(reference)
        spread = _spread(self._detail)
        self._spread = spread.clamp_min(_FLAT * _SPAN / 2)  # what is flat counts as half flat
        self._directions = self._main_directions()
        self._places = self._main_parts(spread / self._spread)

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        held = (self._detail, self._spread, self._directions, self._places)
        return sum(values.nbytes for values in held)

    def copied_share(
        self, image: Float[Tensor, "1 3 h w"], *, num_patches: int = 256, seed: int = 0
    ) -> Float[Tensor, ""]:
        """The figure of `patch_copy` for one picture."""
        patches = _chosen_patches(_fine_detail(image), num_patches, seed)
        if not len(patches):
            return image.new_zeros(())
        near = patches[self._bound(patches) > _NEAR]
        copied = (self._best_correlation(near) > _COPIED).sum()
        return copied.to(image) / len(patches)

    def _bound(self, patches: Tensor) -> Tensor:
        """No patch (mean 0, length 1) correlates with a place by more than this."""
        main = patches @ self._directions.T
        parts = torch.cat([main, _rest(patches, main, 1)], 1)
        products = parts.new_empty(len(parts), _PLACES)
        found = [
            torch.mm(parts, some, out=products[:, : some.shape[1]]).amax(1)
            for some in self._places.split(_PLACES, 1)
        ]
        return torch.stack(found).amax(0)

    def _best_correlation(self, patches: Tensor) -> Tensor:
        """The largest correlation of each patch (mean 0, length 1) with any place."""
        if not len(patches):
            return patches.new_zeros(0)
        filters = patches.view(-1, 1, _SPAN, _SPAN)
        best = []
        for top in range(0, self._spread.shape[2], _ROWS):
            rows = self._detail[:, :, top : top + _ROWS + _REACH]
            products = F.conv2d(rows, filters, dilation=_STEP)
            best.append(products.div_(self._spread[:, :, top : top + _ROWS]).amax((0, 2, 3)))
        return torch.stack(best).amax(0)

    def _main_directions(self) -> Tensor:
        """(parts, samples) of length 1, found on every ninth patch."""
        patches = F.unfold(self._detail, _SPAN, dilation=_STEP, stride=3)[0]
        patches = patches - patches.mean(0)
        patches = patches / self._spread[:, :, ::3, ::3].flatten()
        directions = torch.linalg.eigh(patches @ patches.T).eigenvectors[:, -_MAIN_PARTS:].T
        return directions - directions.mean(1, keepdim=True)  # places have a mean, patches none

    def _main_parts(self, length: Tensor) -> Tensor:
        """(parts + 1, places): the main part of each place's patch, and the length of its rest."""
        filters = self._directions.view(-1, 1, _SPAN, _SPAN)
        main = F.conv2d(self._detail, filters, dilation=_STEP).div_(self._spread)[0].flatten(1)
        return torch.cat([main, _rest(length.flatten()[None], main, 0)])


def _rest(patches: Tensor, main: Tensor, axis: int) -> Tensor:
    """How long patches are without their main parts; rounding leaves less than nothing of some."""
    whole, part = (values.square().sum(axis, keepdim=True) for values in (patches, main))
    return (whole - part).clamp_min(0).sqrt()


def _fine_detail(images: Tensor) -> Tensor:
    """Luma between 3 and 15 pixels wide."""
    blurred = sliding_sum(luma(images), [1 / 3] * 3)
    inside = sliding_sum(F.pad(torch.ones_like(blurred[:1]), (7, 7, 7, 7)), [1.0] * 15)
    return blurred - sliding_sum(F.pad(blurred, (7, 7, 7, 7)), [1.0] * 15) / inside


def _chosen_patches(detail: Tensor, num_patches: int, seed: int) -> Tensor:
    """(patches, samples) at random places, of mean 0 and length 1; flat ones are left out."""
    windows = detail[0, 0].unfold(0, _REACH + 1, 1).unfold(1, _REACH + 1, 1)
    chosen = _random_places(windows.shape[0] * windows.shape[1], num_patches, seed)
    chosen = chosen.to(detail.device)
    down, along = chosen // windows.shape[1], chosen % windows.shape[1]
    patches = windows[down, along][:, ::_STEP, ::_STEP].flatten(1)
    patches = patches - patches.mean(1, keepdim=True)
    return F.normalize(patches[patches.norm(dim=1) > _FLAT * _SPAN])


@lru_cache(maxsize=8)
def _random_places(count: int, chosen: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:chosen]


def _spread(detail: Tensor) -> Tensor:
    """How far the patches of all places are from their means."""
    samples = detail.new_ones(1, 1, _SPAN, _SPAN)
    total, squares = (F.conv2d(one, samples, dilation=_STEP) for one in (detail, detail**2))
    return (squares - total**2 / _SPAN**2).clamp_min(0).sqrt()
