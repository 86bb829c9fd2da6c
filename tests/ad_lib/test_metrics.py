"""Metrics against independent computations and on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import structural_similarity

from ad_lib.metrics import luma, ssim_luma, swd_patch


@pytest.fixture
def images():
    return torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))


def test_ssim_is_that_of_scikit_image(images):
    other = (0.7 * images + 0.3 * images.flip(0)).clamp(0, 1)
    for row, ours in enumerate(ssim_luma(images, other)):
        _, likeness = structural_similarity(
            luma(images)[row, 0].double().numpy(),
            luma(other)[row, 0].double().numpy(),
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert float(ours) == pytest.approx(likeness[5:-5, 5:-5].mean(), abs=1e-5)


def test_a_picture_is_fully_similar_to_itself_and_a_negative_is_not(images):
    torch.testing.assert_close(ssim_luma(images, images), torch.ones(3))
    assert ssim_luma(images, 1 - images).max() < 0


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
    halves = (torch.nn.functional.avg_pool2d(x, 2) for x in (image, reference))
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


def test_a_figure_is_an_items_own(images):
    together = swd_patch(images, images[:1])
    for row in range(3):
        torch.testing.assert_close(swd_patch(images[row : row + 1], images[:1])[0], together[row])
