"""Distances of colours against scipy and scikit-image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab
from torch.nn.functional import interpolate

from ad_lib.pictures.colour import luma
from ad_lib.pictures.colour_figures import chroma_gain, color_emd, diversity
from tests.ad_lib.pictures.samples import blobs


def test_the_colour_distance_is_the_mean_of_scipys_over_the_lab_channels(images):
    other = images[:, :, :30].roll(1, 0) ** 2
    for ours, x, y in zip(color_emd(images, other), images, other, strict=True):
        lab = [rgb2lab(z.permute(1, 2, 0).numpy()).reshape(-1, 3).T for z in (x, y)]
        expected = np.mean([wasserstein_distance(a, b) for a, b in zip(*lab, strict=True)])
        assert float(ours) == pytest.approx(expected, rel=1e-2)


def test_the_colour_distance_ignores_where_colours_are(images):
    order = torch.randperm(48 * 64, generator=torch.Generator().manual_seed(0))
    shuffled = images.flatten(2)[..., order].view_as(images)
    assert color_emd(shuffled, images).abs().max() < 1e-4
    assert color_emd(images**2, images).min() > 3


def test_the_chroma_gain_is_the_ratio_of_mean_chromas_raised_by_one(images):
    other = 0.5 * images + 0.25
    for ours, x, y in zip(chroma_gain(images, other), images, other, strict=True):
        lab = (rgb2lab(z.permute(1, 2, 0).numpy()) for z in (x, y))
        mean, other_mean = (np.hypot(z[..., 1], z[..., 2]).mean() for z in lab)
        assert float(ours) == pytest.approx((1 + mean) / (1 + other_mean), rel=1e-4)


def test_the_chroma_gain_of_grey_is_one_beside_grey_and_below_one_beside_colour(images):
    grey = luma(images).expand_as(images)
    torch.testing.assert_close(chroma_gain(grey, grey.flip(0)), torch.ones(3), atol=0.01, rtol=0)
    assert chroma_gain(grey, images).max() < 0.1
    gain = chroma_gain(images, grey)
    assert gain.isfinite().all()
    assert gain.min() > 10


def test_diversity_is_the_mean_lab_distance_over_all_pairs(images):
    labs = [rgb2lab(x.permute(1, 2, 0).numpy()) for x in images]
    pairs = [np.linalg.norm(a - b, axis=2).mean() for a, b in itertools.combinations(labs, 2)]
    assert float(diversity(images)) == pytest.approx(np.mean(pairs), rel=1e-4)
    assert float(diversity(images[:1].repeat(3, 1, 1, 1))) == 0


def test_diversity_of_large_pictures_is_that_of_their_small_copies():
    small = blobs(3, 3, 64, 64)
    large = interpolate(small, scale_factor=4)
    assert float(diversity(large)) == pytest.approx(float(diversity(small)), rel=1e-5)


def test_diversity_needs_two_pictures(images):
    with pytest.raises(ValueError, match="at least two pictures; got 1"):
        diversity(images[:1])
