"""Repetition against the correlation of every shift, and seams against their definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn.functional import interpolate

from ad_lib.pictures.colour import luma
from ad_lib.pictures.repetition import autocorr_peak, seam_ratio_x, seam_ratio_y
from tests.ad_lib.pictures.samples import blobs


def autocorrelation_peak_by_brute_force(values):
    height, width = values.shape
    ry, rx = height // 2, width // 2
    likeness = np.full((2 * ry + 1, 2 * rx + 1), 2.0)
    for y, x in itertools.product(range(-ry, ry + 1), range(-rx, rx + 1)):
        here = values[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)]
        there = values[max(0, y) : height - max(0, -y), max(0, x) : width - max(0, -x)]
        likeness[ry + y, rx + x] = np.corrcoef(here.ravel(), there.ravel())[0, 1]
    is_peak = (likeness == ndimage.maximum_filter(likeness, 9))[4:-4, 4:-4]
    is_peak[ry - 4, rx - 4] = False
    return likeness[4:-4, 4:-4][is_peak].max()


def test_the_repetition_is_the_largest_peak_of_the_correlations_of_all_shifts():
    pictures = blobs(3, 3, 33, 40)
    for ours, picture in zip(autocorr_peak(pictures), pictures, strict=True):
        expected = autocorrelation_peak_by_brute_force(luma(picture[None])[0, 0].double().numpy())
        assert float(ours) == pytest.approx(expected, abs=1e-5)


def test_tiles_repeat_fully_and_noise_does_not(images):
    tiles = images[:, :, :16, :20].repeat(1, 1, 4, 3)
    torch.testing.assert_close(autocorr_peak(tiles), torch.ones(3))
    assert autocorr_peak(images).max() < 0.2
    assert autocorr_peak(torch.full_like(images, 0.5)).max() == 0


def test_noise_over_tiles_lowers_their_repetition_to_the_share_of_their_variance(images):
    tiles = images[:, :, :16, :16].repeat(1, 1, 6, 6)
    noise = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    mixed = (tiles + noise) / 2
    share = luma(tiles).var((1, 2, 3)) / (luma(tiles).var((1, 2, 3)) + luma(noise).var((1, 2, 3)))
    torch.testing.assert_close(autocorr_peak(mixed), share, atol=0.06, rtol=0)


def test_a_smooth_ramp_is_no_repetition():
    ramp = torch.linspace(0, 1, 96).expand(1, 3, 80, 96)
    assert float(autocorr_peak(ramp + 0.2 * blobs(1, 3, 80, 96, width=20))) < 0.3


def test_the_seam_ratio_is_the_wraps_difference_over_the_interiors(images):
    pixels = images[1].double().numpy()
    interior = np.abs(np.diff(pixels, axis=2)).mean()
    expected = np.abs(pixels[:, :, 0] - pixels[:, :, -1]).mean() / interior
    assert float(seam_ratio_x(images)[1]) == pytest.approx(expected, rel=2e-3)


def test_pictures_that_wrap_are_seamless_and_their_halves_are_not():
    pictures = blobs(4, 3, 96, 128, width=4)
    for ratio, half in ((seam_ratio_x, pictures[..., :64]), (seam_ratio_y, pictures[:, :, :48])):
        torch.testing.assert_close(ratio(pictures), torch.ones(4), atol=0.35, rtol=0)
        assert ratio(half).min() > 3


def test_a_ramp_has_the_seam_of_all_its_steps_along_its_own_axis_only():
    ramp = torch.linspace(0, 1, 65).expand(1, 3, 40, 65)
    assert float(seam_ratio_x(ramp)) == pytest.approx(64, rel=0.03)
    assert float(seam_ratio_y(ramp)) == pytest.approx(1)
    assert float(seam_ratio_y(ramp.mT)) == pytest.approx(64, rel=0.03)


def test_rows_that_high_pictures_skip_do_not_move_the_seam(images):
    high = interpolate(blobs(1, 3, 64, 48), (2500, 48), mode="bilinear")
    low = interpolate(high, (1000, 48), mode="bilinear")
    assert float(seam_ratio_x(high)) == pytest.approx(float(seam_ratio_x(low)), rel=0.01)
