"""MultiDiffusion: views cover every cell, and their mean is what Algorithm 2 gives in each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ad_lib import render
from ad_lib.algorithm.features import References
from ad_lib.algorithm.guide import sample_with_distillation
from ad_lib.algorithm.multidiffusion import Views, expand_with_distillation
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.algorithm.step import Distiller
from ad_lib.embedded.networks import build_scheduler
from ad_lib.pictures.measure import measure
from ad_lib.settings import Settings
from tests.ad_lib.algorithm.test_guide import ddim, predict_noise
from tests.ad_lib.algorithm.test_optimize import latents_of, shared, toy
from tests.ad_lib.requests_of_every_task import request

SETTINGS = Settings(num_optimization_steps=2, noise="by_draw")
PLAIN = Settings(num_optimization_steps=0)


@pytest.fixture
def scheduler():
    scheduler = build_scheduler()
    scheduler.set_timesteps(3)
    return scheduler


def expand(dynamics, latents, views, settings=SETTINGS, style=None, predict_noise=predict_noise):
    return expand_with_distillation(
        predict_noise,
        Distiller(toy, settings),
        dynamics,
        latents,
        style or shared(latents_of(seed=1)),
        seeded_noise(5),
        views=views,
    )


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.integers(8, 24),
    stride=st.integers(1, 24),
    shift=st.booleans(),
    wrap=st.tuples(st.booleans(), st.booleans()),
    step=st.integers(0, 60),
)
def test_every_cell_is_covered_and_no_view_leaves_the_picture(
    height, width, size, stride, shift, wrap, step
):
    views = Views(size=size, stride=min(stride, size), shift=shift, wrap=wrap)
    count = torch.zeros(height, width)
    rows, columns = views.shape(height, width)
    assert (rows, columns) == (min(size, height), min(size, width))
    for top, left in views.at(height, width, step):
        assert top >= 0
        assert left >= 0
        assert wrap[0] or top + rows <= height
        assert wrap[1] or left + columns <= width
        down, across = torch.arange(rows) + top, torch.arange(columns) + left
        count[(down % height)[:, None], across % width] += 1
    assert (count >= 1).all()


def test_the_views_of_a_step_are_cut_into_batches_and_all_steps_counted():
    views = Views(size=16, stride=8, shift=True, batch_size=4)
    for step in range(3):
        batches = views.batches(24, 28, step)
        assert [view for batch in batches for view in batch] == views.at(24, 28, step)
        assert all(len(batch) == 4 for batch in batches[:-1])
    counts = [len(views.at(24, 28, step)) for step in range(3)]
    assert views.count(24, 28, num_steps=3) == sum(counts)


def test_the_published_grid_starts_every_stride_and_ends_at_the_edge():
    views = Views(size=16, stride=8).at(24, 28)
    assert views == [
        (0, 0), (0, 8), (0, 12), (8, 0), (8, 8), (8, 12),
    ]  # fmt: skip


def test_a_shifted_grid_moves_from_step_to_step_and_the_published_one_does_not():
    starts = {
        shift: {tuple(top for top, _ in Views(size=16, stride=8, shift=shift).at(64, 16, step))
                for step in range(8)}
        for shift in (True, False)
    }  # fmt: skip
    assert len(starts[False]) == 1
    assert len(starts[True]) >= 4


def test_one_view_of_the_whole_picture_is_algorithm_2(scheduler):
    start = latents_of(seed=3)
    style = shared(latents_of(seed=1))
    expanded, trace = expand(ddim(scheduler), start, Views(size=4), style=style)
    sampled, own = sample_with_distillation(
        predict_noise, Distiller(toy, SETTINGS), ddim(scheduler), start, style, [seeded_noise(5)]
    )
    torch.testing.assert_close(expanded, sampled)
    torch.testing.assert_close(trace.style, own.style)


def test_without_optimisation_overlapping_views_of_a_local_network_are_plain_ddim(scheduler):
    def local(latents, t):
        return 0.9 * latents + t / 5000

    expected = start = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        expected = scheduler.step(local(expected, t), t, expected).prev_sample
    views = Views(size=4, stride=3, shift=True, wrap=(True, False))
    latents, trace = expand(ddim(scheduler), start, views, PLAIN, predict_noise=local)
    torch.testing.assert_close(latents, expected)
    assert trace.style.shape == (0, 1)


def test_where_views_overlap_the_result_is_their_mean(scheduler):
    def by_view(latents, t):
        """Each view of a batch gets a noise of its own."""
        place = torch.arange(1.0, len(latents) + 1).view(-1, 1, 1, 1)
        return place.expand_as(latents)

    start = torch.zeros(1, 4, 4, 6)
    dynamics = ddim(scheduler)
    dynamics.timesteps = dynamics.timesteps[-1:]
    latents, _ = expand(dynamics, start, Views(size=4, stride=2), PLAIN, predict_noise=by_view)
    left, middle, right = latents[0, 0, 0, 0], latents[0, 0, 0, 2], latents[0, 0, 0, 5]
    torch.testing.assert_close(middle, (left + right) / 2)
    assert left != right


def watched_expansion(scheduler, settings, views):
    """The tags of all draws, and how often the network saw the style alone, one by one."""
    draws, seen, done, draw = [], [], [], seeded_noise(5)

    def counted(tag, number, shape):
        draws.append((tag, number))
        return draw(tag, number, shape)

    def watch(latents, timestep, **options):
        seen.append(options.get("projections_only", False))
        return toy(latents, timestep)

    latents, _ = expand_with_distillation(
        predict_noise,
        Distiller(watch, settings),
        ddim(scheduler),
        torch.randn(1, 4, 4, 10, generator=torch.Generator().manual_seed(0)),
        References(latents_of(seed=1), [[0]]),
        counted,
        views=views,
        on_views_end=done.append,
    )
    return latents, draws, sum(seen), done


def test_all_views_of_a_step_see_the_style_under_one_noise_looked_at_once(scheduler):
    views = Views(size=4, stride=2, batch_size=3)
    latents, draws, looks, done = watched_expansion(scheduler, SETTINGS, views)
    assert draws == [("style", step) for step in range(3)]
    assert looks == 3
    assert done == [3, 1] * 3  # four views are two batches, at each of three timesteps
    whole, *_ = watched_expansion(scheduler, SETTINGS, replace(views, batch_size=1))
    torch.testing.assert_close(latents, whole)


def test_of_a_stream_of_noise_each_batch_of_views_has_its_own_draw_as_released(scheduler):
    stream = replace(SETTINGS, noise="stream", adain=True)
    _, draws, looks, _ = watched_expansion(scheduler, stream, Views(size=4, stride=2, batch_size=3))
    assert [tag for tag, _ in draws] == ["style", "adain"] * 2 * 3
    assert looks == 2 * 3


@pytest.mark.parametrize("size", [(64, 64), (200, 73), (72, 240)])
def test_an_expanded_texture_has_its_size(tiny_backbone, size):
    (result,) = render(tiny_backbone, [request("texture-expand", width=size[0], height=size[1])])
    assert result.image.size == size


@pytest.mark.parametrize("axes", ["x", "y", "both"])
def test_an_expanded_texture_is_seamless_along_the_axes_asked_for(tiny_backbone, axes):
    asked = request("texture-expand", width=128, height=128, seamless=axes)
    (result,) = render(tiny_backbone, [asked])
    figures = measure(result.image, styles=list(asked.styles))
    for axis in ("x", "y"):
        if axes in (axis, "both"):
            assert figures[f"seam_ratio_{axis}"] <= 1.1
