"""Colours against scikit-image, and what a correction of them must keep and change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from skimage.color import lab2rgb, rgb2lab

from ad_lib.pictures.colour import (
    keep_colours,
    lab_to_rgb,
    luma,
    match_channel_statistics,
    rgb_to_lab,
)


@pytest.fixture
def images():
    return torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def muted(images, strength=0.3):
    """Near mid grey, so that no correction leaves the colours that sRGB has."""
    return 0.5 + strength * (images - 0.5)


def colours(picture):
    return picture.double().flatten(1).numpy()


def test_lab_is_that_of_scikit_image(images):
    dark = images * 0.02  # where both curves are straight lines
    for picture in (*images, *dark):
        expected = rgb2lab(picture.permute(1, 2, 0).double().numpy())
        ours = rgb_to_lab(picture[None])[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours, expected, atol=2e-3)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_rgb_from_lab_is_that_of_scikit_image(images):
    lab = images * torch.tensor([100.0, 60.0, 60.0]).view(1, 3, 1, 1)
    lab[:, 1:] -= 30
    lab[0, 0] *= 0.1
    expected = [lab2rgb(picture.permute(1, 2, 0).double().numpy()) for picture in lab]
    ours = lab_to_rgb(lab).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, np.stack(expected), atol=2e-3)


def test_lab_and_back_is_the_same_picture(images):
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(images)), images, atol=2e-4, rtol=0)
    corners = torch.cartesian_prod(*3 * [torch.tensor([0.0, 1.0])]).T.view(1, 3, 2, 4)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(corners)), corners, atol=2e-4, rtol=0)


def test_black_white_and_grey_have_no_chroma():
    grey = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 2, 3)
    lab = rgb_to_lab(grey)
    assert lab[:, 1:].abs().max() < 0.02
    torch.testing.assert_close(lab[0, 0, 0], torch.tensor([0.0, 53.39, 100.0]), atol=0.01, rtol=0)


def test_kept_colours_have_the_results_lightness_and_the_contents_hue(images):
    results, contents = muted(images.roll(1, 0)), muted(images)
    kept = rgb_to_lab(keep_colours(results, contents))
    torch.testing.assert_close(kept[:, 0], rgb_to_lab(results)[:, 0], atol=0.05, rtol=0)
    torch.testing.assert_close(kept[:, 1:], rgb_to_lab(contents)[:, 1:], atol=0.05, rtol=0)


def test_colours_of_the_content_itself_are_its_own(images):
    torch.testing.assert_close(keep_colours(images, images), images, atol=2e-4, rtol=0)
    grey = luma(images).expand_as(images)
    kept = keep_colours(images, grey)
    assert (kept.amax(1) - kept.amin(1)).max() < 1e-3


def test_colours_that_srgb_lacks_are_clamped():
    white, blue = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    blue[:, 2] = 1
    kept = keep_colours(white, blue)
    assert kept.min() >= 0
    assert kept.max() <= 1


def test_matched_pictures_have_the_references_mean_and_covariance(images):
    mixing = torch.tensor([[0.6, 0.3, 0.0], [0.1, 0.5, -0.2], [0.0, 0.2, 0.4]])
    references = 0.2 + torch.einsum("ij,bjhw->bihw", mixing, muted(images))[..., :20]
    matched = match_channel_statistics(muted(images.roll(1, 0)), references)
    assert 0 < matched.min() < matched.max() < 1
    for ours, theirs in zip(matched, references, strict=True):
        x, y = colours(ours), colours(theirs)
        np.testing.assert_allclose(x.mean(1), y.mean(1), atol=1e-5)
        np.testing.assert_allclose(np.cov(x), np.cov(y), atol=2e-5)


def test_the_map_is_the_optimal_transport_between_gaussians(images):
    pictures, references = muted(images), muted(images.flip(0)).mT ** 2
    matched = match_channel_statistics(pictures, references)
    for picture, reference, ours in zip(pictures, references, matched, strict=True):
        x, y = colours(picture), colours(reference)
        a, b = (np.cov(z, bias=True) for z in (x, y))
        root = sqrtm(a).real
        transport = np.linalg.inv(root) @ sqrtm(root @ b @ root).real @ np.linalg.inv(root)
        expected = transport @ (x - x.mean(1, keepdims=True)) + y.mean(1, keepdims=True)
        np.testing.assert_allclose(colours(ours), expected, atol=1e-5)


def test_matching_a_picture_to_itself_or_twice_changes_nothing(images):
    pictures, references = muted(images), muted(images.flip(0), 0.2)
    torch.testing.assert_close(match_channel_statistics(pictures, pictures), pictures)
    once = match_channel_statistics(pictures, references)
    torch.testing.assert_close(match_channel_statistics(once, references), once)


def test_an_oversaturated_result_comes_back_to_its_example():
    example = muted(torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1)))
    grey = example.mean(1, keepdim=True)
    oversaturated = grey + 1.4 * (example - grey)
    back = match_channel_statistics(oversaturated, example)
    torch.testing.assert_close(back, example)


def test_grey_and_flat_pictures_stay_finite_and_in_range(images):
    grey = luma(images).expand_as(images)
    for pictures, references in ((grey, images), (images, grey), (0 * grey + 0.3, images)):
        matched = match_channel_statistics(pictures, references)
        assert matched.isfinite().all()
        assert 0 <= matched.min() <= matched.max() <= 1
    flat = match_channel_statistics(0 * grey + 0.3, images)
    torch.testing.assert_close(flat.mean((2, 3)), images.mean((2, 3)))


def test_a_pictures_colours_do_not_depend_on_its_batch_mates(images):
    references = muted(images.flip(0))
    for correct in (keep_colours, match_channel_statistics):
        together = correct(images, references)
        for row in range(3):
            alone = correct(images[row : row + 1], references[row : row + 1])
            torch.testing.assert_close(alone[0], together[row])
    shared = match_channel_statistics(images, references[:1])
    torch.testing.assert_close(shared[2:], match_channel_statistics(images[2:], references[:1]))


def test_references_are_one_for_all_or_one_for_each(images):
    with pytest.raises(ValueError, match="one for each of 3 pictures; got 2"):
        match_channel_statistics(images, images[:2])
