"""The sliced Wasserstein loss against the loss written out, and what descending it does."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from math import lcm

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from ad_lib import PRESETS, render
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.baselines.sliced_wasserstein import random_directions
from ad_lib.baselines.swd import (
    encoder_features,
    reference_layers,
    sliced,
    sliced_wasserstein_loss,
    synthesize,
)
from ad_lib.pictures.tensors import image_to_tensor
from tests.ad_lib.requests_of_every_task import photo, request

SMALL = replace(PRESETS["baseline-swd"].settings, num_optimization_steps=6, num_draws=3)


def texture(seed: int, width: int = 64, height: int = 64) -> torch.Tensor:
    return image_to_tensor(photo(seed).resize((width, height)))


def noise_picture(seed: int, width: int = 12, height: int = 12) -> torch.Tensor:
    drawn = np.random.default_rng(seed).uniform(0, 1, (1, 3, height, width))
    return torch.from_numpy(drawn).float()


def two_layers(image: torch.Tensor) -> list[torch.Tensor]:
    """Features of two resolutions: the colours, and the mean colours of 2x2 pixels, doubled."""
    return [image[0].flatten(1), 20 * nn.functional.avg_pool2d(image, 2)[0].flatten(1)]


def loss_of(extract_features, image, references, seed: int = 0) -> torch.Tensor:
    features = extract_features(image)
    slices = [
        sliced(layer, directions, ours.shape[1])
        for layer, ours, directions in zip(
            reference_layers(extract_features, references),
            features,
            directions_of([len(one) for one in features], seed),
            strict=True,
        )
    ]
    return sliced_wasserstein_loss(features, slices)


def directions_of(channels: list[int], seed: int = 0) -> list[torch.Tensor]:
    noise = seeded_noise(seed)
    return [
        random_directions(noise, "d", number, count, (count,))
        for number, count in enumerate(channels)
    ]


@pytest.mark.parametrize(
    "references", [[(12, 12)], [(16, 8)], [(6, 8), (10, 10)]], ids=["alike", "other", "two"]
)
def test_the_loss_is_that_of_sorted_projections_summed_over_layers(references):
    image = noise_picture(0)
    textures = [noise_picture(number + 1, *size) for number, size in enumerate(references)]
    expected = 0.0
    for number, directions in enumerate(directions_of([3, 3])):
        ours = two_layers(image)[number].double().numpy()
        theirs = np.concatenate([two_layers(one)[number].numpy() for one in textures], 1)
        scale = 1 / np.sqrt((theirs.astype(np.float64) ** 2).mean())
        both = lcm(ours.shape[1], theirs.shape[1])
        along = [
            np.sort(np.repeat(directions.double().numpy() @ (scale * one), both // one.shape[1], 1))
            for one in (ours, theirs)
        ]
        expected += ((along[0] - along[1]) ** 2).mean()
    assert float(loss_of(two_layers, image, textures)) == pytest.approx(expected, rel=1e-4)


def test_a_picture_has_no_loss_against_itself_and_against_itself_shuffled_by_pixels():
    image = noise_picture(0)
    assert float(loss_of(two_layers, image, [image])) == 0
    shuffled = image.flatten(2)[
        ..., torch.randperm(144, generator=torch.Generator().manual_seed(1))
    ]

    def colours(one):
        return two_layers(one)[:1]

    assert float(loss_of(colours, shuffled.view_as(image), [image])) < 1e-10
    assert float(loss_of(colours, noise_picture(1), [image])) > 1e-4


def test_the_features_are_those_of_the_encoders_convolution_and_blocks_at_every_resolution(
    tiny_backbone,
):
    encoder = tiny_backbone.vae.encoder
    seen: list[torch.Tensor] = []
    blocks = [one for one in encoder.down_blocks.modules() if isinstance(one, ResnetBlock2D)]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for module in (encoder.conv_in, *blocks)
    ]
    image = texture(50, 72, 66)
    try:
        encoder(2 * image - 1)
    finally:
        for hook in hooks:
            hook.remove()
    found = encoder_features(tiny_backbone.vae)(image)
    assert len(found) == len(seen) == 1 + len(blocks)
    assert len({one.shape[1] for one in found}) == len(encoder.down_blocks)
    for ours, theirs in zip(found, seen, strict=True):
        torch.testing.assert_close(ours, theirs[0].flatten(1))


def test_gradients_at_the_pixels_are_those_of_finite_differences(tiny_backbone):
    vae = deepcopy(tiny_backbone.vae)
    image = texture(50).clone().requires_grad_()
    extract = encoder_features(vae)
    loss_of(extract, image, [texture(51, 64, 96)]).backward()
    assert image.grad is not None
    along = image.grad / image.grad.norm()
    expected = float((along * image.grad).sum())
    with torch.no_grad():
        ahead, behind = (
            float(loss_of(extract, image + step * along, [texture(51, 64, 96)]))
            for step in (0.05, -0.05)
        )
    assert (ahead - behind) / 0.1 == pytest.approx(expected, rel=0.02)


def test_networks_of_lower_precision_are_left_as_they_are_and_read_in_float32(tiny_backbone):
    halved = deepcopy(tiny_backbone.vae).bfloat16()
    found = encoder_features(halved)(texture(50))
    assert {one.dtype for one in found} == {torch.float32}
    assert {one.dtype for one in halved.parameters()} == {torch.bfloat16}


def test_the_loss_falls_below_that_of_the_start_and_of_another_picture(tiny_backbone):
    extract, reference = encoder_features(tiny_backbone.vae), texture(50)
    told: list[int] = []
    made = synthesize(
        extract, [reference], (64, 72), seeded_noise(1), SMALL, on_step_end=told.append
    )
    start = reference.mean((2, 3), keepdim=True) + 0.01 * seeded_noise(1)("init", 0, (1, 3, 64, 72))
    assert made.shape == (1, 3, 64, 72)
    assert 0 <= made.min() <= made.max() <= 1
    assert sum(told) == SMALL.num_draws * SMALL.num_optimization_steps
    assert all(count > 0 for count in told)
    with torch.no_grad():
        of_made, of_start, of_other = (
            float(loss_of(extract, one, [reference], seed=9)) for one in (made, start, texture(51))
        )
    assert of_made < 0.5 * min(of_start, of_other)


def test_no_draw_is_used_twice():
    drawn: list[tuple[str, int]] = []

    def noise(tag, number, shape):
        drawn.append((tag, number))
        return seeded_noise(1)(tag, number, shape)

    synthesize(two_layers, [noise_picture(1)], (12, 12), noise, SMALL)
    assert len(drawn) == len(set(drawn)) == 1 + 2 * SMALL.num_draws


def test_evaluations_that_are_saved_count_as_made():
    told: list[int] = []

    def nothing(image):
        return [0 * image[0].flatten(1)]

    synthesize(
        nothing, [noise_picture(1)], (12, 12), seeded_noise(1), SMALL, on_step_end=told.append
    )
    assert told == [1, SMALL.num_optimization_steps - 1] * SMALL.num_draws


def rendered(backbone, *seeds, **changes) -> list[bytes]:
    requests = [request("baseline-swd", seed, **changes) for seed in seeds]
    return [result.image.tobytes() for result in render(backbone, requests)]


def test_a_picture_follows_from_its_seed_and_reference_and_not_from_its_batch(tiny_backbone):
    together = rendered(tiny_backbone, 1, 2)
    assert together == rendered(tiny_backbone, 1) + rendered(tiny_backbone, 2)
    assert together[0] != together[1]
    assert rendered(tiny_backbone, 1, style=51) != together[:1]


def test_steps_are_told_as_they_are_made_and_may_be_the_last(tiny_backbone):
    told = []
    requests = [request("baseline-swd", seed) for seed in (1, 2)]
    render(tiny_backbone, requests, on_step_end=lambda *one: told.append(one))
    assert len({total for _, total in told}) == 1
    assert sum(done for done, _ in told) == 2 * told[0][1]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(tiny_backbone, requests, on_step_end=stop)
