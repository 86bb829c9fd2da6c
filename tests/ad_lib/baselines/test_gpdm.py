"""GPDM against its objective written out: every patch cut out, projected, sorted and compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import lcm
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ad_lib import PRESETS, Request, RequestError, Settings, render
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.baselines.gpdm import (
    generate,
    match_patch_distributions,
    num_patches,
    patch_swd,
    pyramid_scales,
)
from ad_lib.baselines.sliced_wasserstein import pairing, random_directions
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.tensors import image_to_tensor
from tests.ad_lib.requests_of_every_task import photo, request
from tests.bad_images import picture

SMALL = replace(
    PRESETS["baseline-gpdm"].settings, patch_size=3, num_projections=6, pyramid_factor=0.6
)


def pixels(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32):
    """(1, 3, height, width) in [-1, 1]."""
    drawn = np.random.default_rng(seed).uniform(-1, 1, (1, 3, height, width))
    return torch.from_numpy(drawn).to(dtype)


def directions_of(number: int, count: int = 6, side: int = 3):
    return random_directions(seeded_noise(5), "projections", number, count, (3, side, side))


def distance(image, references, directions):
    side = directions.shape[-1]
    theirs = sum(num_patches(one, side) for one in references)
    paired = pairing(num_patches(image, side), theirs, image.device)
    return patch_swd(image, references, directions, paired)


def patches_of(image: np.ndarray, side: int) -> np.ndarray:
    """(patches, numbers) every patch of a (3, h, w) picture, cut out one by one."""
    _, height, width = image.shape
    return np.stack(
        [
            image[:, top : top + side, left : left + side].ravel()
            for top in range(height - side + 1)
            for left in range(width - side + 1)
        ]
    )


def swd_written_out(image, references, directions) -> float:
    side = directions.shape[-1]
    ours = patches_of(image[0].double().numpy(), side)
    theirs = np.concatenate([patches_of(one[0].double().numpy(), side) for one in references])
    both, found = lcm(len(ours), len(theirs)), []
    for direction in directions.double().numpy().reshape(len(directions), -1):
        one, other = (
            np.sort(np.repeat(patches @ direction, both // len(patches)))
            for patches in (ours, theirs)
        )
        found.append(np.abs(one - other).mean())
    return float(np.mean(found))


@pytest.mark.parametrize(
    ("size", "references"),
    [
        ((9, 11), [(9, 11)]),
        ((8, 9), [(13, 7)]),
        ((12, 9), [(6, 6)]),
        ((8, 8), [(7, 9), (10, 5)]),
    ],
    ids=["alike", "a larger reference", "a smaller one", "two"],
)
def test_the_objective_is_the_sliced_distance_of_all_patches(size, references):
    image = pixels(*size)
    textures = [pixels(*one, seed=number + 1) for number, one in enumerate(references)]
    found = distance(image, textures, directions_of(0))
    assert float(found) == pytest.approx(swd_written_out(image, textures, directions_of(0)), 1e-5)


def test_a_picture_is_at_no_distance_from_itself_and_from_itself_mirrored_twice_over():
    image = pixels(10, 12)
    assert float(distance(image, [image], directions_of(0))) == 0
    assert float(distance(image, [image, image], directions_of(0))) < 1e-6
    assert float(distance(image, [image.flip(3)], directions_of(0))) > 1e-3


@pytest.mark.parametrize("size", [(6, 5), (7, 7)])
def test_gradients_are_those_of_finite_differences(size):
    image = pixels(6, 5, dtype=torch.float64).requires_grad_()
    reference = pixels(*size, seed=1, dtype=torch.float64)
    directions = directions_of(0).double()
    assert torch.autograd.gradcheck(lambda x: distance(x, [reference], directions), (image,))


def generated_literally(reference, size, seed: int, settings: Settings):
    """The published loop for one reference, with all patches side by side and nothing in parts."""
    noise, side = seeded_noise(seed), settings.patch_size
    shortest = min(*size, *reference.shape[2:])
    scales, step = [shortest], 0
    while scales[0] > settings.coarsest_patches * side:
        scales.insert(0, max(scales[0] * settings.pyramid_factor, settings.coarsest_patches * side))
    image = 1.5 * noise("init", 0, (1, 3, *size))
    for scale in scales:
        small = [round(float(one * scale / shortest)) for one in size]
        small_reference = [round(float(one * scale / shortest)) for one in reference.shape[2:]]
        image = F.interpolate(image, small, mode="bilinear", antialias=True).requires_grad_()
        texture = F.interpolate(reference, small_reference, mode="bilinear", antialias=True)
        adam = torch.optim.Adam([image], lr=settings.learning_rate)
        for _ in range(settings.num_optimization_steps):
            drawn = noise("projections", step, (settings.num_projections, 3, side, side)).flatten(1)
            unit = drawn / drawn.norm(dim=1, keepdim=True)
            ours, theirs = (unit @ F.unfold(one, side)[0] for one in (image, texture))
            both = lcm(ours.shape[1], theirs.shape[1])
            one, other = (
                one.repeat_interleave(both // one.shape[1], 1).sort(1).values
                for one in (ours, theirs)
            )
            adam.zero_grad()
            (one - other).abs().mean().backward()
            adam.step()
            step += 1
        image = image.detach().clamp(-1, 1)
    return image


@pytest.mark.parametrize("size", [(24, 20), (16, 30)])
def test_the_pyramid_is_descended_as_its_loops_written_out(size):
    settings = replace(SMALL, num_optimization_steps=4)
    reference = pixels(24, 20, seed=2)
    scales = pyramid_scales(min(*size, 20), settings)
    found = generate([reference], size, scales, seeded_noise(1), settings)
    expected = generated_literally(reference, size, 1, settings)
    assert found.shape == (1, 3, *size)
    assert (found - expected).abs().mean() < 1e-4


def test_projections_that_do_not_fit_into_memory_together_give_the_same_picture(monkeypatch):
    arguments = pixels(12, 12), [pixels(10, 14, seed=1)], seeded_noise(1)
    settings = replace(SMALL, num_optimization_steps=3)
    together = match_patch_distributions(*arguments, settings, first_step=0)
    monkeypatch.setattr("ad_lib.baselines.gpdm.MAX_PROJECTED", 500)
    in_parts = match_patch_distributions(*arguments, settings, first_step=0)
    torch.testing.assert_close(in_parts, together, atol=1e-5, rtol=0)


def test_scales_ascend_to_full_size_from_so_many_patches():
    scales = pyramid_scales(512, PRESETS["baseline-gpdm"].settings)
    assert scales == sorted(scales)
    assert (scales[0] * 512, scales[-1]) == (21, 1)
    assert all(one / other >= 0.85 - 1e-9 for one, other in pairwise(scales))
    assert scales[-3:-1] == [pytest.approx(0.85**2), 0.85]
    assert pyramid_scales(64, replace(SMALL, coarsest_patches=100)) == [1]


def test_the_distance_falls_at_every_scale_below_that_of_the_start_and_of_another_picture():
    settings = replace(SMALL, patch_size=5, num_projections=16, num_optimization_steps=60)
    texture, other = (
        2 * image_to_tensor(Image.fromarray(picture(seed=seed)).resize((40, 32))) - 1
        for seed in (50, 51)
    )
    scales = pyramid_scales(32, replace(settings, learning_rate=0.03))
    made = generate([texture], (32, 40), scales, seeded_noise(1), settings)
    start = 1.5 * seeded_noise(1)("init", 0, (1, 3, 32, 40))
    for factor in (1, 2):
        directions = directions_of(9, 64, 5)

        def apart(image, factor=factor, directions=directions):
            return float(
                distance(F.avg_pool2d(image, factor), [F.avg_pool2d(texture, factor)], directions)
            )

        assert apart(made) < 0.25 * min(apart(start), apart(other))


def rendered(backbone, *seeds, **changes) -> list[bytes]:
    requests = [request("baseline-gpdm", seed, **changes) for seed in seeds]
    return [result.image.tobytes() for result in render(backbone, requests)]


def test_a_picture_follows_from_its_seed_and_reference_and_not_from_its_batch(tiny_backbone):
    together = rendered(tiny_backbone, 1, 2)
    assert together == rendered(tiny_backbone, 1) + rendered(tiny_backbone, 2)
    assert together[0] != together[1]
    assert rendered(tiny_backbone, 1, style=51) != together[:1]


def test_a_rendered_picture_is_what_its_texture_gives_in_the_range_of_the_paper(tiny_backbone):
    (asked,) = requests = [request("baseline-gpdm", 3)]
    texture = 2 * image_to_tensor(fit_image(asked.styles[0], asked.width, asked.height)) - 1
    scales = pyramid_scales(64, asked.settings)
    size = (asked.height, asked.width)
    expected = (generate([texture], size, scales, seeded_noise(3), asked.settings) + 1) / 2
    (result,) = render(tiny_backbone, requests)
    assert (image_to_tensor(result.image) - expected).abs().max() < 1 / 255


def test_no_draw_is_used_twice():
    drawn: list[tuple[str, int]] = []

    def noise(tag, number, shape):
        drawn.append((tag, number))
        return seeded_noise(1)(tag, number, shape)

    settings = replace(SMALL, num_optimization_steps=2)
    generate([pixels(20, 20)], (20, 20), pyramid_scales(20, settings), noise, settings)
    assert len(drawn) == len(set(drawn)) == 1 + 2 * len(pyramid_scales(20, settings))


def test_steps_are_told_as_they_are_made_and_may_be_the_last(tiny_backbone):
    told = []
    requests = [request("baseline-gpdm", seed) for seed in (1, 2)]
    render(tiny_backbone, requests, on_step_end=lambda *one: told.append(one))
    assert len({total for _, total in told}) == 1
    assert sum(done for done, _ in told) == 2 * told[0][1]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tiny_backbone, requests, on_step_end=stop)


def test_a_patch_that_is_larger_than_a_picture_is_refused_with_the_sizes():
    with pytest.raises(RequestError, match=r"patch_size 65 is larger than .* 64 pixels: choose"):
        Request.preset("baseline-gpdm", styles=[photo(1)], width=90, height=64, patch_size=65)
    sizes: dict[str, Any] = {"width": 90, "height": 90, "reference_size": 64}
    with pytest.raises(RequestError, match="64 pixels"):
        Request.preset("baseline-gpdm", styles=[photo(1)], patch_size=65, **sizes)
