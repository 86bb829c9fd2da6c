"""Which images a WebDataset shard holds, and where their bytes lie in it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from infra.store import store_and_key
from manifests.errors import JobError
from manifests.items import ErrorClass, Input
from manifests.job import job_key
from tasks.inputs.formats import pictures_among
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.tar_headers import Kind, TarDamaged, TarMember, another_follows, read_members
from tasks.runs.stored_file import open_stored

MAX_LINKS = 40  # from link to link, as many as Linux follows

_LINKS = (Kind.HARD_LINK, Kind.SYMBOLIC_LINK)

_COMPRESSIONS = {
    "gzip": (rb"\x1f\x8b", "gunzip"),
    "bzip2": (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "bunzip2"),
    "xz": (rb"\xfd7zXZ\x00", "unxz"),
    "zstd": (rb"\x28\xb5\x2f\xfd", "unzstd"),
    "lz4": (rb"\x04\x22\x4d\x18", "unlz4"),
    "compress": (rb"\x1f\x9d", "uncompress"),
    "zip": (rb"PK(?:\x03\x04|\x05\x06)", "unzip"),
    "7-Zip": (rb"7z\xbc\xaf\x27\x1c", "7z x"),
    "RAR": (rb"Rar!\x1a\x07", "unrar x"),
}
"""By how a file begins, and the program that unpacks it."""


def tar_members(
    role: str, uri: str, size: int, passed_over: PassedOver | None = None
) -> list[Input]:
    """A tar's image members; links to other members have the bytes of those.

    Args:
        role: what the images are for.
        uri: the tar.
        size: of the tar, in bytes.
        passed_over: counts the members that are no images.

    Raises:
        JobError: the tar is compressed, damaged, or cut off.
        StoreError: the store refuses or does not answer.
    """
    stored = open_stored(*store_and_key(uri), size)
    _refuse_compressed(role, uri, stored.read(16))
    members: list[TarMember] = []
    try:
        members.extend(read_members(stored, size))
        is_followed = another_follows(stored)
    except TarDamaged as error:
        last = error.member or (members[-1].name if members else "its start")
        raise JobError(
            f"{job_key(role)}: {uri} is damaged or cut off after {last} ({error.reason}): "
            "restore the shard, or take it out of the job"
        ) from None
    passed_over = PassedOver() if passed_over is None else passed_over
    if is_followed:
        passed_over.notes.append(
            f"another tar follows the end of {uri} and was passed over: keep each in a file of "
            "its own"
        )
    return _images(role, uri, members, passed_over)


def _refuse_compressed(role: str, uri: str, beginning: bytes) -> None:
    for name, (pattern, program) in _COMPRESSIONS.items():
        if re.match(pattern, beginning):
            raise JobError(
                f"{job_key(role)}: {uri} is compressed with {name}, and images are read in place "
                f"from uncompressed tars only: unpack it with '{program}' and name the tar or "
                "folder that comes out"
            )


def _images(
    role: str, uri: str, members: Sequence[TarMember], passed_over: PassedOver
) -> list[Input]:
    files = [member for member in members if member.kind not in (Kind.FOLDER, Kind.OTHER)]
    pictures = pictures_among(member.name for member in files)
    has_links = any(member.kind in _LINKS for member in members)
    by_path = {_path(member.name): member for member in members} if has_links else {}
    for member in members:
        if member.kind == Kind.OTHER:
            passed_over.add(member.name, str(Kind.OTHER))
        elif member.kind != Kind.FOLDER and member.name not in pictures:
            passed_over.add(member.name)
    return [
        _image(role, uri, member, _followed(member, by_path))
        for member in files
        if member.name in pictures
    ]


def _followed(member: TarMember, by_path: dict[str, TarMember]) -> TarMember | None:
    """The file that a member is or leads to; None where its links lead to no member."""
    for _ in range(MAX_LINKS):
        if member.kind not in _LINKS:
            return member
        folder = posixpath.dirname(member.name) if member.kind == Kind.SYMBOLIC_LINK else ""
        target = by_path.get(_path(posixpath.join(folder, member.target)))
        if target is None:
            return None
        member = target
    return None


def _path(name: str) -> str:
    return posixpath.normpath(name)


def _image(role: str, uri: str, member: TarMember, file: TarMember | None) -> Input:
    path = PurePosixPath(member.name)
    stem = path.name.partition(".")[0]  # WebDataset's key ends at the first dot
    image = Input(role, str(path.parent / stem), uri, member=member.name)
    if file is None or file.kind in (Kind.FOLDER, Kind.OTHER):
        return image.broken(
            ErrorClass.INPUT_MISSING,
            f"{image.full_uri} is a link to {member.target}, which is no file of this tar",
        )
    if file.kind == Kind.SPARSE:
        return image.broken(
            ErrorClass.UNSUPPORTED,
            f"{image.full_uri} is stored as a sparse file: pack the tar without --sparse",
        )
    return Input(role, image.key, uri, member=member.name, offset=file.offset, num_bytes=file.size)
