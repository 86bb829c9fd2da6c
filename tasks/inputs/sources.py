"""Which images a job's sources hold, before any of them is read.

A source is a folder or S3 prefix of images or of WebDataset shards, one file, or a glob; `tables`
reads tables. Nothing is decoded here; `preflight` reads the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from infra.store import (
    MAX_OBJECT_BYTES,
    ObjectUnreadable,
    StoredObject,
    UriError,
    join_uri,
    local_path,
    open_store,
    quoted,
    read_uri,
    store_and_key,
)
from manifests.errors import JobError
from manifests.items import ErrorClass, Input, Problem
from manifests.job import Source, job_key
from manifests.limits import MAX_EXPANDED_URIS
from tasks.inputs.expansion import (
    expand_braces,
    is_glob,
    literal_beginning,
    matches,
    split_glob,
)
from tasks.inputs.formats import has_image_suffix, is_hidden, is_shard, pictures_among
from tasks.inputs.named_files import NamedFiles, look_up
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.run_outputs import outputs_of, run_folders_among
from tasks.inputs.tars import tar_members


@dataclass(frozen=True)
class SourceFile:
    """A file that a source lists: an image, or a tar of images.

    Attributes:
        name: within the source, so that a moved source lists the same names.
        size: bytes; None where a file that was named is not there.
        etag: changes when its bytes change; None where it is not there.
        problem: why it cannot be read, where its name alone shows that.
    """

    role: str
    uri: str
    name: str
    size: int | None
    etag: str | None = None
    license: str | None = None
    attribution: str | None = None
    problem: Problem | None = None


def resolve_uri(uri: str, base: str, *, allow_local: bool = False) -> str:
    """A URI as named in a file of the folder `base`, as an absolute path or `s3://` URI.

    Args:
        uri: as written; `./`, `../` and `~` mean the same as in a shell.
        base: the folder that relative paths start from.
        allow_local: whether a file on S3 may name local ones.

    Raises:
        UriError: no store can hold it, or a file on S3 names a local one.
    """
    path, folder = local_path(uri), local_path(base)
    if path is None:
        return _normal_s3(uri)
    if folder is None and not path.startswith("/"):
        return _normal_s3(join_uri(base, uri))
    if folder is None and not allow_local:
        raise UriError(f"what lies on S3 may not name a local file; got {quoted(uri)} in {base}")
    resolved = os.path.normpath(Path(folder or "/") / path)
    local_path(resolved)  # raises UriError where the name of the folder is not UTF-8
    return resolved


def _normal_s3(uri: str) -> str:
    """An S3 URI without `./` and `../`. A key may contain `//`, so that is kept."""
    open_store(uri)  # raises UriError for a wrong bucket
    bucket, *parts = uri.removeprefix("s3://").split("/")
    key: list[str] = []
    for part in parts:
        if part == ".." and not key:
            raise UriError(f"{quoted(uri)} leads out of its bucket: correct the path")
        if part == "..":
            key.pop()
        elif part != ".":
            key.append(part)
    return "/".join(["s3:/", bucket, *key])


def list_files(
    role: str,
    source: Source,
    base: str,
    *,
    run_folder: str | None = None,
    passed_over: PassedOver | None = None,
) -> list[SourceFile]:
    """The files of one role's source; none of them is read.

    Args:
        role: what the images are for; `external.NAME` of pictures that another program has made.
        source: as the job names it.
        base: the folder that relative paths start from.
        run_folder: of the job, which is never its own input.
        passed_over: counts what the source holds and is not taken.

    Raises:
        JobError: a folder or tar is not there, or a URI is of a kind that is not read.
        StoreError: the store refuses or does not answer.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    listing = _Listing(role, base, run_folder, passed_over)
    try:
        names = [name for named in source.uri for name in listing.names(named)]
        if len(names) > MAX_EXPANDED_URIS:
            raise UriError(
                f"more than {MAX_EXPANDED_URIS:,} files are named: name a folder, or fewer"
            )
        named = look_up(listing.file_uris(names))
        files = [file for name in names for file in listing.files(name, named)]
    except UriError as error:
        raise JobError(f"{job_key(role)}: {error}") from None
    return [replace(file, license=source.license, attribution=source.attribution) for file in files]


def images_in(file: SourceFile, passed_over: PassedOver | None = None) -> list[Input]:
    """The images of a listed file: itself, or a tar's members, whose headers are read.

    Raises:
        JobError: the tar is compressed or damaged.
        StoreError: the store refuses or does not answer.
    """
    terms: dict[str, Any] = {"license": file.license, "attribution": file.attribution}
    if is_shard(file.name) and file.problem is None:
        members = tar_members(file.role, file.uri, file.size or 0, passed_over)
        return [replace(member, **terms) for member in members]
    key = file.name.removesuffix(PurePosixPath(file.name).suffix)
    image = Input(file.role, key, file.uri, num_bytes=file.size, problem=file.problem, **terms)
    if file.size is None:
        return [image.broken(ErrorClass.INPUT_MISSING, f"{file.uri} is not there")]
    return [image]


