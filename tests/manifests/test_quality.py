"""Bounds on figures, and what they say of a picture."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.quality import Bounds, Quality

finite = st.floats(-1e3, 1e3)


@given(finite, finite, finite)
def test_a_value_is_kept_exactly_where_it_lies_between_both_bounds(low, high, value):
    low, high = sorted((low, high))
    kept = Bounds(min=low, max=high).broken_by(value) is None
    assert kept == (low <= value <= high)


@pytest.mark.parametrize("bounds", [Bounds(max=1.0), Bounds(min=1.0), Bounds(min=0.0, max=2.0)])
def test_what_is_no_number_is_kept_by_no_bound(bounds):
    assert bounds.broken_by(math.nan) is not None


def test_a_rejection_tells_the_figure_and_the_bound():
    quality = Quality.model_validate({"ssim_luma": {"min": 0.3}, "chroma_gain": {"max": 1.3}})
    assert quality.rejection({"ssim_luma": 0.31, "chroma_gain": 1.3}) is None
    assert quality.rejection({"chroma_gain": 1.42}) == "chroma_gain is 1.42, above 1.3"
    assert quality.rejection({"ssim_luma": 0.123456}) == "ssim_luma is 0.1235, below 0.3"


def test_a_figure_that_a_picture_lacks_rejects_nothing():
    assert Quality.model_validate({"ssim_luma": {"min": 0.3}}).rejection({}) is None


def test_without_bounds_every_picture_is_kept():
    assert Quality(retries=3).rejection({"style_loss": math.nan}) is None
