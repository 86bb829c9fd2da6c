"""Which rows does a JSON Lines file hold? Lines end at a line feed and at nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from tasks.inputs.rows import Row

MAX_DIGITS = 300
"""Digits of a whole number."""


def json_rows(text: str) -> Iterator[Row]:
    """The rows of a file with one JSON object on each line; lines without text are passed over.

    A line that is no such object is a row with a fault.
    """
    lines = ((number, line) for number, line in enumerate(_lines(text), 1) if line.strip())
    for number, (line_number, line) in enumerate(lines, 1):
        try:
            yield Row(number, _cells(line))
        except ValueError as error:
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            place = f" (line {line_number})" if line_number != number else ""
            yield Row(number, fault=f"it is no JSON object{place}: {message}")
        except RecursionError:
            yield Row(number, fault="it nests too deeply")


def _lines(text: str) -> Iterator[str]:
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _cells(line: str) -> dict[str, Any]:
    row = json.loads(
        line, object_pairs_hook=_object, parse_int=_whole, parse_float=_real, parse_constant=float
    )
    if not isinstance(row, dict):
        raise ValueError('a row is an object of columns, such as {"content": "a.png"}')
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {digits[:20]}… has more than {MAX_DIGITS} digits")
    return int(digits)


def _real(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {digits[:20]} is too large")
    return value
