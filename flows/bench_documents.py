"""Rows of an earlier measurement, read with suspicion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ad_lib.errors import RequestError

_MAX_BYTES = 64 * 2**20

_TEXTS = ("technique", "backbone", "task", "dtype", "note")
_NUMBERS = ("size", "batch_size", "num_pictures", "num_steps", "peak_flops")
_FIGURES = (
    "median_seconds",
    "images_per_second",
    "ratio",
    "tflops",
    "share_of_peak",
    "memory_bytes",
    "first_difference",
    "last_difference",
    "num_views",
    "seconds_per_view",
    "seconds_per_megapixel",
)
"""Of a row: what must be there, of which kind; figures may be null."""


def read_document(option: str, path: Path) -> dict[str, Any]:
    """A document that an earlier `--json` wrote.

    Raises:
        RequestError: it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RequestError(f"{option} {str(path)!r} is too large for rows of a measurement")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise RequestError(f"{option} {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"{option} {str(path)!r} is no JSON document") from error
    if not _is_document(document):
        raise RequestError(
            f"{option} {str(path)!r} does not hold rows that 'stylefarm bench --json' wrote"
        )
    return document


def _is_document(document: Any) -> bool:
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        return False
    machine = document.get("machine")
    return (
        isinstance(machine, dict)
        and isinstance(machine.get("versions"), dict)
        and isinstance(document.get("settings"), list)
        and all(_is_row(row) for row in document["rows"])
    )


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("seconds"), list):
        return False
    measured = all(_is_number(one) and 0 < one < 1e9 for one in row["seconds"])
    has_texts = all(isinstance(row.get(name), str) for name in _TEXTS)
    has_numbers = all(_is_number(row.get(name)) for name in _NUMBERS)
    figures = [row[name] for name in _FIGURES if name in row]
    has_figures = len(figures) == len(_FIGURES) and all(
        one is None or _is_number(one) for one in figures
    )
    return measured and has_texts and has_numbers and has_figures


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30
