"""How a table of pictures with headings and figures is drawn."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

INK, SOFT_INK, BAD_INK = "#1b1f24", "#68707a", "#b3253c"
PAPER, EMPTY, LINE = "#ffffff", "#f1f3f5", "#d5d9de"
MARGIN, GAP, INPUT_GAP = 28, 12, 30
TITLE, HEADING, FIGURE = 24, 15, 13
"""Heights of letters in pixels."""

NO_LETTER = "\uffff"
"""Drawn as a box, like every letter that the font lacks."""
_SIGNS = {"×": "x", "–": "-", "—": "-", "→": "->", "≥": ">=", "≤": "<=", "ß": "ss", "µ": "u"}

MAX_CELL_LETTERS = 2000
"""Maximum letters of a text; more would not fit into any cell."""
MAX_LINES = 12
"""Maximum lines of a title or a heading."""
SPACE = "   "
"""Between two figures on one line."""


@dataclass(frozen=True)
class Cell:
    """One place of the table.

    Attributes:
        picture: drawn into the cell.
        text: shown where there is no picture.
        figures: short texts under it, as many to a line as there is room for.
        is_bad: whether the text reports a failure.
        share: how much of the cell's side the picture takes, above 0 to 1.
    """

    picture: Image.Image | None = None
    text: str = ""
    figures: tuple[str, ...] = ()
    is_bad: bool = False
    share: float = 1.0

    def size(self, side: int) -> tuple[int, int]:
        """Width and height of what is drawn, in a cell of `side` pixels."""
        if self.picture is None:
            return side, side // 2
        scale = self.share * side / max(self.picture.size)
        return max(1, round(self.picture.width * scale)), max(1, round(self.picture.height * scale))

    def lines(self, side: int) -> list[str]:
        """What stands under it, in lines of `side` pixels."""
        return _filled(self.figures, FIGURE, side)


@dataclass(frozen=True)
class Sheet:
    """A table of pictures.

    Attributes:
        headings: one per column.
        rows: a cell per column each.
        num_inputs: number of columns at the left that show inputs; a wider gap follows them.
        legend: what the figures mean, under the table.
    """

    title: str
    subtitle: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    num_inputs: int
    legend: str = ""


def draw_sheet(sheet: Sheet, side: int) -> Image.Image:
    """The table with cells of `side` pixels; a row is as high as its highest picture."""
    lefts = [
        MARGIN + column * (side + GAP) + (INPUT_GAP - GAP) * (column >= sheet.num_inputs)
        for column in range(len(sheet.headings))
    ]
    width = max(lefts[-1] + side + MARGIN, 640)
    headings = [_wrapped(text, HEADING, side, MAX_LINES) for text in sheet.headings]
    title, subtitle, legend = (
        _wrapped(text, size, width - 2 * MARGIN, MAX_LINES)
        for text, size in ((sheet.title, TITLE), (sheet.subtitle, FIGURE), (sheet.legend, FIGURE))
    )
    under_title = MARGIN + _height(title, TITLE) + 4
    top = under_title + _height(subtitle, FIGURE) + 20
    bottom_of_headings = top + max(_height(lines, HEADING) for lines in headings)
    heights = [_row_height(row, side) for row in sheet.rows]
    bottom_of_rows = bottom_of_headings + 8 + sum(heights) + (GAP + 4) * len(heights)
    height = bottom_of_rows + _height(legend, FIGURE) + MARGIN

    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    _write(draw, (MARGIN, MARGIN), title, TITLE, INK)
    _write(draw, (MARGIN, under_title), subtitle, FIGURE, SOFT_INK)
    for left, lines in zip(lefts, headings, strict=True):
        start = bottom_of_headings - _height(lines, HEADING)  # all headings end at the same height
        _write(draw, (left, start), lines, HEADING, INK)
    y = bottom_of_headings + 8
    for row, row_height in zip(sheet.rows, heights, strict=True):
        for left, cell in zip(lefts, row, strict=True):
            _draw_cell(image, draw, cell, (left, y), side)
        y += row_height + GAP + 4
    if 0 < sheet.num_inputs < len(lefts):
        x = lefts[sheet.num_inputs] - INPUT_GAP // 2
        draw.line([(x, top), (x, bottom_of_rows - GAP)], fill=LINE)
    _write(draw, (MARGIN, bottom_of_rows), legend, FIGURE, SOFT_INK)
    return image


def _draw_cell(
    image: Image.Image, draw: ImageDraw.ImageDraw, cell: Cell, place: tuple[int, int], side: int
) -> None:
    x, y = place
    width, height = cell.size(side)
    if cell.picture is None:
        draw.rectangle([x, y, x + side - 1, y + height - 1], fill=EMPTY)
        lines = _wrapped(cell.text, FIGURE, side - 20, height // _line_height(FIGURE) - 1)
        _write(draw, (x + 10, y + 10), lines, FIGURE, BAD_INK if cell.is_bad else INK)
    else:
        shown = cell.picture.resize((width, height), Image.Resampling.LANCZOS)
        image.paste(shown, (x, y))
    _write(draw, (x, y + height + 5), cell.lines(side), FIGURE, SOFT_INK)


def _row_height(row: Sequence[Cell], side: int) -> int:
    return max(cell.size(side)[1] + 5 + _height(cell.lines(side), FIGURE) for cell in row)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    lines: Sequence[str],
    size: int,
    colour: str,
) -> None:
    x, y = place
    for number, line in enumerate(lines):
        draw.text((x, y + number * _line_height(size)), line, colour, font(size))


def drawable(text: str) -> str:
    """The text in letters that the font has: `é` becomes `e`, `×` `x`, an unknown one `?`."""
    return "".join(letter if _has_letter(letter) else _like(letter) for letter in text)


def _like(letter: str) -> str:
    parts = unicodedata.normalize("NFKD", _SIGNS.get(letter, letter))
    return "".join(part for part in parts if _has_letter(part)) or "?"


@lru_cache(maxsize=4096)
def _has_letter(letter: str) -> bool:
    return letter.isascii() or _drawn(letter) != _drawn(NO_LETTER)


def _drawn(letter: str) -> bytes:
    image = Image.new("L", (3 * FIGURE, 3 * FIGURE))
    ImageDraw.Draw(image).text((0, 0), letter, 255, font(FIGURE))
    return image.tobytes()


def _wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels; `…` ends a text that does not fit."""
    lines = [""]
    words = drawable(text[:MAX_CELL_LETTERS]).split()
    for word in (piece for written in words for piece in _pieces(written, size, width)):
        longer = f"{lines[-1]} {word}".strip()
        if font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return lines


def _filled(texts: Sequence[str], size: int, width: int) -> list[str]:
    """The texts in lines of `width` pixels, none of them on two lines unless it is too long."""
    lines: list[str] = []
    for text in texts:
        longer = f"{lines[-1]}{SPACE}{text}" if lines else ""
        if longer and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += _wrapped(text, size, width, MAX_LINES)
    return lines


def _pieces(word: str, size: int, width: int) -> list[str]:
    """A word cut where it is wider than a line."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font(size).getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _height(lines: Sequence[str], size: int) -> int:
    return len(lines) * _line_height(size)


def _line_height(size: int) -> int:
    return round(size * 1.35)


@lru_cache(maxsize=8)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own letters, so many pixels high.

    Raises:
        ImportError: this Pillow has none.
    """
    letters = ImageFont.load_default(size)
    if not isinstance(letters, ImageFont.FreeTypeFont):
        raise ImportError("this Pillow was built without FreeType: install Pillow from PyPI")
    return letters
