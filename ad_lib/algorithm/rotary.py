"""How are queries and keys turned by the places of their tokens?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Angles for the tokens of a layer; attention sees the difference of two tokens' angles only.

    Neighbouring channels are a pair, and each pair is a point in a plane that is turned by its
    angle. Turns add up.

    Attributes:
        cosine, sine: (tokens, head_dim) of each channel's angle; 1 token is the same for all.

    Reference: Su et al. 2021 (arXiv:2104.09864), rotary position embedding.
    """

    cosine: Float[Tensor, "tokens d"]
    sine: Float[Tensor, "tokens d"]

    def __call__(
        self, vectors: Float[Tensor, "b heads tokens d"]
    ) -> Float[Tensor, "b heads tokens d"]:
        """Queries or keys, turned; in their own precision, computed in float32."""
        first, second = vectors.float().unflatten(-1, (-1, 2)).unbind(-1)
        across = torch.stack([-second, first], -1).flatten(-2)
        return (vectors.float() * self.cosine + across * self.sine).to(vectors.dtype)

    def and_then(self, other: Rotary) -> Rotary:
        """Turned by these angles and by others."""
        return Rotary(
            self.cosine * other.cosine - self.sine * other.sine,
            self.sine * other.cosine + self.cosine * other.sine,
        )


@dataclass(frozen=True)
class Positions:
    """Where the tokens of a picture lie, as a network with rotary positions tells it its layers.

    Attributes:
        rotary: by the row and the column of each token.
        picture_width: by as many columns as the picture has.
    """

    rotary: Rotary
    picture_width: Rotary

    def beside(self, picture: Positions) -> Positions:
        """The same tokens, moved to the right by the width of a picture."""
        return Positions(self.rotary.and_then(picture.picture_width), self.picture_width)

    @staticmethod
    def side_by_side(pictures: list[Positions]) -> Positions:
        """The tokens of several pictures as one sequence, each where it lies in its own."""
        rotary = Rotary(
            torch.cat([one.rotary.cosine for one in pictures]),
            torch.cat([one.rotary.sine for one in pictures]),
        )
        return Positions(rotary, pictures[0].picture_width)
