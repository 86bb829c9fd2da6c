"""How the rows of a measurement are drawn: a bar of pictures per second for each."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw

from tasks.results.drawing import (
    BAD_INK,
    FIGURE,
    HEADING,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SOFT_INK,
    TITLE,
    font,
)

BAR, BASE_BAR = "#3f6fb5", "#9aa3ad"
"""Of our ways, and of the literal loop."""

_WIDTH, _NAME_WIDTH, _FIGURES_WIDTH = 1180, 250, 420
_ROW, _BAR_HEIGHT = 26, 16
_MAX_ROWS = 400
"""More would make a picture that nobody can look at; the rest is counted."""


def draw_chart(document: dict[str, Any]) -> Image.Image:
    """The rows of a document that `stylefarm bench --json` writes, a block for each batch."""
    rows = document["rows"][:_MAX_ROWS]
    blocks = _blocks(rows)
    machine = document.get("machine") or {}
    height = MARGIN + 2 * TITLE + FIGURE + sum((len(of) + 2) * _ROW for of in blocks.values())
    image = Image.new("RGB", (_WIDTH, height + MARGIN), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), "Pictures per second, technique by technique", INK, font(TITLE))
    subtitle = f"{machine.get('device', 'unknown machine')}, {document.get('date', '')}"
    if left_out := len(document["rows"]) - len(rows):
        subtitle += f"; {left_out} more rows are not drawn"
    draw.text((MARGIN, MARGIN + round(1.4 * TITLE)), subtitle, SOFT_INK, font(FIGURE))
    top = MARGIN + 2 * TITLE + FIGURE
    for (_, title), of_block in blocks.items():
        draw.text((MARGIN, top + 6), title, INK, font(HEADING))
        fastest = max(_speed(row) for row in of_block) or 1.0
        for place, row in enumerate(of_block):
            _draw_row(draw, row, top + (place + 1) * _ROW + 4, fastest)
        top += (len(of_block) + 2) * _ROW
        draw.line([(MARGIN, top - _ROW // 2), (_WIDTH - MARGIN, top - _ROW // 2)], fill=LINE)
    return image


def _blocks(rows: list[dict[str, Any]]) -> dict[tuple[Any, str], list[dict[str, Any]]]:
    """Rows by part, workload and batch, each block with the literal loop of its workload on top."""
    blocks: dict[tuple[Any, str], list[dict[str, Any]]] = {}
    base: dict[tuple[Any, str], dict[str, Any]] = {}
    for row in rows:
        workload = (
            f"{row['task']}, {row['size']} pixels, {row['backbone']}, {row['num_steps']} steps, "
            f"{row['dtype']}"
        )
        of = (row.get("part"), workload)
        if row["technique"] == "literal":
            base[of] = row
            continue
        block = (row.get("part"), f"{workload}, batches of {row['batch_size']}")
        if block not in blocks:
            blocks[block] = [base[of]] if of in base else []
        blocks[block].append(row)
    drawn = {id(row) for block in blocks.values() for row in block}
    return blocks | {of: [row] for of, row in base.items() if id(row) not in drawn}


def _draw_row(draw: ImageDraw.ImageDraw, row: dict[str, Any], top: int, fastest: float) -> None:
    left = MARGIN + _NAME_WIDTH
    draw.text((MARGIN, top), row["technique"], INK, font(FIGURE))
    speed = _speed(row)
    if not speed:
        draw.text((left, top), row.get("note") or "not measured", BAD_INK, font(FIGURE))
        return
    longest = _WIDTH - 2 * MARGIN - _NAME_WIDTH - _FIGURES_WIDTH
    length = max(1, round(longest * speed / fastest))
    colour = BASE_BAR if row["technique"] == "literal" else BAR
    draw.rectangle([left, top, left + length, top + _BAR_HEIGHT], fill=colour)
    draw.text((left + length + 8, top), _figures(row, speed), SOFT_INK, font(FIGURE))


def _figures(row: dict[str, Any], speed: float) -> str:
    parts = [f"{speed:.3g}/s"]
    for name, pattern in (
        ("ratio", "{:.2f}x"),
        ("tflops", "{:.3g} TFLOP/s"),
        ("share_of_peak", "{:.0%} of peak"),
        ("last_difference", "off {:.2g}"),
    ):
        if row.get(name) is not None:
            parts.append(pattern.format(row[name]))
    return ", ".join(parts)


def _speed(row: dict[str, Any]) -> float:
    """Pictures a second; 0 where nothing was measured."""
    return row.get("images_per_second") or 0.0
