"""All figures of a result, and what holds for each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from ad_lib.pictures.colour_figures import chroma_gain, color_emd
from ad_lib.pictures.copies import patch_copy
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import (
    METRIC_NAMES,
    Judge,
    _one_scale,
    _reduced,
    measure,
    measure_with_controls,
)
from ad_lib.pictures.patches import gram_raw, swd_patch
from ad_lib.pictures.repetition import autocorr_peak, seam_ratio_x, seam_ratio_y
from ad_lib.pictures.spectrum import spectrum_slope
from ad_lib.pictures.structure import edge_f1, ssim_luma
from ad_lib.pictures.tensors import image_to_tensor, tensor_to_image
from tests.ad_lib.pictures.samples import blobs, photo

ALONE = (autocorr_peak, seam_ratio_x, seam_ratio_y, spectrum_slope)
COMPARED = (swd_patch, gram_raw, color_emd, chroma_gain, patch_copy, ssim_luma, edge_f1)


@pytest.mark.parametrize("metric", COMPARED, ids=lambda metric: metric.__name__)
def test_a_figure_is_an_items_own(metric):
    pictures, references = blobs(3, 3, 48, 64), blobs(3, 3, 48, 64, seed=1)
    paired, shared = metric(pictures, references), metric(pictures, references[:1])
    assert paired.shape == shared.shape == (3,)
    for row in range(3):
        one = pictures[row : row + 1]
        torch.testing.assert_close(metric(one, references[row : row + 1])[0], paired[row])
        torch.testing.assert_close(metric(one, references[:1])[0], shared[row])


@pytest.mark.parametrize("metric", ALONE, ids=lambda metric: metric.__name__)
def test_a_figure_of_a_picture_alone_is_an_items_own(metric):
    pictures = blobs(3, 3, 48, 64)
    together = metric(pictures)
    assert together.shape == (3,)
    for row in range(3):
        torch.testing.assert_close(metric(pictures[row : row + 1])[0], together[row])


@pytest.mark.parametrize("metric", COMPARED[:5], ids=lambda metric: metric.__name__)
def test_every_comparison_wants_one_reference_or_one_for_each(metric, images):
    with pytest.raises(ValueError, match="one for each of 3 pictures; got 2"):
        metric(images, images[:2])


@pytest.fixture(scope="module")
def content():
    return photo("cat", 256, 192)


@pytest.fixture(scope="module")
def style():
    return photo("hokusai_great_wave", 300, 220)


@pytest.fixture(scope="module")
def result(content, style):
    return Image.blend(content, fit_image(style, *content.size), 0.4)


def test_all_figures_are_told_and_those_of_a_content_only_beside_one(result, content, style):
    figures = measure(result, content=content, styles=[style])
    assert tuple(figures) == METRIC_NAMES
    assert all(type(figure) is float and np.isfinite(figure) for figure in figures.values())
    alone = measure(result, styles=[style])
    assert alone == {name: figures[name] for name in METRIC_NAMES[:-2]}


def test_small_pictures_are_measured_as_they_are(result, content, style):
    figures = measure(result, content=content, styles=[style])
    pixels, kept = image_to_tensor(result), image_to_tensor(content)
    reference = image_to_tensor(fit_image(style, *result.size))
    for metric in (swd_patch, gram_raw, color_emd, chroma_gain, patch_copy):
        assert figures[metric.__name__] == pytest.approx(float(metric(pixels, reference)))
    for metric in ALONE:
        assert figures[metric.__name__] == pytest.approx(float(metric(pixels)))
    for metric in (ssim_luma, edge_f1):
        assert figures[metric.__name__] == pytest.approx(float(metric(pixels, kept)))


def test_large_pictures_have_the_figures_of_their_reduced_copies():
    large, small = photo("renoir_moulin_galette", 768, 768), photo("coffee", 768, 768)
    figures = measure(large, content=small, styles=[small])
    halves = measure(
        large.resize((256, 256), Image.Resampling.BOX),
        styles=[small.resize((256, 256), Image.Resampling.BOX)],
    )
    for name in ("swd_patch", "gram_raw", "color_emd", "chroma_gain", "patch_copy"):
        assert figures[name] == pytest.approx(halves[name])
    assert figures["autocorr_peak"] == pytest.approx(halves["autocorr_peak"])


def test_the_content_beside_itself_is_kept_and_the_style_beside_itself_is_copied(
    result, content, style
):
    rows = measure_with_controls(result, content=content, styles=[style])
    assert list(rows) == ["result", "identity", "style copy"]
    assert rows["result"] == measure(result, content=content, styles=[style])
    assert rows["identity"]["ssim_luma"] == pytest.approx(1)
    assert rows["identity"]["edge_f1"] == 1
    assert rows["style copy"]["patch_copy"] == 1
    assert rows["style copy"]["chroma_gain"] == 1
    for name in ("swd_patch", "gram_raw", "color_emd"):
        assert rows["style copy"][name] == 0 < rows["result"][name]
    for name in ("swd_patch", "color_emd", "ssim_luma", "edge_f1"):
        styled, kept = rows["style copy"][name], rows["identity"][name]
        assert min(styled, kept) < rows["result"][name] < max(styled, kept)
    assert list(measure_with_controls(result, styles=[style])) == ["result", "style copy"]


def test_of_several_styles_distances_are_averaged_chroma_pooled_and_copies_found(result):
    styles = [photo("van_gogh_village_street", *result.size), photo("gravel", *result.size), result]
    singly = [measure(result, styles=[style]) for style in styles]
    figures = measure(result, styles=styles)
    for name in ("swd_patch", "gram_raw", "color_emd"):
        assert figures[name] == pytest.approx(np.mean([row[name] for row in singly]))
    assert figures["patch_copy"] == 1
    side_by_side = torch.cat([image_to_tensor(style) for style in styles], -1)
    pooled = chroma_gain(image_to_tensor(result), side_by_side)
    assert figures["chroma_gain"] == pytest.approx(float(pooled), rel=1e-4)


def test_a_large_result_is_compared_with_its_example_pixel_for_pixel():
    example = photo("gravel", 256, 256)
    expanded = tensor_to_image(image_to_tensor(example).repeat(1, 1, 2, 2)[0])
    at_its_size = measure(expanded, styles=[example], reference_size=256)
    enlarged = measure(expanded, styles=[example])
    assert at_its_size["patch_copy"] > 0.7
    assert at_its_size["swd_patch"] < 0.1 * enlarged["swd_patch"]


@pytest.mark.parametrize("size", [(1500, 1500), (64, 2000), (700, 300), (4000, 100), (40, 32)])
@pytest.mark.parametrize("reference_size", [None, 64, 1500])
def test_comparisons_are_bounded_whatever_the_sizes(size, reference_size):
    style_size, scale = _one_scale(size, (400, 300), reference_size)
    for compared in (size, style_size):
        pixels = _reduced(Image.new("RGB", compared), scale)
        assert 32 <= min(pixels.shape[-2:]) <= max(pixels.shape[-2:]) <= 384


def test_a_judge_tells_what_is_told_without_one_whatever_it_was_asked_before():
    cat, coffee = photo("cat", 80, 80), photo("coffee", 64, 48)
    gravel, wave = photo("gravel", 320, 320), photo("hokusai_great_wave", 64, 48)
    judge, cases = (
        Judge(),
        [
            ((64, 48), cat, [gravel], 300),
            ((33, 40), cat, [gravel], 300),
            ((64, 48), cat, [wave], None),
            ((33, 40), coffee, [wave], None),
            ((64, 48), coffee, [gravel, wave], None),
            ((64, 48), cat, [wave], 40),
        ],
    )
    for size, content, styles, reference_size in [*cases, *cases[::-1]]:
        asked = {"styles": styles, "content": content, "reference_size": reference_size}
        result = Image.blend(*(fit_image(one, *size) for one in (content, styles[0])), 0.4)
        assert judge.measure(result, **asked) == measure(result, **asked)


def test_a_picture_that_changes_is_another_picture_to_a_judge(result, content, style):
    judge, painted = Judge(), style.copy()
    judge.measure(result, styles=[painted], content=painted)
    painted.paste((200, 30, 30), (0, 0, 150, 220))
    figures = judge.measure(result, styles=[painted], content=painted)
    assert figures == measure(result, styles=[painted], content=painted)
    assert figures != measure(result, styles=[style], content=style)


def test_threads_share_a_judge(result, style):
    judge, pictures = Judge(), [result.rotate(angle).crop((0, 0, 99, 64)) for angle in (0, 90, 180)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: judge.measure(one, styles=[style]), pictures * 2))
    assert found == [measure(one, styles=[style]) for one in pictures] * 2


def test_what_cannot_be_measured_is_refused(result, style):
    with pytest.raises(ValueError, match="at least one style; got none"):
        measure(result, styles=[])
    with pytest.raises(ValueError, match="at least 32 pixels a side to be measured; got 31x40"):
        measure(Image.new("RGB", (31, 40)), styles=[style])
    with pytest.raises(ValueError, match="got 20x64"):
        measure_with_controls(result, styles=[style], content=Image.new("RGB", (20, 64)))
