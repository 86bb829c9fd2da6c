"""The pictures of a run: results out of committed tars, and inputs where they are still there."""

from __future__ import annotations

import tarfile
from functools import lru_cache

from PIL import Image

from ad_lib.errors import ImageError
from ad_lib.images import decode_image
from infra.store import ObjectNotFound, Store, StoreError, open_store
from manifests.commits import IndexedShard
from manifests.items import Input
from tasks.sources import read_input
from tasks.stored_file import open_stored


def result_picture(store: Store, shard: IndexedShard, name: str) -> Image.Image:
    """A picture of a committed shard, by its name in the tar."""
    offset, size = _members(store.uri, shard.tar.name, shard.tar.bytes)[name]
    return decode_image(store.get_range(shard.tar.name, offset, size))


def input_picture(one: Input) -> Image.Image | None:
    """The picture of an input; None where it is no longer there."""
    try:
        return decode_image(read_input(one))
    except (ImageError, ObjectNotFound, StoreError, FileNotFoundError):
        return None


@lru_cache(maxsize=256)
def _members(uri: str, name: str, size: int) -> dict[str, tuple[int, int]]:
    """Where a committed tar's members lie; its name holds its hash, so this never goes stale."""
    with tarfile.open(fileobj=open_stored(open_store(uri), name, size), mode="r:") as tar:
        return {one.name: (one.offset_data, one.size) for one in tar}
