"""Rows of an earlier measurement, read with suspicion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ad_lib.errors import RequestError

_MAX_BYTES = 64 * 2**20

_NEEDED = ("technique", "backbone", "task", "size", "batch_size", "num_steps", "dtype", "seconds")


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
    rows = document.get("rows") if isinstance(document, dict) else None
    return isinstance(rows, list) and all(_is_row(row) for row in rows)


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or any(name not in row for name in _NEEDED):
        return False
    seconds = row["seconds"]
    return isinstance(seconds, list) and all(
        isinstance(one, int | float) and 0 < one < 1e9 for one in seconds
    )
