"""What a row of a table holds, before anybody asks what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.errors import JobError
from manifests.limits import MAX_ROW_BYTES
from manifests.wording import unusable_letter

MAX_DEPTH = 64
"""Lists and objects inside each other in one cell."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        number: from 1, without the header and without lines that are empty.
        cells: by column, as JSON has them: None, booleans, numbers, text, lists, dictionaries.
        fault: why the row cannot be read, in words; then it has no cells.
    """

    number: int
    cells: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fault: str | None = None


def refuse_repeated(columns: Iterable[str], what: str) -> None:
    """Refuses a table, named as `what`, in which a column stands twice.

    Raises:
        JobError: it does.
    """
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise JobError(f"{what}: the column {column!r} stands twice: rename or remove one")
        seen.add(column)


def json_cells(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row as JSON has them; numbers that JSON lacks become words, such as `NaN`.

    Raises:
        ValueError: a cell nests too deeply or holds half a surrogate pair, or all of them together
            hold more than `MAX_ROW_BYTES` letters; the message names the column.
    """
    converted = _Converted(MAX_ROW_BYTES)
    found: dict[str, Any] = {}
    for column, value in cells.items():
        try:
            found[converted.text(column)] = converted.value(value, 0)
        except ValueError as error:
            raise ValueError(f"its column {column[:80]!r} cannot be kept: {error}") from None
    return found


@dataclass
class _Converted:
    """Values on their way to JSON, and how many letters they may still hold."""

    room: int

    def value(self, value: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else _word(value)
        if isinstance(value, Mapping):
            return {
                self.text(str(name)): self.value(inner, depth + 1) for name, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(inner, depth + 1) for inner in value]
        return self.text(str(value))

    def text(self, text: str) -> str:
        self.room -= len(text)
        if self.room < 0:
            raise ValueError(f"the row holds more than {MAX_ROW_BYTES >> 20} MiB")
        return _whole_text(text)


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _whole_text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = unusable_letter(text[error.start])
            raise ValueError(f"it holds {found}, which UTF-8 cannot write") from None
    return text
