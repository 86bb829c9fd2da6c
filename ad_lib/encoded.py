"""Which pictures are encoded already?

Invariant: latents that are kept are those that the encoder would give again, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from jaxtyping import Float
from torch import Tensor

from ad_lib.model.backbone import Backbone
from ad_lib.pictures.kept import Kept

CAPACITY = 64 << 20
"""Bytes; a picture of 512x512 takes 64 KiB, so a thousand of them are kept."""


class EncodedPictures:
    """Latents of pictures by content, for one backbone: each is encoded once, whatever its batch.

    The least recently used ones are forgotten. For one rendering thread at a time.

    Args:
        capacity: bytes that latents may take together, on the device where they were made.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self.clear()

    @property
    def num_bytes(self) -> int:
        """What is held now."""
        return self._kept.nbytes

    def latents(
        self,
        backbone: Backbone,
        key: Hashable,
        encode: Callable[[], Float[Tensor, "c h w"]],
    ) -> Float[Tensor, "c h w"]:
        """The latents of a picture; not to be written to.

        Args:
            backbone: encodes; with another one than before nothing is known.
            key: says which pixels are encoded, and what their encoder wraps around.
            encode: makes them where they are not known.
        """
        if self._backbone is not backbone:
            self.clear()
            self._backbone = backbone
        return self._kept.get((key, backbone.device, backbone.dtype), encode)

    def clear(self) -> None:
        """Forgets all, and the backbone."""
        self._backbone: Backbone | None = None
        self._kept = Kept(self._capacity)
