"""Label maps: tokens see their own label only, whatever the sizes, and nothing is made up."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ad_lib import Request, RequestError, render
from ad_lib.algorithm.labels import Regions, attention_by_label, token_labels
from ad_lib.model.families.stable_diffusion.self_attention import halved_grids
from ad_lib.pictures.images import fit_mask
from ad_lib.pictures.masks import label_map
from tests.ad_lib.requests_of_every_task import disc, halves, photo, request
from tests.ad_lib.waiting import NothingWaits

regions_of = partial(Regions, token_grids=halved_grids)


def random_labels(generator, size, count):
    return torch.randint(count, size, generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    target=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    source=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    count=st.integers(1, 5),
)
def test_it_is_attention_under_a_mask_of_equal_labels(seed, target, source, count):
    generator = torch.Generator().manual_seed(seed)
    theirs = random_labels(generator, source, count)
    mine = theirs.flatten()[random_labels(generator, target, theirs.numel())]
    n, m = mine.numel(), theirs.numel()
    query = torch.randn(1, 2, n, 4, generator=generator)
    key, value = torch.randn(2, 1, 2, m, 4, generator=generator)
    regions = regions_of([theirs], [mine], source_size=source, target_size=target)
    allowed = mine.flatten()[:, None] == theirs.flatten()
    torch.testing.assert_close(
        attention_by_label(query, key, value, regions),
        F.scaled_dot_product_attention(query, key, value, attn_mask=allowed),
    )


def test_every_item_of_a_batch_has_its_own_regions():
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 1, 4, 3, generator=generator)
    maps = [torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [0, 1]])]
    size = {"source_size": (2, 2), "target_size": (2, 2)}
    together = attention_by_label(query, key, value, regions_of(maps, maps, **size))
    for item in range(2):
        one = slice(item, item + 1)
        alone = regions_of(maps[one], maps[one], **size)
        expected = attention_by_label(query[one], key[one], value[one], alone)
        torch.testing.assert_close(together[one], expected)


def test_a_step_asks_for_one_call_in_four_dimensions_per_label_and_waits_for_nothing():
    source = torch.tensor([[0, 0, 1], [1, 2, 2]])
    target = torch.tensor([[1, 0], [1, 1]])
    regions = regions_of([source, source], [target, target], source_size=(2, 3), target_size=(2, 2))
    query, (key, value) = torch.randn(2, 3, 4, 8), torch.randn(2, 2, 3, 6, 8)
    with NothingWaits() as watched:
        attention_by_label(query, key, value, regions)
    assert watched.shapes == [(1, 3, 1, 8), (1, 3, 3, 8)] * 2


def test_regions_of_the_meta_device_attend_there():
    """There every result is a shape alone, so that whatever the host asked for would raise."""
    labels = torch.tensor([[0, 0], [1, 1]])
    regions = regions_of([labels], [labels], source_size=(2, 2), target_size=(2, 2), device="meta")
    query, key, value = torch.empty(3, 1, 2, 4, 8, device="meta")
    assert attention_by_label(query, key, value, regions).shape == query.shape


def test_a_label_that_only_a_coarser_level_lacks_is_refused_there_alone():
    source = torch.zeros(4, 4).long()
    source[1, 1] = 7
    target = source.roll((1, 1), (0, 1))
    regions = regions_of([source], [target], source_size=(4, 4), target_size=(4, 4))
    regions.of_item(0, 16, 16)
    with pytest.raises(RequestError, match=r"#000007, .* among 4 tokens"):
        regions.of_item(0, 4, 4)
    with pytest.raises(ValueError, match="no level has 5 tokens of the texture and 16"):
        regions.of_item(0, 5, 16)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (5, 40), (25, 24)])
def test_every_level_has_half_the_rows_and_columns_rounded_up(size):
    levels = list(halved_grids(size))
    assert levels[0] == size
    assert levels[-1] == (1, 1)
    for (rows, columns), (fewer, narrower) in pairwise(levels):
        assert (fewer, narrower) == ((rows + 1) // 2, (columns + 1) // 2)


def test_a_token_has_the_label_under_its_upper_left_corner():
    labels = torch.arange(35).view(5, 7)
    assert token_labels(labels, (2, 3)).tolist() == [0, 2, 4, 14, 16, 18]


def test_colours_are_labels_and_no_others_appear_when_a_mask_is_fitted():
    mask = disc((57, 43))
    fitted = fit_mask(mask, 200, 90)
    assert fitted.size == (200, 90)
    assert label_map(fitted).unique().tolist() == [0x0000FF, 0xFF0000]


def test_an_equal_fit_keeps_a_mask_with_its_picture():
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, 45:] = 255
    image = Image.fromarray(pixels)
    from ad_lib.pictures.images import fit_image

    picture, mask = fit_image(image, 64, 64), fit_mask(image, 64, 64)
    differing = np.abs(np.asarray(picture, int) - np.asarray(mask, int)).max(axis=2) > 128
    assert differing.mean() < 0.02


def masked(**changes) -> Request:
    parts = {"source_mask": halves((128, 96)), "target_mask": disc((90, 80))} | changes
    return request("texture-masked", **parts)


@pytest.mark.parametrize(
    ("changes", "value", "remedy"),
    [
        ({"source_mask": Image.new("RGB", (128, 96), "red")}, "#0000ff", "paint the region"),
        ({"target_mask": photo(3)}, "colours, and each is a label", "flat colours"),
        ({"source_mask": halves((96, 96))}, "source_mask is 96x96", "make them the same size"),
        ({"source_mask": None}, "needs a source_mask", "give source_mask"),
        ({"target_mask": None}, "needs a target_mask", "give target_mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(changes, value, remedy):
    with pytest.raises(RequestError) as refused:
        masked(**changes)
    assert value in str(refused.value)
    assert remedy in str(refused.value)


def test_a_label_that_vanishes_on_the_tokens_grid_is_refused():
    dot = Image.new("RGB", (128, 96), "red")
    dot.putpixel((127, 95), (0, 0, 255))
    with pytest.raises(RequestError, match="at one token per 8 pixels"):
        masked(source_mask=dot, width=128, height=96)


def test_two_textures_under_one_mask_are_refused():
    parts = {"source_mask": halves((128, 96)), "target_mask": disc((90, 80))}
    with pytest.raises(RequestError, match="takes one texture"):
        Request.preset("texture-masked", styles=[photo(1), photo(2)], **parts)


def test_regions_take_their_colours_from_the_texture_region_of_their_label(tiny_backbone):
    """Where a masked texture starts, every pixel is one of the example's, of the same label."""
    from ad_lib.algorithm.noise import seeded_noise
    from ad_lib.pictures.textures import region_random

    generator = torch.Generator().manual_seed(2)
    texture = torch.rand(1, 3, 6, 8, generator=generator)
    source = torch.arange(48).view(6, 8) // 16
    target = torch.randint(3, (9, 5), generator=generator)
    filled = region_random(texture, source, target, seeded_noise(1))
    for row in range(9):
        for column in range(5):
            of_label = texture[0][:, source == target[row, column]]
            assert (of_label == filled[0, :, row, column, None]).all(0).any()
    assert not torch.equal(filled, region_random(texture, source, target, seeded_noise(2)))


@pytest.mark.parametrize("size", [(64, 64), (161, 70), (80, 121)])
def test_a_masked_texture_of_any_aspect_has_its_size(tiny_backbone, size):
    (result,) = render(tiny_backbone, [masked(width=size[0], height=size[1])])
    assert result.image.size == size


def test_masks_change_the_picture_and_one_label_is_no_mask(tiny_backbone):
    plain = Image.new("RGB", (128, 96), "red")
    one_label = masked(source_mask=plain, target_mask=plain, num_inference_steps=1)
    (alone,) = render(tiny_backbone, [one_label])
    (two,) = render(tiny_backbone, [masked(num_inference_steps=1)])
    assert alone.image.tobytes() != two.image.tobytes()
