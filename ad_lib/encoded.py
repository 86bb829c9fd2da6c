"""Which pictures are encoded already?

Invariant: latents that are kept are those that the encoder would give again, to the bit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from jaxtyping import Float
from torch import Tensor

from ad_lib.model.backbone import Backbone

CAPACITY = 64 << 20
"""Bytes; a picture of 512x512 takes 64 KiB, so a thousand of them are kept."""


class EncodedPictures:
    """Latents of pictures by content, for one backbone: each is encoded once, whatever its batch.

    The least recently used ones are forgotten. For one rendering thread at a time.

    Args:
        capacity: bytes that latents may take together, on the device where they were made.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._backbone: Backbone | None = None
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """What is held now."""
        return self._num_bytes

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
        key = (key, backbone.device, backbone.dtype)
        found = self._held.pop(key, None)
        if found is None:
            found = encode()
            self._num_bytes += found.nbytes
        self._held[key] = found
        while self._num_bytes > self.capacity:
            _, forgotten = self._held.popitem(last=False)
            self._num_bytes -= forgotten.nbytes
        return found

    def clear(self) -> None:
        """Forgets all, and the backbone."""
        self._backbone = None
        self._held.clear()
        self._num_bytes = 0
