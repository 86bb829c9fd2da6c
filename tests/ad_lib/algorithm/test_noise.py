"""Noise follows from a seed, what it is for, and the number of the draw; and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ad_lib.algorithm.noise import NOISE, seeded_noise, stream_noise
from ad_lib.errors import RequestError
from ad_lib.presets import PRESETS
from ad_lib.requests import MAX_SEED
from tests.ad_lib.requests_of_every_task import request as made_of

SHAPE = (4, 50, 50)


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
@pytest.mark.parametrize("make", NOISE.values(), ids=NOISE)
def test_it_is_standard_normal_in_float32_on_the_cpu(make, seed):
    drawn = make(seed)("init", 0, SHAPE)
    assert (drawn.shape, drawn.dtype, drawn.device.type) == (SHAPE, torch.float32, "cpu")
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05
    assert abs(float((drawn.abs() < 1).float().mean()) - 0.683) < 0.02


def test_a_draw_does_not_depend_on_the_draws_before_it():
    noise = seeded_noise(7)
    first = noise("style", 3, SHAPE)
    for tag, number in (("style", 2), ("adain", 3), ("init", 0)):
        noise(tag, number, SHAPE)
    assert torch.equal(noise("style", 3, SHAPE), first)
    assert torch.equal(seeded_noise(7)("style", 3, SHAPE), first)


def test_seeds_tags_and_numbers_that_differ_at_all_draw_apart():
    draws = [
        seeded_noise(seed)(tag, number, (64,))
        for seed in (7, 8, 7 + 2**32, 7 + 2**63)  # generators may take the lower bits alone
        for tag in ("init", "style", "adain")
        for number in (0, 1, 11)
    ]
    likeness = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert likeness.abs().max() < 0.6


def test_draws_are_not_changed_by_whoever_gets_them():
    noise = seeded_noise(7)
    kept = noise("init", 0, SHAPE).clone()
    noise("init", 0, SHAPE).zero_()
    assert torch.equal(noise("init", 0, SHAPE), kept)


def test_a_draw_never_changes_between_versions_and_machines():
    """Recorded: whoever changes how noise is drawn changes every picture that begins with it."""
    drawn = seeded_noise(7)("style", 3, (2, 3)).flatten().tolist()
    recorded = [1.235309, -1.419293, -0.526145, 1.140654, 1.643445, -1.094616]
    assert drawn == pytest.approx(recorded, abs=1e-6)


def test_a_stream_goes_on_from_draw_to_draw_whatever_they_are_for():
    noise = stream_noise(7)
    first, second = noise("init", 0, SHAPE), noise("init", 0, SHAPE)
    assert not torch.equal(first, second)
    generator = torch.Generator().manual_seed(7)
    for drawn in (first, second):
        assert torch.equal(drawn, torch.randn(SHAPE, generator=generator))


def test_numpys_own_generator_is_left_alone():
    np.random.seed(1)  # noqa: NPY002 - the global one
    before = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    seeded_noise(7)("init", 0, SHAPE)
    assert np.random.random() == before  # noqa: NPY002


def test_tasks_that_draw_noise_draw_it_by_number_and_the_others_refuse_the_setting():
    drawing = {name for name, preset in PRESETS.items() if preset.uses("noise")}
    assert {name for name, preset in PRESETS.items() if preset.settings.noise == "by_draw"} == (
        drawing
    )
    for name, preset in PRESETS.items():
        request = made_of(name)
        if name in drawing:
            assert request.settings.noise == "by_draw"
            assert made_of(name, noise="stream").settings.noise == "stream"
        else:
            assert {"content", "layout", "external"} & set(preset.roles)
            with pytest.raises(RequestError, match=f"{name} does not use noise; got 'by_draw'"):
                made_of(name, noise="by_draw")