def read_input(image: Input) -> bytes:
    """The bytes of an image, from its file or from its place in a tar.

    Raises:
        ObjectNotFound, ObjectUnreadable, BucketNotFound, UriError: this image cannot be read.
        StoreError: the store refuses or does not answer.
    """
    if image.member is None:
        return read_uri(image.uri)
    offset, size = image.offset, image.num_bytes
    if offset is None or size is None or not 0 <= offset + size < 1 << 63 or min(offset, size) < 0:
        raise ObjectUnreadable(f"{image.full_uri} has no place in its tar: list the tar again")
    if size > MAX_OBJECT_BYTES:
        most = MAX_OBJECT_BYTES >> 20
        raise ObjectUnreadable(f"{image.full_uri} is larger than the {most} MiB that are read")
    store, key = store_and_key(image.uri)
    return store.get_range(key, offset, size)


@dataclass(frozen=True)
class _Listing:
    """How the source of one role is listed; see `list_files`."""

    role: str
    base: str
    run_folder: str | None
    passed_over: PassedOver

    def names(self, named: str) -> list[str]:
        """The names that braces stand for; none are expanded where such a file or folder exists."""
        if "{" in named and self._is_there(named, look_up([])):
            return [named]
        return expand_braces(named)

    def file_uris(self, names: Iterable[str]) -> Iterator[str]:
        """The URIs of those names that look like files."""
        for name in names:
            uri = resolve_uri(name, self.base)
            if has_image_suffix(uri) or is_shard(uri):
                yield uri

    def files(self, name: str, named: NamedFiles) -> Iterable[SourceFile]:
        """The files of one name: a glob, a folder, or one file.

        Args:
            name: without braces.
            named: what has been looked up already.
        """
        if is_glob(name) and not self._is_there(name, named):
            return self._matching(name)
        uri = resolve_uri(name, self.base)
        looks_like_file = has_image_suffix(uri) or is_shard(uri)
        if looks_like_file or not named.is_folder(uri):
            found = named.find(uri)
            if found is not None:
                return [self._named_file(uri, found)]
        if named.is_folder(uri):
            listed = list(open_store(uri).list())
            return self._selected(uri, listed, run_folders_among(file.key for file in listed))
        if is_shard(uri):
            raise self._error(f"there is no shard {quoted(uri)}: check the path and braces")
        if has_image_suffix(uri):
            return [SourceFile(self.role, uri, PurePosixPath(uri).name, None)]
        raise self._error(f"there is no folder {quoted(uri)}: check the path")

    def _is_there(self, name: str, named: NamedFiles) -> bool:
        try:
            uri = resolve_uri(name, self.base)
        except UriError:
            return False
        path = local_path(uri)
        if path is not None:
            return os.path.lexists(path)
        return named.find(uri) is not None or named.is_folder(uri)

    def _named_file(self, uri: str, found: StoredObject) -> SourceFile:
        folder, _, name = uri.rpartition("/")
        if self.is_output_in(folder)(name):
            raise self._error(f"{quoted(uri)} lies in the run folder of this job: {_APART}")
        return SourceFile(self.role, uri, name, found.size, found.etag)

    @cached_property
    def is_output_in(self) -> Callable[[str], Callable[[str], bool]]:
        """For each folder that is read, which of its keys are outputs of this job."""
        return cache(partial(outputs_of, self.run_folder))

    def _matching(self, glob: str) -> Iterable[SourceFile]:
        folder, parts = split_glob(glob)
        root = resolve_uri(folder or ".", self.base)
        listed: list[StoredObject] = []
        if look_up([]).is_folder(root):
            depth = None if "**" in parts else len(parts)
            listed = list(open_store(root).list(literal_beginning(parts[0]), max_depth=depth))
        found = [file for file in listed if matches(file.key, parts)]
        if not found:
            raise self._error(f"no file matches {quoted(glob)} below {root}: check the pattern")
        return self._selected(root, found, run_folders_among(file.key for file in listed))

    def _selected(
        self, root: str, found: Sequence[StoredObject], runs: Set[str]
    ) -> Iterator[SourceFile]:
        """The pictures among the files below a folder; its shards where it has no pictures."""
        is_own = self.is_output_in(root)
        if "" in runs and not is_own("run.json"):
            raise self._error(f"{root} is a run folder: name its shards, {root}/data/*.tar")
        others = tuple(runs - {""})
        outputs = {f.key for f in found if f.key.startswith(others) or is_own(f.key)}
        if found and len(outputs) == len(found):
            raise self._error(f"{root} holds nothing but what runs have written: {_APART}")
        inputs = [file.key for file in found if file.key not in outputs]
        pictures = pictures_among(inputs)
        shards = {key for key in inputs if is_shard(key) and not is_hidden(key)}
        if pictures and shards:
            self.passed_over.notes.append(f"to read the shards of {root}, name them: *.tar")
        taken = pictures or shards
        for file in found:
            if file.key in taken:
                yield _source_file(self.role, root, file)
            else:
                kind = "written by runs" if file.key in outputs else None
                self.passed_over.add(file.key, kind)

    def _error(self, sentence: str) -> JobError:
        return JobError(f"{job_key(self.role)}: {sentence}")


_APART = "keep sources and runs apart, or choose another output.uri"


def _source_file(role: str, root: str, file: StoredObject) -> SourceFile:
    """A listed file; one whose name is not UTF-8 is named with escapes and cannot be read."""
    name = file.key.encode(errors="surrogateescape").decode(errors="backslashreplace")
    uri = join_uri(root, name)
    if name == file.key:
        return SourceFile(role, uri, name, file.size, file.etag)
    problem = Problem(ErrorClass.UNSUPPORTED, f"the name of {uri} is not UTF-8: rename the file")
    return SourceFile(role, uri, name, file.size, file.etag, problem=problem)
