"""How a comparison is drawn: a panel for each figure, with a mean and its interval for each row."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from manifests.wording import safe_line
from tasks.comparing.comparison import Comparison, Row, Table
from tasks.comparing.documents import told_cases, told_interval
from tasks.results.drawing import (
    FIGURE,
    GAP,
    HEADING,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SOFT_INK,
    TITLE,
    drawable,
    font,
)

ENTRY, BEST, CONTROL = "#3f6fb5", "#1d7f4f", "#9aa3ad"

_NUM_COLUMNS, _PANEL_WIDTH = 2, 600
_NAME_WIDTH, _VALUE_WIDTH = 190, 84
_ROW, _DOT, _PANEL_HEAD, _SMALL = 22, 4, 58, 11


@dataclass(frozen=True)
class _Axis:
    """Where values of a panel lie, in pixels."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return self.left + share * (self.right - self.left)


def draw_comparison(comparison: Comparison) -> Image.Image:
    """The comparison as a picture; the interval of a mean is a line, a control is grey."""
    panels = [
        comparison.tables[start : start + _NUM_COLUMNS]
        for start in range(0, len(comparison.tables), _NUM_COLUMNS)
    ]
    height_of_panel = _PANEL_HEAD + _ROW * len(comparison.tables[0].rows) + GAP
    top = MARGIN + round(1.5 * TITLE) + 2 * _ROW + GAP
    size = (
        2 * MARGIN + _NUM_COLUMNS * _PANEL_WIDTH + (_NUM_COLUMNS - 1) * MARGIN,
        top + height_of_panel * len(panels) + MARGIN,
    )
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), "Figures by entry", INK, font(TITLE))
    interval = f"{told_interval(comparison)} Green: the best entry; grey: not results."
    for number, sentence in enumerate((told_cases(comparison), interval)):
        y = MARGIN + round(1.5 * TITLE) + number * _ROW
        draw.text((MARGIN, y), drawable(sentence), SOFT_INK, font(FIGURE))
    for line, tables in enumerate(panels):
        for column, table in enumerate(tables):
            left = MARGIN + column * (_PANEL_WIDTH + MARGIN)
            _draw_panel(draw, table, left, top + line * height_of_panel)
    return image


def _draw_panel(draw: ImageDraw.ImageDraw, table: Table, left: int, top: int) -> None:
    head = f"{table.figure.name}: {table.figure.direction.words}"
    draw.text((left, top), head, INK, font(HEADING))
    axis = _axis_of(table, left)
    rows_top = top + _PANEL_HEAD - GAP
    bottom = rows_top + _ROW * len(table.rows)
    for x, value in ((axis.left, axis.low), (axis.right, axis.high)):
        draw.line([(x, rows_top), (x, bottom)], fill=LINE)
        end = table.figure.shown(value)
        draw.text((x, rows_top - 17), end, SOFT_INK, font(_SMALL), anchor="ma")
    best = table.best()
    for number, row in enumerate(table.rows):
        colour = CONTROL if row.is_control else BEST if row.name in best else ENTRY
        _draw_row(draw, table, row, axis, rows_top + number * _ROW, left, colour)


def _draw_row(
    draw: ImageDraw.ImageDraw,
    table: Table,
    row: Row,
    axis: _Axis,
    top: int,
    left: int,
    colour: str,
) -> None:
    draw.text((left, top + 3), drawable(_short(row.name)), INK, font(FIGURE))
    found = row.estimate
    if found is None:
        draw.text((axis.left + 8, top + 3), "has no such figure", SOFT_INK, font(FIGURE))
        return
    y, x = top + _ROW // 2, axis.x(found.mean)
    draw.line([(axis.left, y), (axis.right, y)], fill=LINE)
    if found.low is not None and found.high is not None:
        draw.line([(axis.x(found.low), y), (axis.x(found.high), y)], fill=colour, width=3)
    draw.ellipse([x - _DOT, y - _DOT, x + _DOT, y + _DOT], fill=colour)
    value = table.figure.shown(found.mean)
    draw.text((axis.right + 10, top + 3), value, colour, font(FIGURE))


def _axis_of(table: Table, left: int) -> _Axis:
    """An axis that holds every mean and interval of a panel."""
    values = [
        value
        for row in table.rows
        if row.estimate is not None
        for value in (row.estimate.mean, row.estimate.low, row.estimate.high)
        if value is not None
    ]
    start = left + _NAME_WIDTH
    end = left + _PANEL_WIDTH - _VALUE_WIDTH
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.04
    return _Axis(start, end, low - room, high + room)


def _short(name: str) -> str:
    """A name that fits beside its row."""
    shown = safe_line(name)
    if font(FIGURE).getlength(shown) <= _NAME_WIDTH - GAP:
        return shown
    while shown and font(FIGURE).getlength(shown + "…") > _NAME_WIDTH - GAP:
        shown = shown[:-1]
    return shown + "…"
