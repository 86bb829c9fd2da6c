"""Which images a job's sources hold, before any of them is read.

A source is a folder or S3 prefix of images, one image, WebDataset shards, or a table with a column
per role. Nothing is decoded here; `preflight` reads the bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from braceexpand import braceexpand

from infra.store import ObjectNotFound, join_uri, open_store, read_uri, split_uri
from manifests.errors import JobError, nearest
from manifests.identity import canonical_json
from manifests.items import ErrorClass, Input, Problem
from manifests.job import Source
from tasks.stored_file import open_stored

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


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


@dataclass(frozen=True)
class TableRow:
    """One row of a table: its inputs by role, and what else it says.

    Attributes:
        key: the row's own key; empty where it has none.
        user: canonical JSON of the columns that are ours not to read.
        prompt, negative_prompt: what is drawn, and what guidance leads away from.
        problem: what the row itself lacks.
    """

    inputs: tuple[Input, ...]
    key: str
    user: str
    prompt: str | None = None
    negative_prompt: str | None = None
    problem: Problem | None = None


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
    if PurePosixPath(file.name).suffix.lower() == ".tar":
        return [replace(member, **terms) for member in _tar_members(file)]
    path = PurePosixPath(file.name)
    image = Input(file.role, file.name.removesuffix(path.suffix), file.uri, **terms)
    if file.size is None:
        return [image.broken(ErrorClass.INPUT_MISSING, f"{file.uri} is not there")]
    return [image]


def read_table(
    uri: str,
    roles: Sequence[str],
    base: str,
    *,
    optional_roles: Sequence[str] = (),
    takes_prompt: bool = False,
) -> tuple[list[TableRow], str]:
    """The rows of a CSV, JSONL or Parquet table, and the sha256 of its bytes.

    Args:
        uri: the table.
        roles: its columns that every row needs an image in.
        base: the folder that a relative `uri` starts from.
        optional_roles: columns in which a row may name an image.
        takes_prompt: whether every row needs a `prompt`.

    Raises:
        JobError: no such table, not of its format, or a role's column is missing.
    """
    uri = resolve_uri(uri, base)
    folder, name = split_uri(uri)
    try:
        data = read_uri(uri)
    except ObjectNotFound:
        raise JobError(f"inputs.table: {uri!r} is not there: check the path") from None
    rows = list(_table_rows(uri, name, data))
    if not rows:
        raise JobError(f"inputs.table: {uri!r} has no rows")
    for needed in (*roles, *(["prompt"] if takes_prompt else [])):
        if not any(needed in row for row in rows):
            columns = sorted({column for row in rows for column in row})
            raise JobError(
                f"inputs.table: {uri!r} has no column {needed!r}, which the task needs; "
                f"{nearest(needed, columns)}"
            )
    columns = _Columns(roles, optional_roles, takes_prompt, folder)
    parsed = [columns.row(number, row) for number, row in enumerate(rows, 1)]
    return parsed, hashlib.sha256(data).hexdigest()


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
    found = [one for one in open_store(uri).list() if _is_image(one.key)]
    for one in found:
        if any("\ud800" <= letter <= "\udfff" for letter in one.key):
            raise JobError(
                f"inputs.{role}: a file name in {uri!r} is not UTF-8: rename {one.key!r}"
            )
    return [SourceFile(role, join_uri(uri, one.key), one.key, one.size) for one in found]


def _is_image(key: str) -> bool:
    path = PurePosixPath(key)
    hidden = any(part.startswith(".") and part != "." for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _size(uri: str) -> int | None:
    folder, name = split_uri(uri)
    return next((one.size for one in open_store(folder).list(name) if one.key == name), None)


def _tar_members(file: SourceFile) -> Iterator[Input]:
    """A tar's image members; a tar that ends early is refused, not read as a shorter one."""
    assert file.size is not None
    folder, name = split_uri(file.uri)
    stored = open_stored(open_store(folder), name, file.size)
    last = "its start"
    try:
        with tarfile.open(fileobj=stored, mode="r:") as tar:
            for member in tar:
                last = member.name
                if member.isfile() and _is_image(member.name):
                    yield _member_input(file.role, file.uri, member)
            stored.seek(tar.offset)
            ending = stored.read(2 * tarfile.BLOCKSIZE)
    except tarfile.TarError:
        ending = b""
    if len(ending) < 2 * tarfile.BLOCKSIZE or any(ending):
        raise JobError(
            f"inputs.{file.role}: {file.uri} is damaged or cut off after {last}: restore the "
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


def _table_rows(uri: str, name: str, data: bytes) -> Iterable[Mapping[str, Any]]:
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            return pq.read_table(pa.BufferReader(data)).to_pylist()
        text = data.decode("utf-8-sig")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise JobError(f"inputs.table: {uri!r} cannot be read: {error}") from None
    if suffix == ".csv":
        return [_csv_line(uri, row) for row in csv.DictReader(io.StringIO(text))]
    if suffix in (".jsonl", ".ndjson"):
        lines = enumerate(text.splitlines(), 1)
        return [_json_line(uri, number, line) for number, line in lines if line.strip()]
    raise JobError(f"inputs.table: {uri!r} is none of .csv, .jsonl, .parquet")


def _csv_line(uri: str, row: Mapping[str | None, Any]) -> Mapping[str, Any]:
    if None in row:
        first = next(iter(row.values()))
        raise JobError(f"inputs.table: {uri}: row {first!r} has more cells than the header")
    return {str(name): value for name, value in row.items()}


def _json_line(uri: str, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise JobError(f"inputs.table: {uri}, line {number}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise JobError(f"inputs.table: {uri}, line {number}: a row is an object of columns")
    return row


@dataclass(frozen=True)
class _Columns:
    """Which of a table's columns are ours, and the folder that its paths start from."""

    roles: Sequence[str]
    optional_roles: Sequence[str]
    takes_prompt: bool
    folder: str

    def row(self, number: int, row: Mapping[str, Any]) -> TableRow:
        ours = {"key"}
        inputs: list[Input] = []
        for role in (*self.roles, *self.optional_roles):
            ours |= {role, f"{role}_license", f"{role}_attribution"}
            if role in self.roles or _text(row.get(role)):
                inputs += self._inputs(number, role, row)
        words = self._words(number, row) if self.takes_prompt else {}
        ours |= {"prompt", "negative_prompt"} if self.takes_prompt else set()
        user = {str(column): _plain(value) for column, value in row.items() if column not in ours}
        return TableRow(tuple(inputs), _text(row.get("key")) or "", canonical_json(user), **words)

    def _inputs(self, number: int, role: str, row: Mapping[str, Any]) -> list[Input]:
        named = row.get(role)
        values = named if isinstance(named, list) and named else [named]
        terms: dict[str, Any] = {
            name: _text(row.get(f"{role}_{name}")) for name in ("license", "attribution")
        }
        return [replace(_cell(number, role, value, self.folder), **terms) for value in values]

    def _words(self, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
        words: dict[str, Any] = {
            name: _text(row.get(name)) for name in ("prompt", "negative_prompt")
        }
        if not (words["prompt"] or "").strip():
            message = f"row {number} of the table names no prompt"
            words["problem"] = Problem(ErrorClass.INPUT_MISSING, message)
        return words


def _cell(number: int, role: str, value: Any, folder: str) -> Input:
    if not isinstance(value, str) or not value.strip():
        empty = Input(role, f"row-{number}", "")
        return empty.broken(ErrorClass.INPUT_MISSING, f"row {number} of the table names no {role}")
    uri = resolve_uri(value.strip(), folder)
    return Input(role, PurePosixPath(uri).stem, uri)


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if re.fullmatch(r"-?[\d.e+-]+", repr(value)) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value)
