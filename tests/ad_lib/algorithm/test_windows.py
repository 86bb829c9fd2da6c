"""Windows of a torus: cut as indices modulo its sides would cut them, and added up again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ad_lib.algorithm.windows import add, cut

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
PLACES = st.tuples(st.integers(0, 30), st.integers(0, 30))


@given(picture=SIDES, window=st.tuples(st.integers(1, 20), st.integers(1, 20)), place=PLACES)
def test_a_window_goes_on_at_the_opposite_edge(picture, window, place):
    values = torch.arange(2 * picture[0] * picture[1]).view(1, 2, *picture)
    rows, columns = (
        (torch.arange(length) + start) % side
        for length, start, side in zip(window, place, picture, strict=True)
    )
    assert torch.equal(cut(values, *place, *window), values[..., rows[:, None], columns])


@given(picture=SIDES, window=SIDES, place=PLACES)
def test_adding_windows_is_cutting_them_backwards(picture, window, place):
    """<add(w), p> = <w, cut(p)> for every picture p: the one is the transpose of the other."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(9, (1, 2, *picture), generator=generator)
    piece = torch.randint(9, (1, 2, *window), generator=generator)
    canvas = torch.zeros_like(values)
    add(canvas, piece, *place)
    assert (canvas * values).sum() == (piece * cut(values, *place, *window)).sum()
