"""Which rows does a CSV file hold?

Lines may end in any way and cells may be of any length, but quotes are strict: no stray quote may
join rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from manifests.errors import JobError
from manifests.limits import MAX_TABLE_BYTES
from tasks.inputs.rows import Row, refuse_repeated

csv.field_size_limit(MAX_TABLE_BYTES)  # of the whole process; its default is 128 KiB

_LINE_END = re.compile(r"\r\n|\r|\n")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def csv_rows(text: str, what: str, roles: Sequence[str]) -> Iterator[Row]:
    """The rows of a table with a header; rows without any text at the end are left out.

    Args:
        text: the whole file.
        what: the table, as a message names it.
        roles: columns that name pictures.

    Raises:
        JobError: quotes that do not close, a column that stands twice, more cells than columns,
            or cells that are not separated by commas.
    """
    lines = _rows_with_lines(text, what)
    header, _ = next(((cells, line) for cells, line in lines if any(cells)), ([], 0))
    _check_header(header, what)
    empty: list[Row] = []
    for number, (cells, line) in enumerate((found for found in lines if found[0]), 1):
        _refuse_joined_rows(cells, header, roles, f"{what}, line {line}")
        row = _row(number, cells, header, f"{what}, line {line}")
        if not any(cell.strip() for cell in cells):
            empty.append(row)
            continue
        yield from empty  # only at the end may rows be empty
        empty = []
        yield row


def _rows_with_lines(text: str, what: str) -> Iterator[tuple[list[str], int]]:
    """The cells of each row, and the line in which it begins."""
    reader = csv.reader((match.group() for match in _LINE.finditer(text)), strict=True)
    begins = 1
    try:
        for cells in reader:
            yield cells, begins
            begins = reader.line_num + 1
    except csv.Error as error:
        raise JobError(
            f"{what}: the quotes of the row that begins in line {begins} do not match: close every "
            'quoted cell, and write a quote inside one twice ("")'
        ) from error


def _check_header(header: Sequence[str], what: str) -> None:
    if len(header) == 1 and (separator := re.search(r"[;\t|]", header[0])):
        raise JobError(
            f"{what}: its header has one column, {header[0][:80]!r}: separate cells by commas, "
            f"not by {separator.group()!r}"
        )
    refuse_repeated((name for name in header if name), what)


def _row(number: int, cells: list[str], header: Sequence[str], where: str) -> Row:
    if any(cells[len(header) :]):
        raise JobError(
            f"{where}: row {number} has {len(cells)} cells, and the header {len(header)}: put "
            "quotes around cells that hold commas"
        )
    if len(cells) < len(header):
        return Row(number, fault=f"it has {len(cells)} cells, and the header {len(header)}")
    named = {name: cell for name, cell in zip(header, cells, strict=False) if name}
    unnamed = [cell for name, cell in zip(header, cells, strict=False) if not name and cell]
    if len(unnamed) > 1:
        raise JobError(f"{where}: row {number} has cells in columns without a name: name them")
    return Row(number, {**named, **({"": unnamed[0]} if unnamed else {})})


def _refuse_joined_rows(
    cells: Sequence[str], header: Sequence[str], roles: Sequence[str], where: str
) -> None:
    """Refuses a cell that goes over several lines where one of them looks like a row of its own."""
    columns = [header.index(role) for role in roles if role in header]
    lines = [line for cell in cells for line in _LINE_END.split(cell)[1:]]
    for line in lines if columns else ():
        parts = [part.strip().strip('"') for part in line.split(",")]
        if len(parts) == len(header) and all(PurePosixPath(parts[c]).suffix for c in columns):
            raise JobError(
                f"{where}: a quoted cell that begins here holds {line[:80]!r}, which looks like a "
                "row: close the quotes of each cell"
            )
