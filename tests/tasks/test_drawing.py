from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.results.drawing import FIGURE, SPACE, Cell, Sheet, draw_sheet, drawable, font

FIGURES = ("style loss 0.173", "swd 0.0361", "ssim 0.55", "chroma 1.08", "25.5 s", "10.2 GB")
RED = Image.new("RGB", (8, 8), "#ff0000")


@pytest.mark.parametrize("side", [96, 256, 512])
def test_the_figures_under_a_picture_stay_in_its_column_and_none_is_cut(side: int):
    lines = Cell(RED, figures=(*FIGURES, "a" * 90)).lines(side)
    assert all(font(FIGURE).getlength(line) <= side for line in lines)
    told = SPACE.join(lines).split(SPACE)
    assert told[: len(FIGURES)] == list(FIGURES)
    assert "".join(told[len(FIGURES) :]) == "a" * 90


def sheet_of(title: str, share: float = 1.0) -> np.ndarray:
    cell = Cell(RED, share=share)
    drawn = draw_sheet(Sheet(title, "", ["in", "out"], [[cell, Cell(RED)]], 1, "legend"), 128)
    return np.asarray(drawn, dtype=np.int16)


def test_a_title_that_is_too_long_for_one_line_makes_the_sheet_higher_and_not_wider():
    short, long = sheet_of("few words"), sheet_of("very many words " * 12)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 40


def test_an_example_is_drawn_to_the_scale_of_a_larger_result():
    red = (np.abs(sheet_of("t", 0.25) - (255, 0, 0)).max(2) < 9).sum()
    assert red == pytest.approx(128 * 128 + 32 * 32, rel=0.02)


def test_no_letter_is_drawn_as_a_box():
    box = bytes(font(20).getmask("\uffff"))  # what Pillow draws where its font has no letter
    written = "StyTR² – 50 × 2, Prüfbögen für München, 絵 café ½ „…“"
    shown = drawable(written)
    assert shown.startswith("StyTR2 - 50 x 2, Prufbogen fur Munchen, ? cafe 1")
    assert all(bytes(font(20).getmask(letter)) != box for letter in shown)
    assert drawable("plain letters, [0.25] & more") == "plain letters, [0.25] & more"
