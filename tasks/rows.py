"""What a row of a table holds, before anybody asks what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.errors import JobError
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


def json_value(value: Any, depth: int = 0) -> Any:
    """A value of Python as JSON has it; numbers that JSON lacks become words, such as `NaN`.

    Raises:
        ValueError: it nests too deeply, or holds half a surrogate pair.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    if isinstance(value, Mapping):
        return {
            _whole_text(str(name)): json_value(inner, depth + 1) for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [json_value(inner, depth + 1) for inner in value]
    return _whole_text(str(value))


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
