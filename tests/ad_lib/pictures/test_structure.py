"""Structure against scikit-image, and edges against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity

from ad_lib.pictures.colour import luma
from ad_lib.pictures.colour_figures import color_emd
from ad_lib.pictures.structure import edge_f1, ssim_luma
from ad_lib.pictures.tensors import image_to_tensor
from tests.ad_lib.pictures.samples import blobs, photo


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


def edges_pixel_by_pixel(picture):
    """The docstring's edges, by scipy's Gaussian and a loop."""
    smooth = ndimage.gaussian_filter(luma(picture)[0, 0].double().numpy(), 1.5, radius=5)
    dy, dx = (d[6:-6, 6:-6] for d in np.gradient(smooth))
    strength = np.hypot(dy, dx)
    above = 1.5 * max(0.01, np.sqrt((strength**2).mean()))
    edges = np.zeros(strength.shape, dtype=bool)
    around = np.pad(strength, 1)
    for y, x in np.ndindex(strength.shape):
        step = (0, 1) if abs(dx[y, x]) >= abs(dy[y, x]) else (1, 0)
        before = around[y + 1 - step[0], x + 1 - step[1]]
        after = around[y + 1 + step[0], x + 1 + step[1]]
        edges[y, x] = before <= strength[y, x] > after and strength[y, x] > above
    return edges


def test_the_edge_score_is_that_of_edges_found_pixel_by_pixel():
    pictures = blobs(3, 3, 60, 80)
    ours, theirs = pictures, (pictures.roll(2, 3) + pictures.roll(1, 0)) / 2
    for score, x, y in zip(edge_f1(ours, theirs), ours, theirs, strict=True):
        a, b = edges_pixel_by_pixel(x[None]), edges_pixel_by_pixel(y[None])
        wide_a, wide_b = (ndimage.binary_dilation(e, np.ones((5, 5))) for e in (a, b))
        found, kept = (a & wide_b).sum() / a.sum(), (b & wide_a).sum() / b.sum()
        assert float(score) == pytest.approx(2 * found * kept / (found + kept), abs=0.01)


def square(left):
    picture = torch.full((1, 3, 64, 64), 0.2)
    picture[..., 20:44, left : left + 24] = 0.8
    return picture


def test_edges_may_move_by_two_pixels_and_contrast_does_not_count():
    assert float(edge_f1(square(20), square(20))) == 1
    assert float(edge_f1(square(20), 0.9 - 0.5 * square(20))) == 1
    assert float(edge_f1(square(20), square(22))) == 1
    assert float(edge_f1(square(20), square(25))) < 0.7


def test_flat_pictures_have_no_edges_to_lose_and_a_lost_square_scores_zero():
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert float(edge_f1(flat, flat)) == 1
    assert float(edge_f1(flat, square(20))) == 0
    assert float(edge_f1(square(20), flat)) == 0
    assert float(edge_f1(flat, (blobs(1, 3, 64, 64) > 0.5) / 255 + 0.5)) == 1  # one grey level


def test_shuffled_content_keeps_its_colours_and_loses_its_edges():
    content = image_to_tensor(photo("cat"))
    blocks = content.unfold(2, 32, 32).unfold(3, 32, 32).flatten(2, 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    rows = blocks[:, :, order].unflatten(2, (8, 8)).permute(0, 1, 2, 4, 3, 5)
    shuffled = rows.reshape_as(content)
    assert float(color_emd(shuffled, content)) < 1e-4
    assert float(edge_f1(shuffled, content)) < 0.4
    assert float(ssim_luma(shuffled, content)) < 0.4
