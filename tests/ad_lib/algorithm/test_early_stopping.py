"""Items that have stopped falling leave the batch, and nobody else is the wiser."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ad_lib import RequestError
from ad_lib.algorithm.dynamics import Timestep
from ad_lib.algorithm.early_stopping import has_stopped_falling
from ad_lib.algorithm.features import References
from ad_lib.algorithm.labels import Regions, attention_by_label
from ad_lib.algorithm.optimize import optimize_latents
from ad_lib.algorithm.step import Distiller
from ad_lib.settings import Settings
from ad_lib.synthesis import ordered_timesteps
from tests.ad_lib.algorithm.test_optimize import identity, latents_of, toy

PATIENCE = 4
ONE_LEVEL = [Timestep(501, torch.tensor(501))] * 40


def optimize(start, style, content=None, extract=identity, regions=None, **changes):
    settings = Settings(
        learning_rate=0.02, timesteps=501, early_stopping_patience=PATIENCE, **changes
    )
    return optimize_latents(Distiller(extract, settings, regions), ONE_LEVEL, start, style, content)


@pytest.fixture
def start():
    """One item that is the style already, one that is near it, one that is far from it."""
    style = torch.zeros(4, 4, 4)
    return torch.stack([style, style + 0.1, style + 3])


@pytest.fixture
def style():
    return References([torch.zeros(4, 4, 4)], [[0], [0], [0]])


def test_a_flat_item_ends_after_two_windows_and_a_falling_one_goes_on_to_the_end(start, style):
    latents, trace = optimize(start, style)
    assert trace.num_steps == [2 * PATIENCE, trace.num_steps[1], len(ONE_LEVEL)]
    assert 2 * PATIENCE < trace.num_steps[1] < len(ONE_LEVEL)
    assert torch.equal(latents[0], start[0])
    assert latents[2].abs().mean() < start[2].abs().mean()
    lengths = [len(of_style) for of_style, _ in trace.of_items()]
    assert lengths == trace.num_steps


def halves(rows):
    """Items whose left and right halves (or upper and lower ones) see their own kind only."""
    left = torch.tensor([0, 0, 1, 1]).expand(4, 4)
    maps = [[left, left.T, left][row] for row in rows]
    size = (4, 4)
    return Regions(maps, maps, source_size=size, target_size=size, token_grids=lambda size: [size])


@pytest.mark.parametrize("num_optimization_steps", [1, 3])
@pytest.mark.parametrize("regions_of", [lambda rows: None, halves])
def test_an_item_of_a_batch_ends_where_it_ends_alone(start, regions_of, num_optimization_steps):
    styles = [torch.zeros(4, 4, 4), torch.zeros(4, 4, 4), latents_of(seed=1)[0]]
    contents = list(latents_of(3, seed=2))
    contents[1] = start[1]
    changes = {"content_weight": 0.25, "num_optimization_steps": num_optimization_steps}
    both = [References(of, [[0], [1], [2]]) for of in (styles, contents)]
    together, trace = optimize(start, *both, extract=toy, regions=regions_of(range(3)), **changes)
    assert len(set(trace.num_steps)) > 1
    for row in range(3):
        own = [References([of[row]], [[0]]) for of in (styles, contents)]
        alone, own_trace = optimize(
            start[row, None], *own, extract=toy, regions=regions_of([row]), **changes
        )
        assert own_trace.num_steps == trace.num_steps[row : row + 1]
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
        for mine, theirs in zip(trace.of_items()[row], own_trace.of_items()[0], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


def test_the_network_sees_only_those_that_still_fall(start, style):
    sizes = []

    def watch(latents, timestep, **options):
        if latents.requires_grad:
            sizes.append(len(latents))
        return identity(latents, timestep)

    _, trace = optimize(start, style, extract=watch)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == sum(trace.num_steps)


def test_a_batch_that_is_empty_asks_nothing_more_of_the_network(style):
    asked = []

    def watch(latents, timestep, **options):
        asked.append(1)
        return identity(latents, timestep)

    steps = []
    distiller = Distiller(watch, Settings(timesteps=501, early_stopping_patience=PATIENCE))
    flat = torch.zeros(3, 4, 4, 4)
    optimize_latents(distiller, ONE_LEVEL, flat, style, on_step_end=steps.append)
    assert len(asked) == 2 * 2 * PATIENCE  # the style and the latents
    assert steps == list(range(len(ONE_LEVEL)))


@given(
    first=st.floats(0.1, 10),
    falls=st.lists(st.floats(0.02, 0.5), min_size=20, max_size=40),
    patience=st.integers(2, 8),
    share=st.floats(0, 0.9),
)
def test_what_still_falls_is_never_stopped(first, falls, patience, share):
    losses = [first]
    for fall in falls:
        losses.append(losses[-1] * (1 - fall))
    slowest = 1 - (1 - min(falls)) ** patience  # the least fall from a window to the next
    threshold = share * slowest
    for seen in range(len(losses) + 1):
        assert not has_stopped_falling(losses[:seen], patience, threshold)


@given(level=st.floats(0.1, 10), patience=st.integers(2, 8), threshold=st.floats(0, 0.5))
def test_what_does_not_fall_is_stopped_as_soon_as_two_windows_are_seen(level, patience, threshold):
    losses = [level] * (2 * patience)
    assert has_stopped_falling(losses, patience, threshold)
    assert not has_stopped_falling(losses[1:], patience, threshold)


def test_regions_of_some_items_are_those_items_regions():
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randint(0, 2, (4, 4), generator=generator) for _ in range(6)]
    regions = Regions(
        maps[:3],
        maps[3:],
        source_size=(4, 4),
        target_size=(4, 4),
        token_grids=lambda size: [size],
    )
    query, key, value = torch.randn(3, 3, 2, 16, 8, generator=generator)
    whole = attention_by_label(query, key, value, regions)
    some = [2, 0]
    chosen = attention_by_label(query[some], key[some], value[some], regions.of_items(some))
    assert torch.equal(chosen, whole[some])


@pytest.mark.parametrize("count", [8, 30, 48, 200])
def test_every_eight_spread_timesteps_see_every_quarter_of_the_range(tiny_backbone, count):
    settings = Settings(num_inference_steps=count, timesteps="spread")
    numbers = [t.number for t in ordered_timesteps(tiny_backbone, settings)]
    descending = sorted(numbers, reverse=True)
    assert sorted(set(numbers), reverse=True) == descending
    quarters = [4 * descending.index(number) // count for number in numbers]
    for start in range(count - 7):
        assert set(quarters[start : start + 8]) == {0, 1, 2, 3}


@pytest.mark.parametrize("order", ["descending", "ascending", "random"])
def test_losses_of_unlike_levels_are_not_compared(order):
    with pytest.raises(RequestError, match="timesteps: spread"):
        Settings(timesteps=order, early_stopping_patience=8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_stopping_patience", 1),
        ("early_stopping_patience", 2.5),
        ("early_stopping_threshold", 1.0),
        ("early_stopping_threshold", -0.1),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_with_its_value(name, value):
    with pytest.raises(RequestError, match=f"{name}.*{value}"):
        Settings(**{"timesteps": "spread", name: value})
