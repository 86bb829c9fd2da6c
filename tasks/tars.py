"""Which images a WebDataset shard holds, and where their bytes lie in it."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from infra.store import open_store, split_uri
from manifests.errors import JobError
from manifests.items import Input
from tasks.formats import is_image
from tasks.stored_file import open_stored


def tar_members(role: str, uri: str, size: int) -> Iterator[Input]:
    """A tar's image members; a tar that ends early is refused, not read as a shorter one."""
    folder, name = split_uri(uri)
    stored = open_stored(open_store(folder), name, size)
    last = "its start"
    try:
        with tarfile.open(fileobj=stored, mode="r:") as tar:
            for member in tar:
                last = member.name
                if member.isfile() and is_image(member.name):
                    yield _member_input(role, uri, member)
            stored.seek(tar.offset)
            ending = stored.read(2 * tarfile.BLOCKSIZE)
    except tarfile.TarError:
        ending = b""
    if len(ending) < 2 * tarfile.BLOCKSIZE or any(ending):
        raise JobError(
            f"inputs.{role}: {uri} is damaged or cut off after {last}: restore the "
            "shard, or take it out of the job"
        )


def _member_input(role: str, uri: str, member: tarfile.TarInfo) -> Input:
    path = PurePosixPath(member.name)
    stem = path.name.partition(".")[0]  # WebDataset's key ends at the first dot
    return Input(
        role,
        str(path.parent / stem),
        uri,
        member=member.name,
        offset=member.offset_data,
        num_bytes=member.size,
    )
