"""How similar are the colours of pictures, wherever in them they are?

Invariant: what is known of a picture's colours depends on no other picture. Pictures are
(B, 3, H, W) in [0, 1]; a figure does not depend on batch-mates, `diversity` apart.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.colour import rgb_to_lab
from ad_lib.pictures.references import check_references
from ad_lib.pictures.wasserstein import ascending, wasserstein_distance


def color_emd(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> Float[Tensor, " b"]:
    """How far the colours must move to be the reference's, in CIELAB units: 0 for the same ones.

    Wasserstein-1 distance of the values of each Lab channel, mean over the three channels. Where
    colours are does not matter; 1 is about the smallest difference that is seen.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    check_references(images, references)
    return Colours.of(images).distance(Colours.of(references))


def chroma_gain(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> Float[Tensor, " b"]:
    """Mean CIELAB chroma over the reference's: 1 the same, above 1 oversaturated.

    Both means are raised by one unit, which the eye hardly sees: so a grey picture beside a grey
    reference has 1, and the figure is finite for every reference.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    check_references(images, references)
    return Colours.of(images).gain(Colours.of(references))


def diversity(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """How different several results are: mean CIELAB distance of their pixels, over all pairs.

    Taken on copies of at most 64 pixels a side; 0 if all are the same.

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(images) < 2:
        raise ValueError(f"diversity needs at least two pictures; got {len(images)}")
    size = [min(side, 64) for side in images.shape[-2:]]
    lab = rgb_to_lab(F.interpolate(images, size, mode="area"))
    pairs = [(lab[row + 1 :] - lab[row]).norm(dim=1).mean((1, 2)) for row in range(len(lab) - 1)]
    return torch.cat(pairs).mean()


class Colours(NamedTuple):
    """The colours of pictures.

    Attributes:
        values: (B, 3, n) of each CIELAB channel, in ascending order.
        chroma: (B,) their mean chroma.
    """

    values: Tensor
    chroma: Tensor

    @classmethod
    def of(cls, images: Float[Tensor, "b 3 h w"]) -> Self:
        """Those of sRGB pictures."""
        lab = rgb_to_lab(images)
        chroma = torch.hypot(lab[:, 1], lab[:, 2]).mean((1, 2))
        return cls(ascending(lab.flatten(2)), chroma)

    @property
    def nbytes(self) -> int:
        """The memory that they take."""
        return self.values.nbytes + self.chroma.nbytes

    def distance(self, references: Colours) -> Float[Tensor, " b"]:
        """The figure of `color_emd`."""
        return wasserstein_distance(self.values, references.values).mean(1)

    def gain(self, references: Colours) -> Float[Tensor, " b"]:
        """The figure of `chroma_gain`."""
        return (1 + self.chroma) / (1 + references.chroma)
