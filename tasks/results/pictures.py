"""The pictures of a run, made small: results out of committed tars, and inputs where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from PIL import Image

from ad_lib.pictures.decoding import MAX_PIXELS, decoded_image
from infra.store import Store, StoreError, open_store, read_uri
from manifests.commits import MEND, Commit
from manifests.errors import RunFolderError
from manifests.items import Input
from tasks.inputs.sources import read_input
from tasks.inputs.tar_headers import read_members
from tasks.runs.stored_file import open_stored

Size = tuple[int, int]


def result_picture(
    store: Store, commit: Commit, output: Mapping[str, Any], size: Size
) -> Image.Image:
    """A picture of a committed shard.

    Args:
        store: of the run folder.
        commit: of the shard.
        output: of the picture's row: its `name` in the tar, its `bytes` and `sha256`.
        size: (width, height) in pixels; a larger picture is scaled down to fit into it.

    Raises:
        RunFolderError: the tar is damaged, or does not hold what the row says.
    """
    if commit.tar is None:
        raise RunFolderError(
            f"{commit.parquet.name} is damaged (it names {output['name']}, and shard "
            f"{commit.shard} has no tar): {MEND}"
        )
    tar = commit.tar
    try:
        return _small(_member_bytes(store, tar.name, tar.bytes, output), MAX_PIXELS, size)
    except ValueError as error:  # of the tar's headers, the row, or the picture's bytes
        reason = " ".join(str(error).split())
    raise RunFolderError(f"{tar.name} is damaged ({reason}): {MEND}")


def input_picture(
    item_input: Input, size: Size, *, max_pixels: int = MAX_PIXELS
) -> Image.Image | None:
    """The picture of an input; None where it is no longer there, or is not what was planned.

    Args:
        item_input: as it was planned.
        size: (width, height) in pixels; a larger picture is scaled down to fit into it.
        max_pixels: larger inputs are not decoded.
    """
    try:
        data = _input_bytes(item_input)
        if hashlib.sha256(data).hexdigest() != item_input.sha256:
            return None
        return _small(data, max_pixels, size)
    except (StoreError, OSError, ValueError, MemoryError):
        return None


def _small(data: bytes, max_pixels: int, size: Size) -> Image.Image:
    with decoded_image(data, max_pixels=max_pixels) as picture:
        picture.thumbnail(size, Image.Resampling.LANCZOS)
        return picture


def _input_bytes(item_input: Input) -> bytes:
    if item_input.member is None and item_input.num_bytes is not None:
        return read_uri(item_input.uri, max_bytes=item_input.num_bytes)
    return read_input(item_input)


def _member_bytes(store: Store, tar: str, num_bytes: int, output: Mapping[str, Any]) -> bytes:
    """The bytes of a member, held to its row.

    Raises:
        ValueError: the tar is damaged, or the member is not what the row says.
    """
    name = output["name"]
    place = _members(store.uri, tar, num_bytes).get(name)
    if place is None:
        raise ValueError(f"it lacks {name}")
    offset, size = place
    if size != output["bytes"]:
        raise ValueError(f"{name} has {size} bytes, its row says {output['bytes']}")
    data = store.get_range(tar, offset, size)
    if hashlib.sha256(data).hexdigest() != output["sha256"]:
        raise ValueError(f"the sha256 of {name} is not its row's")
    return data


@lru_cache(maxsize=256)
def _members(uri: str, name: str, size: int) -> dict[str, tuple[int, int]]:
    """Where the members of a committed tar lie; its name holds its hash, so this stays true."""
    members = read_members(open_stored(open_store(uri), name, size), size)
    return {member.name: (member.offset, member.size) for member in members}
