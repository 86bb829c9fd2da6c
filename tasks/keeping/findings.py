"""What can be wrong with a file of a run folder, and what brings it back?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from infra.store import ObjectNotFound, ObjectUnreadable, Store, local_path
from manifests.commits import MEND, StoredFile
from manifests.errors import RunFolderError
from manifests.generations import WAY_OUT

PIECE_BYTES = 8 << 20
"""How much of a file is in memory while it is hashed."""

Remedy = Literal["repair", "render", "set aside", "publish", "restore"]
"""`repair`: its shard is planned again; `render`: its shard is pending, the next worker makes it;
`set aside`: it is moved out of the way; `publish`: it is derived, and made again; `restore`: only
who has a copy of it can help."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A file that is not what it should be.

    Attributes:
        name: of the file, relative to the run folder.
        sentence: what is the matter; it begins with the name.
        remedy: what brings it back.
        shard: whose file it is; None for those of the whole run.
    """

    name: str
    sentence: str
    remedy: Remedy
    shard: str | None = None


def finding(name: str, matter: str, remedy: Remedy, shard: str | None = None) -> Finding:
    """A finding whose sentence is the name of its file and what is the matter with it."""
    return Finding(name=name, sentence=f"{name} {matter}", remedy=remedy, shard=shard)


def matter_of(error: RunFolderError, name: str) -> str:
    """What an error says of a file, without the file's name and without a way out."""
    text = str(error)
    for way_out in (MEND, WAY_OUT):
        text = text.removesuffix(f": {way_out}").removesuffix(f"; {way_out}")
    return text.removeprefix(f"{name} ")


def stored_bytes(store: Store, file: StoredFile) -> tuple[str | None, bytes]:
    """The bytes of a file; what is the matter with it, and nothing, where it is not what it was."""
    try:
        data = b"".join(_pieces(store, file.name, file.bytes + 1))
    except (ObjectNotFound, ObjectUnreadable) as error:
        return _absence(store, error), b""
    matter = _difference(file, hashlib.sha256(data).hexdigest(), len(data))
    return matter, data if matter is None else b""


def stored_matter(store: Store, file: StoredFile) -> str | None:
    """What is the matter with a file, which is read a piece at a time; None where it is sound."""
    digest, size = hashlib.sha256(), 0
    try:
        for piece in _pieces(store, file.name, file.bytes + 1):
            digest.update(piece)
            size += len(piece)
    except (ObjectNotFound, ObjectUnreadable) as error:
        return _absence(store, error)
    return _difference(file, digest.hexdigest(), size)


def _pieces(store: Store, name: str, most: int) -> Iterator[bytes]:
    """The bytes of a file, `most` of them at most."""
    start = 0
    while start < most:
        piece = store.get_range(name, start, min(PIECE_BYTES, most - start))
        yield piece
        start += len(piece)
        if len(piece) < PIECE_BYTES:
            return


def _absence(store: Store, error: ObjectNotFound | ObjectUnreadable) -> str:
    """That a file is not there; one that its store only locks away is not told as damaged."""
    if isinstance(error, ObjectNotFound):
        return "is missing"
    if local_path(store.uri) is None:
        raise error
    return "is no regular file"


def _difference(file: StoredFile, sha256: str, size: int) -> str | None:
    if size != file.bytes:
        found = f"{size}" if size < file.bytes else "more"
        return f"is damaged (it has {found} bytes, and should have {file.bytes})"
    return None if sha256 == file.sha256 else "is damaged (its sha256 is another one)"
