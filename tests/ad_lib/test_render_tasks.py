"""Every task, rendered: exact sizes, seamless borders, colours, tuned decoders, tiles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_lib import PRESETS, finish, render
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.inputs import BatchInputs
from ad_lib.pictures.colour import rgb_to_lab
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import measure
from ad_lib.pictures.tensors import image_to_tensor
from ad_lib.synthesis import ordered_timesteps
from tests.ad_lib.requests_of_every_task import OWN_TASKS, photo, request

TASKS = sorted(PRESETS)


def rendered(backbone, *arguments, **changes):
    (result,) = render(backbone, [request(*arguments, **changes)])
    return result


@settings(max_examples=12, deadline=None, derandomize=True)
@given(task=st.sampled_from(TASKS), width=st.integers(64, 150), height=st.integers(64, 150))
def test_every_task_gives_exactly_the_size_that_was_asked_for(tiny_backbone, task, width, height):
    result = rendered(tiny_backbone, task, width=width, height=height)
    assert result.image.size == (width, height)
    assert bool(result.style_losses) == (task in OWN_TASKS)


@pytest.mark.parametrize("task", [task for task in TASKS if task != "external"])
def test_the_style_changes_the_picture(tiny_backbone, task):
    one, other = (rendered(tiny_backbone, task, style=style) for style in (50, 51))
    assert one.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("task", [task for task in TASKS if "t2i" in task])
def test_the_prompt_changes_the_picture(tiny_backbone, task):
    one, other = (rendered(tiny_backbone, task, prompt=prompt) for prompt in ("a fox", "a house"))
    assert one.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("task", ["texture-optimize", "texture-sample", "texture-expand"])
@pytest.mark.parametrize("axes", ["x", "y", "both"])
def test_a_texture_is_seamless_along_the_axes_asked_for(tiny_backbone, task, axes):
    size = {"width": 96, "height": 128}
    result = rendered(tiny_backbone, task, seamless=axes, **size)
    figures = measure(result.image, styles=[photo(50)])
    for axis in ("x", "y"):
        if axes in (axis, "both"):
            assert figures[f"seam_ratio_{axis}"] <= 1.1


@pytest.mark.parametrize(
    ("task", "view_size"),
    [
        ("texture-optimize", 0),
        ("texture-sample", 0),
        ("texture-expand", 8),
        ("texture-expand", 16),  # a view is as long as the picture
    ],
)
@pytest.mark.parametrize(("axes", "shift"), [("x", (0, 8)), ("y", (8, 0)), ("both", (8, 8))])
def test_a_seamless_texture_does_not_depend_on_where_its_noise_was_cut(
    tiny_backbone, task, axes, shift, view_size
):
    """It lies on a torus: shifted noise is the same texture, which is cut at the same place."""

    def shifted(seed):
        draw = seeded_noise(seed)
        return lambda tag, number, shape: (
            draw(tag, number, shape).roll(shift, (1, 2))
            if tag == "init"
            else draw(tag, number, shape)
        )

    views = {"view_size": view_size, "view_stride": 4, "view_shift": False, "view_batch_size": 99}
    size = {"width": 128, "height": 128, "seamless": axes, "num_inference_steps": 1}
    asked = request(task, **size, **(views if view_size else {}))
    pictures = [
        np.asarray(render(tiny_backbone, [asked], noise=noise)[0].image, float)
        for noise in (seeded_noise, shifted)
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() < 1


def test_the_backbone_is_afterwards_as_it_was(tiny_backbone):
    before = rendered(tiny_backbone, "texture-optimize").image.tobytes()
    state = {name: one.clone() for name, one in tiny_backbone.vae.state_dict().items()}
    rendered(tiny_backbone, "texture-sample", seamless="both", decoder_epochs=2)
    rendered(tiny_backbone, "texture-expand", seamless="x")
    assert rendered(tiny_backbone, "texture-optimize").image.tobytes() == before
    for name, one in tiny_backbone.vae.state_dict().items():
        assert torch.equal(one, state[name]), name


def test_kept_colours_are_the_contents_pixel_by_pixel(tiny_backbone):
    result = rendered(tiny_backbone, "style-transfer", seed=3, colors="content")
    free = rendered(tiny_backbone, "style-transfer", seed=3)
    content = fit_image(request("style-transfer", seed=3).content, 72, 64)
    kept, came, wanted = (
        rgb_to_lab(image_to_tensor(one)) for one in (result.image, free.image, content)
    )
    off = [(one[:, 1:] - wanted[:, 1:]).norm(dim=1).median() for one in (kept, came)]
    assert off[0] < 0.2 * off[1]
    assert (kept[:, 0] - came[:, 0]).abs().median() < 1.5


def test_channel_statistics_are_pulled_back_to_the_example(tiny_backbone):
    result = rendered(tiny_backbone, "texture-optimize", colors="style")
    free = rendered(tiny_backbone, "texture-optimize")
    example = np.asarray(photo(50).resize((72, 54)), float)

    def off(image):
        pixels = np.asarray(image, float)
        means = np.abs(pixels.mean((0, 1)) - example.mean((0, 1))).max()
        return max(means, np.abs(pixels.std((0, 1)) - example.std((0, 1))).max())

    assert off(result.image) < 10 < off(free.image)


def test_a_tuned_decoder_brings_the_picture_nearer_to_its_example(tiny_backbone):
    """Without an optimisation step the latents are the content's, here the example itself."""
    example = request("style-transfer").styles[0]
    asked = {"content": example, "num_optimization_steps": 0}
    plain, tuned = (
        rendered(tiny_backbone, "style-transfer", **asked, decoder_epochs=epochs)
        for epochs in (0, 30)
    )
    wanted = np.asarray(example.resize((96, 72)).crop((12, 4, 84, 68)), float)
    errors = [np.abs(np.asarray(one.image, float) - wanted).mean() for one in (plain, tuned)]
    assert errors[1] < 0.9 * errors[0]


