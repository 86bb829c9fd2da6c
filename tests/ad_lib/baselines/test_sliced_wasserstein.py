"""The distance of two sets along directions, against sets that are written out to one size."""

from __future__ import annotations

from math import lcm

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_lib.algorithm.noise import seeded_noise
from ad_lib.baselines.sliced_wasserstein import (
    ascending,
    pairing,
    random_directions,
    transport_cost,
)

CPU = torch.device("cpu")


def cost_written_out(ours: np.ndarray, theirs: np.ndarray, power: int) -> np.ndarray:
    """Both sides with every number repeated until they have as many, sorted and compared."""
    both = lcm(ours.shape[-1], theirs.shape[-1])
    repeated = [np.repeat(one, both // one.shape[-1], -1) for one in (ours, theirs)]
    one, other = (np.sort(numbers, -1) for numbers in repeated)
    return (np.abs(one - other) ** power).mean(-1)


def cost(ours: torch.Tensor, theirs: torch.Tensor, power: int) -> torch.Tensor:
    paired = pairing(ours.shape[-1], theirs.shape[-1], CPU)
    return transport_cost(ascending(ours), ascending(theirs), paired, power=power)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    num_ours=st.integers(1, 40),
    num_theirs=st.integers(1, 40),
    power=st.sampled_from([1, 2]),
    seed=st.integers(0, 99),
)
def test_the_distance_is_exact_for_sets_of_any_sizes(num_ours, num_theirs, power, seed):
    generator = np.random.default_rng(seed)
    ours = generator.normal(size=(3, num_ours)).round(1)  # with ties
    theirs = generator.normal(1, 2, size=(3, num_theirs)).round(1)
    found = cost(torch.from_numpy(ours), torch.from_numpy(theirs), power)
    np.testing.assert_allclose(found, cost_written_out(ours, theirs, power), rtol=1e-5)


@pytest.mark.parametrize(("num_ours", "num_theirs"), [(1, 1), (5, 5), (4, 6), (7, 3), (1, 9)])
def test_the_whole_mass_of_both_sides_is_moved(num_ours, num_theirs):
    paired = pairing(num_ours, num_theirs, CPU)
    assert len(paired.share) <= num_ours + num_theirs - 1
    for ranks, count in ((paired.ours, num_ours), (paired.theirs, num_theirs)):
        moved = torch.zeros(count).index_add(0, ranks, paired.share)
        torch.testing.assert_close(moved, torch.full((count,), 1 / count))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("num_theirs", [6, 9])
def test_gradients_are_those_of_finite_differences(power, num_theirs):
    generator = torch.Generator().manual_seed(3)
    ours = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(2, num_theirs, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cost(x, theirs, power), (ours,))


def test_directions_have_unit_length_and_point_everywhere():
    drawn = random_directions(seeded_noise(1), "directions", 0, 4000, (3, 2, 2))
    torch.testing.assert_close(drawn.flatten(1).norm(dim=1), torch.ones(4000))
    assert drawn.mean(0).abs().max() < 0.02
    torch.testing.assert_close(
        drawn.square().mean(0), torch.full((3, 2, 2), 1 / 12), atol=0.01, rtol=0
    )
    other = random_directions(seeded_noise(1), "directions", 1, 4000, (3, 2, 2))
    assert not torch.equal(drawn, other)
