"""Which inputs, prompts and columns the rows of a CSV, JSON Lines or Parquet table name."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Any

from infra.store import split_uri
from manifests.credentials import carried, credentials_in, entries_in, is_secret_name
from manifests.errors import JobError, nearest
from manifests.identity import canonical_json
from manifests.items import ErrorClass, Input, Problem
from manifests.limits import (
    MAX_INPUTS_OF_ROLE,
    MAX_ITEMS,
    MAX_ROW_BYTES,
    MAX_TABLE_BYTES,
    MAX_TEXT_LETTERS,
)
from manifests.wording import safe_line, unusable_letter
from tasks.inputs.csv_rows import csv_rows
from tasks.inputs.documents import decoded, read_document
from tasks.inputs.json_rows import json_rows
from tasks.inputs.parquet_rows import parquet_rows
from tasks.inputs.rows import Row, json_cells
from tasks.inputs.sources import resolve_uri

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")

MAX_PATH_BYTES, MAX_NAME_BYTES = 4096, 255
"""Limits of file systems for a path and for each name in it."""

SHOWN_LETTERS = 200
"""Maximum characters of a cell in a message."""


@dataclass(frozen=True)
class TableRow:
    """One row of a table: its inputs by role, and what else it says.

    Attributes:
        key: the row's own key; empty where it has none.
        user: canonical JSON of the columns that have no meaning for stylefarm.
        prompt, negative_prompt: what is drawn, and what guidance leads away from.
        problem: what is wrong with the row as a whole.
    """

    inputs: tuple[Input, ...]
    key: str
    user: str
    prompt: str | None = None
    negative_prompt: str | None = None
    problem: Problem | None = None

    @property
    def num_bytes(self) -> int:
        """About how much it takes in memory."""
        words = len(self.user) + len(self.prompt or "") + len(self.negative_prompt or "")
        return words + sum(len(item_input.uri) for item_input in self.inputs)


def read_table(
    uri: str,
    roles: Sequence[str],
    base: str,
    *,
    optional_roles: Sequence[str] = (),
    takes_prompt: bool = False,
    may_name_local_files: bool = False,
) -> list[TableRow]:
    """The rows of a CSV, JSON Lines or Parquet table.

    What is wrong with one row is that row's problem; its neighbours are untouched.

    Args:
        uri: the table.
        roles: its columns that every row needs an image in.
        base: the folder that a relative `uri` starts from.
        optional_roles: columns in which a row may name an image.
        takes_prompt: whether every row needs a `prompt`.
        may_name_local_files: whether a table on S3 may name files of this machine.

    Raises:
        JobError: no such table, too large, not of its format so that its rows cannot be told
            apart, or a role's column is missing.
    """
    table = _open(uri, base)
    columns = _Columns(roles, optional_roles, takes_prompt, table.folder, may_name_local_files)
    needed = [*roles, *(["prompt"] if takes_prompt else [])]
    return _read_rows(table.rows(roles), columns, needed, table.what)


def table_columns(uri: str) -> set[str]:
    """The columns of a table's first row; of none where it has no rows.

    Raises:
        JobError: as `read_table`, for what shows before the second row.
    """
    first = next(_open(uri, ".").rows(()), None)
    return set(first.cells) if first else set()


@dataclass(frozen=True)
class _Table:
    """A table that is read: where it lies, its bytes, and how a message names it."""

    folder: str
    suffix: str
    data: bytes
    what: str

    def rows(self, roles: Sequence[str]) -> Iterator[Row]:
        if self.suffix == ".parquet":
            return parquet_rows(self.data, self.what)
        if self.suffix == ".csv":
            return csv_rows(decoded(self.data, self.what), self.what, roles)
        return json_rows(decoded(self.data, self.what))


def _open(uri: str, base: str) -> _Table:
    try:
        uri = resolve_uri(uri, base)
        folder, name = split_uri(uri)
    except ValueError as error:
        raise JobError(f"inputs.table: {error}") from None
    what = f"inputs.table: {uri!r}"
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise JobError(f"{what} is none of {', '.join(SUFFIXES)}")
    return _Table(folder, suffix, read_document(uri, "inputs.table", MAX_TABLE_BYTES), what)


def _read_rows(
    rows: Iterator[Row], columns: _Columns, needed: Sequence[str], what: str
) -> list[TableRow]:
    found: list[TableRow] = []
    names: dict[str, None] = {}
    faults: list[str] = []
    num_bytes = 0
    for row in rows:
        _refuse_secrets(row, names, what)
        names.update(dict.fromkeys(row.cells))
        faults += [f"row {row.number}: {row.fault}"] if row.fault and not faults else []
        found.append(columns.row(row))
        num_bytes += found[-1].num_bytes
        if len(found) > MAX_ITEMS or num_bytes > MAX_TABLE_BYTES:
            raise JobError(
                f"{what} has more than {MAX_ITEMS:,} rows, or columns of more than "
                f"{MAX_TABLE_BYTES >> 20} MiB: drop columns that need not come along, or split it "
                "into several jobs"
            )
    if not found:
        raise JobError(f"{what} has no rows")
    if not names:
        raise JobError(f"{what}: no row can be read, such as {faults[0]}")
    for column in needed:
        if column not in names:
            raise JobError(
                f"{what} has no column {column!r}, which the task needs; {nearest(column, names)}"
            )
    for name in names:
        plain = name.strip().lower()
        if plain != name and plain in columns.ours and plain in names:
            raise JobError(
                f"{what}: the columns {plain!r} and {name!r} differ in nothing but case and "
                "spaces: rename or remove one"
            )
    return found


def _refuse_secrets(row: Row, known: Container[str], what: str) -> None:
    """Refuses a table that holds passwords or keys: its columns come along into plans and rows.

    Args:
        row: one of its rows.
        known: columns that were looked at before.
        what: the table, as a message names it.

    Raises:
        JobError: a column, or a key inside a cell, is named like a secret, or a cell holds a URI
            with credentials in it.
    """
    for column, value in row.cells.items():
        if column not in known and is_secret_name(column):
            raise JobError(
                f"{what}: the column {column[:80]!r} is named like a password or a key, and what a "
                "table's columns hold is copied into the plan and the rows of the result: drop it, "
                "or give it another name if it holds no secret"
            )
        if found := _secret_in(value):
            raise JobError(
                f"{what}, row {row.number}: the column {column[:80]!r} holds {found}, and what a "
                "table says is stored with its run: take that out, and give credentials in the "
                "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or a profile"
            )


def _secret_in(value: Any) -> str | None:
    """What a cell holds that nobody may read, in words."""
    if isinstance(value, str):
        return credentials_in(value) or _secret_in(_json_of(value))
    if not isinstance(value, dict | list):
        return None
    if name := next((name for name, _ in entries_in(value) if is_secret_name(name)), None):
        return f"{name[:80]!r}, which is named like a password or a key"
    return next((found for _, found in carried(value)), None)


def _json_of(text: str) -> Any:
    """What a text says that is a JSON object or array, as CSV has them in its cells; else None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


