"""Amounts as people read them."""

from __future__ import annotations

import pytest

from manifests.amounts import money, plain_number


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (40, "40"), (2.5, "2.5"), (12345.6, "12346"), (3.1e-5, "0.000031")],
)
def test_a_number_is_told_without_an_exponent_and_near_to_what_it_is(value, told):
    assert plain_number(value) == told


@pytest.mark.parametrize(
    ("amount", "told"),
    [(0, "0.00"), (0.01, "0.01"), (0.0024, "0.0024"), (1234567.891, "1234567.89")],
)
def test_money_is_told_to_the_cent_and_a_little_of_it_as_it_is(amount, told):
    assert money(amount) == told
