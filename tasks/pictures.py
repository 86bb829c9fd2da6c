"""The pictures of a run: results out of committed tars, and inputs where they are still there."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL import Image

from ad_lib.decoding import MAX_PIXELS, decode_image
from ad_lib.errors import ImageError
from infra.store import Store, StoreError, open_store
from manifests.commits import Commit, render_again
from manifests.errors import RunFolderError
from manifests.items import Input
from tasks.sources import read_input
from tasks.stored_file import open_stored


def result_picture(store: Store, commit: Commit, output: Mapping[str, Any]) -> Image.Image:
    """A picture of a committed shard.

    Args:
        store: of the run folder.
        commit: of the shard.
        output: of the picture's row: its `name` in the tar, its `bytes` and `sha256`.

    Raises:
        RunFolderError: the tar is damaged, or does not hold what the row says.
    """
    if commit.tar is None:
        raise RunFolderError(
            f"{commit.parquet.name} is damaged (it names {output['name']}, and shard "
            f"{commit.shard} has no tar): {render_again(commit.shard)}"
        )
    name, num_bytes = commit.tar.name, commit.tar.bytes
    try:
        offset, size = _members(store.uri, name, num_bytes)[output["name"]]
        if size != output["bytes"] or offset + size > num_bytes:
            raise ValueError(f"{output['name']} has {size} bytes, its row says {output['bytes']}")
        data = store.get_range(name, offset, size)
        if hashlib.sha256(data).hexdigest() != output["sha256"]:
            raise ValueError(f"the sha256 of {output['name']} is not its row's")
        return decode_image(data)
    except KeyError:
        reason = f"it lacks {output['name']}"
    except (ValueError, tarfile.TarError) as error:
        reason = " ".join(str(error).split())
    raise RunFolderError(f"{name} is damaged ({reason}): {render_again(commit.shard)}")


def input_picture(item_input: Input, max_pixels: int = MAX_PIXELS) -> Image.Image | None:
    """The picture of an input; None where it is no longer there, or can no longer be read."""
    try:
        return decode_image(read_input(item_input), max_pixels=max_pixels)
    except (ImageError, StoreError, OSError, ValueError, MemoryError):
        return None


@lru_cache(maxsize=256)
def _members(uri: str, name: str, size: int) -> dict[str, tuple[int, int]]:
    """Where a committed tar's members lie; its name holds its hash, so this never goes stale."""
    with tarfile.open(fileobj=open_stored(open_store(uri), name, size), mode="r:") as tar:
        return {member.name: (member.offset_data, member.size) for member in tar}
