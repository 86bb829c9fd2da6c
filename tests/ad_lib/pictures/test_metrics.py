"""Metrics against independent computations and on cases whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft, ndimage
from scipy.stats import wasserstein_distance
from skimage.color import rgb2lab
from skimage.feature import match_template
from skimage.metrics import structural_similarity
from torch.nn.functional import avg_pool2d, interpolate

from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import METRIC_NAMES, _at_one_scale, measure, measure_with_controls
from ad_lib.pictures.metrics import (
    autocorr_peak,
    chroma_gain,
    color_emd,
    diversity,
    edge_f1,
    gram_raw,
    hamming_distance,
    luma,
    patch_copy,
    phash,
    seam_ratio_x,
    seam_ratio_y,
    spectrum_slope,
    ssim_luma,
    swd_patch,
)
from ad_lib.pictures.tensors import image_to_tensor, tensor_to_image
from manifests import examples


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


def blobs(*shape, seed=0, width=2.0):
    """Smooth random pictures that use the whole range."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (0, 0, width, width), mode="wrap")
    low, high = (bound((2, 3), keepdims=True) for bound in (smooth.min, smooth.max))
    return torch.from_numpy((smooth - low) / (high - low)).float()


def photo(name, width=256, height=256):
    (path,) = Path(examples.__file__).parent.glob(f"images/*/{name}.jpg")
    return fit_image(Image.open(path).convert("RGB"), width, height)


# Gram matrices


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
    image, reference = images[:1, :, :40, :50], images[1:2, :, :32, :36] ** 2
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


# Colours


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


# Copies and repetition


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


# Spectrum and edges


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_the_spectrums_slope_is_the_one_that_a_picture_was_made_with(slope):
    along = np.fft.fftfreq(256)
    frequency = np.hypot(along[:, None], along)
    frequency[0, 0] = 1
    noise = np.random.default_rng(0).normal(size=(8, 1, 256, 256))
    shaped = np.fft.ifft2(np.fft.fft2(noise) * frequency ** (slope / 2)).real
    grey = torch.from_numpy(0.5 + 0.1 * shaped / shaped.std()).expand(8, 3, 256, 256)
    assert float(spectrum_slope(grey).mean()) == pytest.approx(slope, abs=0.05)


def test_the_spectrums_slope_is_numpys_fit_to_ring_means(images):
    square = luma(images)[2, 0, :, 8:56].double().numpy()
    window = np.hanning(49)[:-1]
    power = np.abs(np.fft.fft2((square - square.mean()) * np.outer(window, window))) ** 2
    along = np.fft.fftfreq(48, 1 / 48)
    ring = np.hypot(along[:, None], along).round()
    radii = np.arange(2, 25)
    means = [power[ring == radius].mean() for radius in radii]
    slope, _ = np.polyfit(np.log(radii), np.log(means), 1, w=radii**-0.5)
    assert float(spectrum_slope(images)[2]) == pytest.approx(slope, abs=1e-4)


def test_blurring_steepens_the_spectrum_and_noise_flattens_it():
    picture = image_to_tensor(photo("cat"))
    noise = 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    blurred = avg_pool2d(picture, 5, stride=1, padding=2)
    slopes = [float(spectrum_slope(x)) for x in (blurred, picture, picture + noise)]
    assert slopes[0] + 0.5 < slopes[1] < slopes[2] - 0.5
    assert float(spectrum_slope(torch.full((1, 3, 64, 64), 0.5))) == pytest.approx(0, abs=1e-3)


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


# Several results, and hashes


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


@pytest.mark.parametrize("name", ["cat", "brick", "hokusai_great_wave"])
def test_the_hash_is_the_sign_pattern_of_scipys_cosine_transform(name):
    image = photo(name, 300, 200)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    lowest = fft.dctn(grey, type=2)[:8, :8]
    bits = "".join("1" if value else "0" for value in (lowest > np.median(lowest)).ravel())
    assert phash(image) == f"{int(bits, 2):016x}"


def test_hashes_of_a_picture_at_another_size_are_near_and_of_others_far():
    hashes = [phash(photo(name)) for name in ("cat", "astronaut", "brick", "grass")]
    assert hamming_distance(hashes[0], phash(photo("cat").resize((100, 100)))) <= 4
    assert min(hamming_distance(a, b) for a, b in itertools.combinations(hashes, 2)) >= 16


def test_the_hamming_distance_counts_bits():
    assert hamming_distance("0" * 16, "f" * 16) == 64
    assert hamming_distance("00000000000000ff", "00000000000000fe") == 1


# What holds for all

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


# All of them at once


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
    image, style = Image.new("RGB", size), Image.new("RGB", (400, 300))
    for pixels in _at_one_scale(image, style, reference_size):
        assert 32 <= min(pixels.shape[-2:]) <= max(pixels.shape[-2:]) <= 384


def test_what_cannot_be_measured_is_refused(result, style):
    with pytest.raises(ValueError, match="at least one style; got none"):
        measure(result, styles=[])
    with pytest.raises(ValueError, match="at least 32 pixels a side to be measured; got 31x40"):
        measure(Image.new("RGB", (31, 40)), styles=[style])
    with pytest.raises(ValueError, match="got 20x64"):
        measure_with_controls(result, styles=[style], content=Image.new("RGB", (20, 64)))