@dataclass(frozen=True)
class _Columns:
    """Which of a table's columns are ours, and the folder that its paths start from."""

    roles: Sequence[str]
    optional_roles: Sequence[str]
    takes_prompt: bool
    folder: str
    may_name_local_files: bool

    def row(self, row: Row) -> TableRow:
        """A row's inputs and words, or the row with its problem."""
        if row.fault:
            return self._broken(row.number, row.fault)
        try:
            plain = json_cells(row.cells)
            user = canonical_json({name: plain[name] for name in plain if name not in self.ours})
            terms = {name: _text(row, name) for name in self._own_words()}
        except ValueError as error:
            return self._broken(row.number, str(error))
        if len(user) > MAX_ROW_BYTES:
            return self._broken(
                row.number, f"its own columns hold more than {MAX_ROW_BYTES >> 20} MiB as JSON"
            )
        wanted = (*self.roles, *(role for role in self.optional_roles if row.cells.get(role)))
        found = [self._inputs(row, role, terms) for role in wanted]
        inputs = tuple(item_input for of_role in found for item_input in of_role)
        words: dict[str, Any] = {}
        if self.takes_prompt:
            words = {name: terms[name] for name in ("prompt", "negative_prompt")}
            if not (words["prompt"] or "").strip():
                message = f"row {row.number} of the table names no prompt"
                words["problem"] = Problem(ErrorClass.INPUT_MISSING, message)
        return TableRow(inputs, terms["key"] or "", user, **words)

    def _broken(self, number: int, fault: str) -> TableRow:
        message = f"row {number} of the table: {fault}"
        problem = Problem(ErrorClass.UNSUPPORTED, message)
        inputs = (Input(role, f"row-{number}", "", problem=problem) for role in self.roles)
        return TableRow(tuple(inputs), "", "{}", problem=problem)

    @cached_property
    def ours(self) -> set[str]:
        """The columns that do not come along in `user`."""
        return {*self.roles, *self.optional_roles, *self._own_words()}

    def _own_words(self) -> list[str]:
        """The columns of ours that hold words."""
        roles = (*self.roles, *self.optional_roles)
        terms = [f"{role}_{name}" for role in roles for name in ("license", "attribution")]
        prompts = ["prompt", "negative_prompt"] if self.takes_prompt else []
        return ["key", *terms, *prompts]

    def _inputs(self, row: Row, role: str, terms: dict[str, str | None]) -> Iterator[Input]:
        named = row.cells.get(role)
        values = named if isinstance(named, list) and named else [named]
        if len(values) > MAX_INPUTS_OF_ROLE:
            message = (
                f"row {row.number} of the table names {len(values)} images in {role}, at most "
                f"{MAX_INPUTS_OF_ROLE} are read"
            )
            yield Input(role, f"row-{row.number}", "").broken(ErrorClass.UNSUPPORTED, message)
            return
        license, attribution = terms[f"{role}_license"], terms[f"{role}_attribution"]
        for value in values:
            found = self._cell(row.number, role, value)
            if license or attribution:
                found = replace(found, license=license, attribution=attribution)
            yield found

    def _cell(self, number: int, role: str, value: Any) -> Input:
        row = f"row {number} of the table"
        empty = Input(role, f"row-{number}", "")
        if value is None or (isinstance(value, str) and not value.strip()):
            return empty.broken(ErrorClass.INPUT_MISSING, f"{row} names no {role}")
        if not isinstance(value, str):
            shown = safe_line(f"{value!r:.200}", SHOWN_LETTERS)
            message = f"{row}: {role} is {shown}, which is no path or URI"
            return empty.broken(ErrorClass.UNSUPPORTED, message)
        named = value.strip()
        try:
            key, uri = _located(named, self.folder, self.may_name_local_files)
            return Input(role, key, uri)
        except ValueError as error:
            shown = named if len(named) <= SHOWN_LETTERS else f"{named[:SHOWN_LETTERS]}…"
            message = f"{row}: {role} {shown!r} cannot be used: {safe_line(str(error), 1000)}"
            return empty.broken(ErrorClass.UNSUPPORTED, message)


