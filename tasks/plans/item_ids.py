"""What is an item's id, where a million of them are computed? The hash of a text put together.

The text is the canonical JSON that `manifests.identity.item_id` hashes, made of pieces that are
written once for each image, each shape and each row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from manifests.identity import canonical_json, input_identity
from manifests.items import Input
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.tables import TableRow
from tasks.plans.items import Shape

ID_BYTES = 16
"""An id has 32 hex digits."""


class ItemIds:
    """The pieces of the texts of one job."""

    def __init__(self, resolved: ResolvedJob, images: Sequence[Input]) -> None:
        self._images = [_json(input_identity(image)) for image in images]
        self._model = b'],"model_revision":' + _json(resolved.model.revision)
        self._seed = b',"seed":' + _json(resolved.job.seed)
        self._shapes: dict[Shape, tuple[bytes, bytes]] = {}

    def head(self, numbers: Sequence[int], row: TableRow, external: str | None = None) -> bytes:
        """The text up to the words that depend on the shape.

        Args:
            numbers: of the row's images.
            row: what it has besides images.
            external: the program that has made the last of them.
        """
        images = b",".join([self._images[number] for number in numbers])
        start = b"{" if external is None else b'{"external":%s,' % _json(external)
        negative = _words("negative_prompt", row.negative_prompt)
        return b"".join((start, b'"inputs":[', images, self._model, negative))

    def identity(
        self, head: bytes, shape: Shape, row: TableRow, variant: int, noise_of: str = ""
    ) -> bytes:
        """The id of an item, as bytes.

        Args:
            head: of its row.
            shape: what it is rendered as.
            row: what it has besides images.
            variant: with the rank of twins in it.
            noise_of: the id whose noise it uses, in a sweep.
        """
        params, tail = self._pieces(shape)
        text = (
            *(head, b',"noise_of":"%s"' % noise_of.encode() if noise_of else b"", params),
            *(_words("prompt", row.prompt), self._seed, tail, b"%d}" % variant),
        )
        return hashlib.sha256(b"".join(text)).digest()[:ID_BYTES]

    def _pieces(self, shape: Shape) -> tuple[bytes, bytes]:
        found = self._shapes.get(shape)
        if found is None:
            tail = b',"task":' + _json(shape.task) + b',"variant":'
            found = self._shapes[shape] = (b',"params":' + shape.hashed_params.encode(), tail)
        return found


def seed_bytes(identity: str) -> bytes:
    """The seed that follows from an id, as `manifests.identity.seed_of` has it, in 8 bytes."""
    return hashlib.sha256(f"{identity}seed".encode()).digest()[:8]


@lru_cache(maxsize=4096)
def _words(name: str, text: str | None) -> bytes:
    return b"" if text is None else b',"%s":%s' % (name.encode(), _json(text))


def _json(value: object) -> bytes:
    return canonical_json(value).encode()