def test_a_batch_tunes_its_decoder_once_for_each_example(tiny_backbone, monkeypatch):
    from ad_lib.model import decoder_cache

    tuned = []
    finetune = decoder_cache.finetune_decoder
    monkeypatch.setattr(
        decoder_cache, "finetune_decoder", lambda *a, **k: tuned.append(1) or finetune(*a, **k)
    )
    requests = [
        request("texture-sample", seed, style=60 + seed % 2, decoder_epochs=1) for seed in range(4)
    ]
    render(tiny_backbone, requests)
    render(tiny_backbone, requests)
    assert len(tuned) == 2


def test_a_large_picture_is_decoded_in_tiles_and_looks_the_same(tiny_backbone, monkeypatch):
    size = {"width": 200, "height": 160, "num_inference_steps": 1}
    whole = rendered(tiny_backbone, "texture-expand", **size)
    monkeypatch.setattr(finish, "WHOLE_UP_TO", 16)
    tiles = rendered(tiny_backbone, "texture-expand", **size)
    assert tiles.image.size == (200, 160)
    assert np.abs(np.asarray(whole.image, float) - np.asarray(tiles.image, float)).mean() < 12


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("descending", [751, 501, 251, 1]),
        ("ascending", [1, 251, 501, 751]),
        (300, [300, 300, 300, 300]),
    ],
)
def test_timesteps_come_in_the_order_that_was_asked_for(tiny_backbone, order, expected):
    asked = request("texture-optimize", num_inference_steps=4, timesteps=order)
    ordered = ordered_timesteps(tiny_backbone, asked.settings, (64, 64))
    assert [(t.number, int(t.tensor)) for t in ordered] == [(t, t) for t in expected]


def test_a_random_order_of_timesteps_is_the_same_for_everybody(tiny_backbone):
    asked = request("texture-optimize", num_inference_steps=30, timesteps="random").settings
    first, again = (
        [t.number for t in ordered_timesteps(tiny_backbone, asked, (64, 64))] for _ in range(2)
    )
    assert first == again
    assert first != sorted(first, reverse=True)
    assert sorted(first) == sorted(tiny_backbone.timesteps(30).tolist())


@pytest.mark.parametrize(
    ("task", "settings"), [("style-transfer", {}), ("style-t2i-sd15", {"variant": "paper"})]
)
def test_a_style_of_weight_zero_leaves_the_other_alone(tiny_backbone, task, settings):
    asked = request(task, num_inference_steps=1, **settings)

    def first_loss(*styles, weights=None):
        chosen = replace(asked.settings, style_weights=weights)
        changed = replace(asked, styles=tuple(map(photo, styles)), settings=chosen)
        return render(tiny_backbone, [changed])[0].style_losses[0]

    alone = first_loss(50)
    assert first_loss(50, 51, weights=(1.0, 0.0)) == pytest.approx(alone, rel=1e-4)
    assert first_loss(50, 51) != pytest.approx(alone, rel=1e-3)


def test_sampling_may_start_from_the_style(tiny_backbone):
    """At the last training timestep hardly anything of it is left, so a short run shows it."""
    noise, style = (
        BatchInputs(tiny_backbone, [asked], [seeded_noise(0)]).initial_latents
        for asked in (request("style-t2i-sd15", init=init) for init in ("noise", "style"))
    )
    alpha = tiny_backbone.scheduler.alphas_cumprod[999]
    left = style - (1 - alpha).sqrt() * noise
    clean = BatchInputs(tiny_backbone, [request("style-t2i-sd15")], [seeded_noise(0)]).style
    torch.testing.assert_close(left / alpha.sqrt(), clean.one_per_item(), atol=1e-4, rtol=1e-4)


def test_settings_reach_the_loss(tiny_backbone):
    losses = {
        scale: rendered(tiny_backbone, "texture-optimize", attn_scale=scale).style_losses[0]
        for scale in (1.0, 3.0)
    }
    assert losses[1.0] != losses[3.0]
