"""Patch distances against scipy, and Gram matrices against windows taken one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn.functional import avg_pool2d

from ad_lib.pictures.patches import gram_raw, swd_patch
from tests.ad_lib.pictures.samples import blobs


def distance_at_one_scale(image, reference):
    """The same directions, the patches unfolded, the distances by scipy."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(128, 147, generator=generator)
    directions = (directions / directions.norm(dim=1, keepdim=True)).numpy()
    ours, theirs = (
        directions @ torch.nn.functional.unfold(x, 7)[0].numpy() for x in (image, reference)
    )
    return np.mean([wasserstein_distance(a, b) for a, b in zip(ours, theirs, strict=True)])


def test_a_patch_distance_is_the_mean_of_exact_one_dimensional_ones(images):
    image, reference = images[:1, :, :40, :50], images[1:2, :, :32, :36] * 0.8
    expected = distance_at_one_scale(image, reference)
    assert float(swd_patch(image, reference)) == pytest.approx(expected, rel=0.01)


def test_larger_pictures_are_compared_at_half_their_size_too():
    image, reference = torch.rand(2, 1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    reference = reference**2
    halves = (avg_pool2d(x, 2) for x in (image, reference))
    expected = (distance_at_one_scale(image, reference) + distance_at_one_scale(*halves)) / 2
    assert float(swd_patch(image, reference)) == pytest.approx(expected, rel=1e-4)


def test_references_are_one_for_all_or_one_for_each(images):
    with pytest.raises(ValueError, match="one for each of 3 pictures; got 2"):
        swd_patch(images, images[:2])


def test_patch_distance_is_zero_for_itself_and_ignores_where_things_are(images):
    assert swd_patch(images, images).abs().max() == 0
    tiled = images.repeat(1, 1, 2, 2)[:, :, 13:61, 21:85]  # shifted, wrapping around
    noise_floor = swd_patch(images, images.roll(1, 0))
    assert (swd_patch(images, tiled) < noise_floor).all()


def test_patch_distance_of_flat_pictures_is_the_difference_seen_by_each_direction():
    black, grey = torch.zeros(1, 3, 40, 40), torch.full((1, 3, 40, 40), 0.5)
    quarter = torch.full((1, 3, 40, 40), 0.25)
    assert float(swd_patch(black, grey)) == pytest.approx(2 * float(swd_patch(black, quarter)))
    assert float(swd_patch(black, grey)) == pytest.approx(float(swd_patch(grey, black)))


def gram_distance_at_one_scale(image, reference):
    bank = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0)).numpy()
    bank -= bank.mean((2, 3), keepdims=True)
    bank /= np.linalg.norm(bank.reshape(64, -1), axis=1)[:, None, None, None]
    grams = []
    for x in (image[0].numpy(), reference[0].numpy()):
        windows = np.lib.stride_tricks.sliding_window_view(x, (7, 7), (1, 2))
        seen = np.maximum(np.einsum("kcij,cyxij->kyx", bank, windows), 0).reshape(64, -1)
        grams.append(seen @ seen.T / seen.shape[1])
    return np.linalg.norm(grams[0] - grams[1]) / sum(map(np.linalg.norm, grams))


def test_the_gram_distance_is_that_of_responses_computed_window_by_window(images):
    image, reference = blobs(1, 3, 130, 40), images[1:2, :, :32, :36] ** 2
    expected = gram_distance_at_one_scale(image, reference)
    assert float(gram_raw(image, reference)) == pytest.approx(expected, rel=1e-4)


def test_the_gram_distance_is_zero_for_itself_and_one_for_nothing(images):
    assert gram_raw(images, images).abs().max() == 0
    flat = torch.full_like(images, 0.3)
    torch.testing.assert_close(gram_raw(images, flat), torch.ones(3))
    assert gram_raw(flat, 2 * flat).abs().max() < 1e-6


def test_the_gram_distance_sees_texture_and_not_a_flat_shift_of_colour(images):
    cast = 0.5 * images + torch.tensor([0.4, 0.0, 0.2]).view(1, 3, 1, 1)
    assert gram_raw(cast, 0.5 * images).max() < 1e-4
    assert gram_raw(blobs(3, 3, 48, 64), images).min() > 0.3
