"""Copies against template matching, and where the answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.feature import match_template
from torch.nn.functional import unfold

from ad_lib.pictures.colour import luma
from ad_lib.pictures.copies import _fine_detail, patch_copy
from ad_lib.pictures.tensors import image_to_tensor
from tests.ad_lib.pictures.samples import photo


def copied_share_by_template_matching(image, reference):
    """Every patch looked up by scikit-image in the four pictures that hold each second pixel."""

    def detail(x):
        blurred = ndimage.uniform_filter(x, 3)[1:-1, 1:-1]
        inside = ndimage.uniform_filter(np.ones_like(blurred), 15, mode="constant")
        return blurred - ndimage.uniform_filter(blurred, 15, mode="constant") / inside

    ours, theirs = (detail(luma(x)[0, 0].double().numpy()) for x in (image, reference))
    height, width = (side - 22 for side in ours.shape)
    copied = []
    for y, x in itertools.product(range(height), range(width)):
        patch = ours[y : y + 23 : 2, x : x + 23 : 2]
        found = [
            match_template(theirs[top::2, left::2], patch).max()
            for top, left in itertools.product((0, 1), (0, 1))
        ]
        copied.append(max(found) > 0.9)
    return np.mean(copied)


def test_the_copied_share_is_that_of_scikit_images_template_matching():
    reference = image_to_tensor(photo("gravel", 60, 52))
    noise = torch.randn(1, 3, 40, 34, generator=torch.Generator().manual_seed(0))
    noise *= torch.linspace(0, 0.15, 34)  # copied on the left, lost on the right
    image = (reference[:, :, 7:47, 9:43] + noise).clamp(0, 1)
    share = float(patch_copy(image, reference, num_patches=1000))
    assert 0.2 < share < 0.8
    assert share == pytest.approx(copied_share_by_template_matching(image, reference), abs=0.02)


def test_a_cutting_is_a_copy_and_another_picture_is_none():
    names = ("cat", "hokusai_great_wave", "brick", "renoir_moulin_galette")
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        reference = image_to_tensor(photo(name))
        cutting = reference[:, :, 31:190, 14:201]
        assert float(patch_copy(cutting, reference)) > 0.98  # borders have less around them
        assert float(patch_copy(0.6 * cutting + 0.2, reference)) > 0.9
        assert float(patch_copy(cutting, image_to_tensor(photo(other)))) < 0.1


def test_half_a_copy_is_half_copied():
    reference = image_to_tensor(photo("brick"))
    half = torch.cat([reference[..., :128], image_to_tensor(photo("grass"))[..., 128:]], -1)
    assert float(patch_copy(half, reference)) == pytest.approx(0.5, abs=0.12)


def test_flat_parts_do_not_count():
    reference = image_to_tensor(photo("brick"))
    half = reference.clone()
    half[..., 128:] = 0.5
    assert float(patch_copy(half, reference)) > 0.75  # patches on the border are not copies


def test_patches_that_show_nothing_are_no_copies(images):
    for faint in (torch.full_like(images, 0.5), (images > 0.5) / 255 + 0.5):
        assert patch_copy(faint, faint).max() == 0


def copied_share_in_full(image, reference):
    """Every patch of the picture against every place of the reference, in float64."""
    ours, theirs = (unfold(_fine_detail(x.double()), 12, dilation=2)[0] for x in (image, reference))
    ours, theirs = (x - x.mean(0) for x in (ours, theirs))
    ours, theirs = ours[:, ours.norm(dim=0) > 0.12], theirs / theirs.norm(dim=0).clamp_min(0.06)
    best = ((ours / ours.norm(dim=0)).T @ theirs).amax(1)
    return float((best > 0.9).double().mean()) if len(best) else 0.0


def half_flat(picture):
    picture = picture.clone()
    picture[..., picture.shape[-1] // 2 :] = 0.5
    return picture


REFERENCES = {
    "a photo": lambda: image_to_tensor(photo("gravel", 70, 60)),
    "an edge": lambda: (torch.arange(70) > 34).float().expand(1, 3, 60, 70),
    "stripes": lambda: (torch.arange(70) % 8 / 7.0).expand(1, 3, 60, 70),
    "half of it flat": lambda: half_flat(image_to_tensor(photo("brick", 70, 60))),
    "one dot": lambda: (
        (torch.arange(70 * 60) == 2000).float().view(1, 1, 60, 70).repeat(1, 3, 1, 1)
    ),
    "flat": lambda: torch.full((1, 3, 60, 70), 0.5),
}


@pytest.mark.parametrize("known", REFERENCES)
def test_no_copy_is_lost_by_looking_at_main_parts_first(known):
    reference = REFERENCES[known]()
    for strength in (0.0, 0.03, 0.06, 0.1, 0.15, 0.3):
        noise = torch.randn(1, 3, 48, 50, generator=torch.Generator().manual_seed(1))
        image = (reference[..., 5:53, 9:59] + strength * noise).clamp(0, 1)
        share = float(patch_copy(image, reference, num_patches=10**6))
        assert share == pytest.approx(copied_share_in_full(image, reference), abs=2e-3)
