"""How preference shares are drawn: a line for each pair, with its intervals about the half."""

from __future__ import annotations

from PIL import Image, ImageDraw

from manifests.wording import safe_line
from tasks.results.drawing import (
    FIGURE,
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
from tasks.study.documents import asked, by_question, told_people
from tasks.study.results import Results, Share

PEOPLE, VOTES = "#9db8dd", "#3f6fb5"
"""Of the interval over people, a bar, and of that over votes, a line."""

_WIDTH, _NAME, _FIGURES = 1100, 330, 190
_ROW, _BAR, _DOT = 30, 12, 5
_MAX_LETTERS = 44


def draw_shares(results: Results) -> Image.Image:
    """The counted shares as a picture, a block for each task and question."""
    blocks = by_question(results.shares)
    head = MARGIN + 2 * TITLE + 3 * FIGURE
    height = head + sum(len(of) + 3 for of in blocks.values()) * _ROW + MARGIN
    image = Image.new("RGB", (_WIDTH, max(height, 160)), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), drawable(safe_line(results.study.title, 70)), INK, font(TITLE))
    legend = "Dot: share of the votes; bar: 95 % by people; line: 95 % by votes."
    for number, told in enumerate((told_people(results), legend)):
        y = MARGIN + round(1.5 * TITLE) + number * round(1.5 * FIGURE)
        draw.text((MARGIN, y), drawable(told), SOFT_INK, font(FIGURE))
    top = head
    for (task, question), shares in blocks.items():
        words = drawable(safe_line(f"{task}: {asked(question)}", 120))
        draw.text((MARGIN, top), words, INK, font(HEADING))
        bottom = top + (len(shares) + 1) * _ROW
        for share, colour in ((0.0, LINE), (0.5, SOFT_INK), (1.0, LINE)):
            draw.line([(_x(share), top + _ROW), (_x(share), bottom)], fill=colour)
            draw.text((_x(share), bottom), f"{share:.0%}", SOFT_INK, font(FIGURE), anchor="ma")
        for place, share in enumerate(shares):
            _draw_share(draw, share, top + (place + 1) * _ROW)
        top = bottom + 2 * _ROW
    return image


def _draw_share(draw: ImageDraw.ImageDraw, share: Share, top: int) -> None:
    middle = top + _ROW // 2
    words = drawable(safe_line(f"{share.first} over {share.second}", _MAX_LETTERS))
    draw.text((MARGIN, middle - FIGURE // 2), words, INK, font(FIGURE))
    if share.interval_of_people is not None:
        low, high = map(_x, share.interval_of_people)
        draw.rectangle([low, middle - _BAR // 2, high, middle + _BAR // 2], fill=PEOPLE)
    if share.interval is not None:
        low, high = map(_x, share.interval)
        draw.line([(low, middle), (high, middle)], fill=VOTES, width=3)
    x = _x(share.share)
    draw.ellipse([x - _DOT, middle - _DOT, x + _DOT, middle + _DOT], fill=INK)
    figures = f"{share.share:.0%} of {share.num_votes} votes"
    place = (_WIDTH - MARGIN - _FIGURES + 20, middle - FIGURE // 2)
    draw.text(place, figures, SOFT_INK, font(FIGURE))


def _x(share: float) -> float:
    left, right = MARGIN + _NAME, _WIDTH - MARGIN - _FIGURES
    return left + share * (right - left)
