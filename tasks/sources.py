"""Which images a job's sources hold, before any of them is read.

A source is a folder or S3 prefix of images, one image, or WebDataset shards; `tables` reads tables.
Nothing is decoded here; `preflight` reads the bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from braceexpand import braceexpand

from infra.store import join_uri, open_store, read_uri, split_uri
from manifests.errors import JobError
from manifests.items import ErrorClass, Input
from manifests.job import Source
from tasks.formats import IMAGE_SUFFIXES, is_image
from tasks.tars import tar_members


@dataclass(frozen=True)
class SourceFile:
    """A file that a source lists: an image, or a tar of images.

    Attributes:
        name: within the source, so that a moved source lists the same names.
        size: bytes; None where a file that was named is not there.
    """

    role: str
    uri: str
    name: str
    size: int | None
    license: str | None = None
    attribution: str | None = None


def resolve_uri(uri: str, base: str) -> str:
    """A URI as named in a file of the folder `base`."""
    if "://" in uri:
        return uri
    path = Path(uri).expanduser()
    if "://" in base and not path.is_absolute():
        return join_uri(base, uri)
    return os.path.normpath(Path(base) / path)


def list_files(role: str, source: Source, base: str) -> list[SourceFile]:
    """The files of one role's source; none of them is read.

    Raises:
        JobError: a folder or tar is not there.
        StoreError: the store refuses or does not answer.
    """
    uris = (uri for named in source.uri for uri in _expanded(role, resolve_uri(named, base)))
    terms: dict[str, Any] = {"license": source.license, "attribution": source.attribution}
    return [replace(file, **terms) for uri in uris for file in _files(role, uri)]


def images_in(file: SourceFile) -> list[Input]:
    """The images of a listed file: itself, or a tar's members, whose headers are read.

    Raises:
        JobError: the tar is damaged.
    """
    terms: dict[str, Any] = {"license": file.license, "attribution": file.attribution}
    path = PurePosixPath(file.name)
    if path.suffix.lower() == ".tar":
        assert file.size is not None
        members = tar_members(file.role, file.uri, file.size)
        return [replace(member, **terms) for member in members]
    image = Input(file.role, file.name.removesuffix(path.suffix), file.uri, **terms)
    if file.size is None:
        return [image.broken(ErrorClass.INPUT_MISSING, f"{file.uri} is not there")]
    return [image]


def read_input(one: Input) -> bytes:
    """The bytes of an image, from its file or from its place in a tar."""
    if one.member is None:
        return read_uri(one.uri)
    assert one.offset is not None
    assert one.num_bytes is not None
    folder, name = split_uri(one.uri)
    return open_store(folder).get_range(name, one.offset, one.num_bytes)


def _expanded(role: str, uri: str) -> list[str]:
    if "{" not in uri:
        return [uri]
    try:
        return list(braceexpand(uri))
    except ValueError:
        raise JobError(f"inputs.{role}: unbalanced braces in {uri!r}") from None


def _files(role: str, uri: str) -> list[SourceFile]:
    path = PurePosixPath(uri)
    if path.suffix.lower() == ".tar" or path.suffix.lower() in IMAGE_SUFFIXES:
        size = _size(uri)
        if size is None and path.suffix.lower() == ".tar":
            raise JobError(f"inputs.{role}: there is no shard {uri!r}: check the path and braces")
        return [SourceFile(role, uri, path.name, size)]
    if "://" not in uri and not Path(uri).is_dir():
        raise JobError(f"inputs.{role}: there is no folder {uri!r}: check the path")
    found = [one for one in open_store(uri).list() if is_image(one.key)]
    for one in found:
        if any("\ud800" <= letter <= "\udfff" for letter in one.key):
            raise JobError(
                f"inputs.{role}: a file name in {uri!r} is not UTF-8: rename {one.key!r}"
            )
    return [SourceFile(role, join_uri(uri, one.key), one.key, one.size) for one in found]


def _size(uri: str) -> int | None:
    folder, name = split_uri(uri)
    return next((one.size for one in open_store(folder).list(name) if one.key == name), None)
