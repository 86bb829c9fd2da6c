"""Which inputs, prompts and columns the rows of a CSV, JSON Lines or Parquet table name."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.store import ObjectNotFound, read_uri, split_uri
from manifests.errors import JobError, nearest
from manifests.identity import canonical_json
from manifests.items import ErrorClass, Input, Problem
from tasks.sources import resolve_uri


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