@lru_cache(maxsize=4096)
def _located(path: str, folder: str, may_name_local_files: bool) -> tuple[str, str]:
    """The key and the URI of an image that a table names.

    Raises:
        ValueError: no file system can hold it, or it may not be named.
    """
    names = path.split("/") if len(path) <= MAX_PATH_BYTES else [path]
    if max(len(name.encode()) for name in names) > MAX_NAME_BYTES:
        raise ValueError(f"it is too long for a file system ({len(path):,} letters)")
    if letter := unusable_letter(path):
        raise ValueError(f"it holds {letter}")
    uri = resolve_uri(path, folder, allow_local=may_name_local_files)
    return PurePosixPath(split_uri(uri)[1]).stem, uri


def _text(row: Row, column: str) -> str | None:
    """A cell of words; numbers are taken as they are written.

    Raises:
        ValueError: it is no text, or longer than any text may be.
    """
    value = row.cells.get(column)
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, list | dict):
        raise ValueError(f"its column {column!r} holds a list or an object in place of text")
    text = str(value)
    if len(text) > MAX_TEXT_LETTERS:
        raise ValueError(
            f"its column {column!r} has {len(text):,} letters, at most {MAX_TEXT_LETTERS:,} are "
            "possible"
        )
    if letter := unusable_letter(text):
        raise ValueError(f"its column {column!r} holds {letter}")
    return text
