"""Image quilting is held against plain numpy, exhaustive search, and what its paper says."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from PIL import Image

from ad_lib import Request, RequestError, render
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.baselines import quilting
from ad_lib.baselines.quilting import (
    BlockSearch,
    Place,
    Quilt,
    beyond_cuts,
    block_starts,
    chosen,
    minimum_error_cut,
    overlap_of,
    overlaps_of,
)
from tests.ad_lib.requests_of_every_task import photo, request

TASK = "baseline-quilting"


def grains(seed: int, size: tuple[int, int] = (60, 72)) -> Image.Image:
    """A texture of blurred noise: blocks fit, but none of them exactly."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (30, 36, 3), np.uint8))
    return coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def numbers(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).double()


def quilt(
    *textures: Image.Image, side: int = 18, size: tuple[int, int] = (80, 64), seed: int = 0
) -> Quilt:
    laid = Quilt([numbers(texture) for texture in textures], side, size, seeded_noise(seed))
    for row, column in product(*map(range, laid.num_blocks)):
        laid.lay(row, column)
    return laid


def ssd(texture: np.ndarray, laid: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
    """The error of every block, one after the other."""
    side = len(overlaps)
    rows, columns = texture.shape[1] - side + 1, texture.shape[2] - side + 1
    errors = np.empty((rows, columns), np.int64)
    for row, column in product(range(rows), range(columns)):
        block = texture[:, row : row + side, column : column + side]
        errors[row, column] = int((((block - laid) * overlaps) ** 2).sum())
    return errors


@pytest.mark.parametrize(("above", "before"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("height", "width", "side"), [(31, 40, 12), (12, 25, 12), (33, 20, 7)])
def test_errors_are_exactly_those_of_comparing_block_by_block(above, before, height, width, side):
    random = np.random.default_rng(height + side)
    texture = random.integers(0, 256, (3, height, width)).astype(float)
    laid = random.integers(0, 256, (3, side, side)).astype(float)
    overlaps = overlaps_of(side, above=above, before=before)
    found = BlockSearch(torch.tensor(texture), side).errors(torch.tensor(laid), overlaps)
    assert np.array_equal(found.numpy(), ssd(texture, laid, overlaps.numpy()))


@pytest.mark.parametrize("seed", range(12))
def test_no_path_through_an_overlap_is_cheaper_than_the_cut(seed):
    random = np.random.default_rng(seed)
    length, overlap = int(random.integers(1, 7)), int(random.integers(1, 5))
    surface = random.integers(0, 9, (length, overlap)).astype(float)
    cut = minimum_error_cut(torch.tensor(surface))
    paths = (
        path
        for path in product(range(overlap), repeat=length)
        if all(abs(one - other) <= 1 for one, other in pairwise(path))
    )
    costs = {path: sum(surface[row, column] for row, column in enumerate(path)) for path in paths}
    assert costs[tuple(cut)] == min(costs.values())


def test_every_block_is_within_a_tenth_of_the_best_error():
    texture, side = grains(1), 18
    laid = Quilt([numbers(texture)], side, (80, 64), seeded_noise(3))
    not_the_best = 0
    for row, column in product(*map(range, laid.num_blocks)):
        overlaps = overlaps_of(side, above=row > 0, before=column > 0).numpy()
        errors = ssd(numbers(texture).numpy(), laid.laid_at(row, column).numpy().copy(), overlaps)
        laid.lay(row, column)
        error = errors[laid.places[-1].row, laid.places[-1].column]
        assert 10 * error <= 11 * errors.min()
        not_the_best += int(error > errors.min())
    assert not_the_best


def test_which_of_the_good_blocks_is_taken_is_chance_and_nothing_else_counts():
    errors = torch.tensor([[110, 200, 100], [111, 105, 500]])
    found = {chosen([errors], share / 100) for share in range(101)}
    assert found == {Place(0, 0, 0), Place(0, 0, 2), Place(0, 1, 1)}
    second = torch.tensor([[99]])
    found = {chosen([errors, second], share / 100) for share in range(101)}
    assert found == {Place(0, 0, 2), Place(0, 1, 1), Place(1, 0, 0)}


@pytest.mark.parametrize(
    ("side", "size", "texture_size"),
    [
        (18, (80, 64), (60, 72)),
        (24, (64, 131), (24, 24)),
        (4, (65, 64), (40, 5)),
        (13, (65, 64), (13, 50)),
    ],
)
def test_every_pixel_is_a_pixel_of_the_texture_at_the_place_of_its_block(side, size, texture_size):
    texture = grains(4, texture_size)
    laid = quilt(texture, side=side, size=size)
    assert laid.picture.shape == (3, *size)
    pixels, found = numbers(texture), laid.picture
    overlap, step = overlap_of(side), side - overlap_of(side)
    known = {tuple(pixel) for pixel in pixels.flatten(1).T.tolist()}
    assert {tuple(pixel) for pixel in found.flatten(1).T.tolist()} <= known
    starts = product(block_starts(size[0], side), block_starts(size[1], side))
    for (top, left), place in zip(starts, laid.places, strict=True):
        inner = found[:, top : top + step, left : left + step][:, overlap:, overlap:]
        first = (place.row + overlap, place.column + overlap)
        wanted = pixels[:, first[0] :, first[1] :][:, : inner.shape[1], : inner.shape[2]]
        assert torch.equal(inner, wanted)


def test_blocks_come_from_every_texture():
    red, blue = (Image.new("RGB", (30, 30), colour) for colour in ("red", "blue"))
    laid = quilt(red, blue, side=12)
    assert len({place.texture for place in laid.places}) == 1, "they never fit each other"
    laid = quilt(grains(1), grains(2), side=12, size=(120, 120))
    assert {place.texture for place in laid.places} == {0, 1}


def seam(laid: Quilt, side: int, axis: int) -> float:
    """The largest step across the overlaps of blocks along an axis, on the average."""
    pixels = laid.picture if axis else laid.picture.transpose(1, 2)
    steps = pixels.diff(dim=2).square().sum(0)
    starts = list(block_starts(pixels.shape[2], side))[1:]
    across = [steps[:, start - 1 : start + overlap_of(side)].amax(1).mean() for start in starts]
    return float(torch.stack(across).mean())


@pytest.mark.parametrize("axis", [0, 1])
def test_cuts_are_less_visible_than_straight_seams(monkeypatch, axis):
    side, size = 24, (104, 104)
    cut = [quilt(grains(seed), side=side, size=size, seed=seed) for seed in range(3)]
    monkeypatch.setattr(
        quilting, "minimum_error_cut", lambda surface: [surface.shape[1] // 2] * len(surface)
    )
    straight = [quilt(grains(seed), side=side, size=size, seed=seed) for seed in range(3)]
    for one, other in zip(cut, straight, strict=True):
        assert seam(one, side, axis) < seam(other, side, axis)


def test_a_new_block_begins_at_its_cuts():
    random = np.random.default_rng(0)
    laid, block = (torch.tensor(random.integers(0, 256, (3, 12, 12))).double() for _ in range(2))
    surface = (laid - block).square().sum(0)
    before = minimum_error_cut(surface[:, :2])
    above = minimum_error_cut(surface[:2].T)
    found = beyond_cuts(laid, block, above=True, before=True)
    for row, column in product(range(12), repeat=2):
        assert bool(found[row, column]) == (column >= before[row] and row >= above[column])
    assert beyond_cuts(laid, block, above=False, before=False).all()


def test_a_block_alone_covers_what_fits_into_it():
    assert list(block_starts(64, 64)) == [0]
    assert list(block_starts(65, 64)) == [0, 53]
    assert [overlap_of(side) for side in (2, 6, 8, 48)] == [1, 1, 1, 8]


def test_a_picture_follows_from_its_seed_whoever_is_in_its_batch(tiny_backbone):
    asked = [request(TASK, seed, style=style) for seed, style in ((0, 50), (1, 50), (0, 51))]
    together = [one.image.tobytes() for one in render(tiny_backbone, asked, batch_size=3)]
    alone = [render(tiny_backbone, [one])[0].image.tobytes() for one in asked[::-1]]
    assert together == alone[::-1]
    assert len(set(together)) == 3


def test_the_task_is_the_algorithm_on_the_bytes_of_its_texture(tiny_backbone):
    texture = grains(7, (64, 96))
    asked = Request.preset(
        TASK, styles=[texture], width=90, height=70, seed=5, patch_size=20, reference_size=64
    )
    (result,) = render(tiny_backbone, [asked])
    wanted = quilt(texture, side=20, size=(70, 90), seed=5).picture
    assert np.array_equal(np.array(result.image), wanted.permute(1, 2, 0).numpy())


def test_a_texture_smaller_than_a_block_is_refused():
    with pytest.raises(RequestError, match="patch_size 65 is larger than the smallest side"):
        Request.preset(TASK, styles=[photo(0)], width=96, height=64, patch_size=65)
