"""Many requests at once: what an item becomes does not depend on its batch-mates."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from ad_lib import EncodedPictures, NumericsError, Request, RequestError, Result, render
from ad_lib.algorithm.noise import stream_noise
from ad_lib.batch import plan_batches
from tests.bad_images import picture
from tests.rounding import assert_equal_but_for_a_few_signs

IMAGE_TOLERANCE = 1
"""Mean difference in grey levels between the same item in two batches; another style gives 10."""


def image(seed: int, width=64, height=64) -> Image.Image:
    return Image.fromarray(picture(seed)).resize((width, height))


def transfer(content=0, style=10, **changes) -> Request:
    settings = {"width": 64, "height": 64, "num_inference_steps": 2} | changes
    return Request.preset(
        "style-transfer", content=image(content), styles=[image(style)], **settings
    )


def texture(style=10, **changes) -> Request:
    settings = {"width": 64, "height": 64, "num_inference_steps": 2} | changes
    return Request.preset("texture-optimize", styles=[image(style)], **settings)


def pixels(result: Result) -> np.ndarray:
    return np.asarray(result.image).astype(int)


@pytest.fixture
def spy(tiny_backbone, monkeypatch):
    """Counts what the backbone encodes and keeps the latents that it decodes."""
    encoded, decoded = [], []
    encode, decode = tiny_backbone.encode, tiny_backbone.decode

    def watched_encode(images):
        encoded.append(images)
        return encode(images)

    def watched_decode(latents):
        decoded.extend(latents)
        return decode(latents)

    monkeypatch.setattr(tiny_backbone, "encode", watched_encode)
    monkeypatch.setattr(tiny_backbone, "decode", watched_decode)
    tiny_backbone.encoded, tiny_backbone.decoded = encoded, decoded
    yield tiny_backbone
    del tiny_backbone.encoded, tiny_backbone.decoded


# ---------------------------------------------------------------------------- one item


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("make", [transfer, texture])
def test_an_items_first_step_is_the_same_alone_in_a_batch_and_in_another_order(spy, make, order):
    requests = [make(style=10 + n, seed=n, num_inference_steps=1) for n in order]
    render(spy, requests)
    (batch,) = plan_batches(requests, lambda one: 4)
    together = dict(zip(batch, spy.decoded, strict=True))
    for position, request in enumerate(requests):
        render(spy, [request])
        assert_equal_but_for_a_few_signs(
            spy.decoded[-1], together[position], learning_rate=request.settings.learning_rate
        )


@pytest.mark.parametrize("make", [transfer, texture])
def test_an_items_picture_is_the_same_alone_and_in_a_batch(tiny_backbone, make):
    requests = [make(style=10 + n, seed=n, num_inference_steps=4) for n in range(3)]
    for request, result in zip(requests, render(tiny_backbone, requests), strict=True):
        (alone,) = render(tiny_backbone, [request])
        assert np.abs(pixels(result) - pixels(alone)).mean() <= IMAGE_TOLERANCE


def test_the_same_batch_twice_is_the_same_to_the_bit(tiny_backbone):
    requests = [transfer(), transfer(content=1), texture(seed=3)]
    first, second = render(tiny_backbone, requests), render(tiny_backbone, requests)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(two))
        assert one.style_losses == two.style_losses
        assert one.content_losses == two.content_losses


@pytest.mark.parametrize("content_weight", [0.0, 0.25])
def test_seeds_do_not_matter_where_a_content_is_the_start(tiny_backbone, content_weight):
    one, two = (
        render(tiny_backbone, [transfer(seed=seed, content_weight=content_weight)])[0]
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(pixels(one), pixels(two))


def test_seeds_matter_where_noise_is_the_start(tiny_backbone):
    one, two = render(tiny_backbone, [texture(seed=1), texture(seed=2)])
    assert np.abs(pixels(one) - pixels(two)).mean() > 1


def test_noise_comes_from_the_items_seed_and_no_other_generator(tiny_backbone):
    torch.manual_seed(1)
    (one,) = render(tiny_backbone, [texture(seed=5)])
    torch.manual_seed(2)
    state = torch.get_rng_state()
    (two,) = render(tiny_backbone, [texture(seed=5)])
    np.testing.assert_array_equal(pixels(one), pixels(two))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_setting_says_how_noise_is_drawn_unless_it_is_injected(tiny_backbone):
    earlier, now, recorded = (
        render(tiny_backbone, [texture(num_inference_steps=1, **changes)], noise=noise)[0]
        for changes, noise in (({"noise": "stream"}, None), ({}, None), ({}, stream_noise))
    )
    np.testing.assert_array_equal(pixels(earlier), pixels(recorded))
    assert not np.array_equal(pixels(earlier), pixels(now))


def test_noise_can_be_injected(spy):
    start = torch.full((4, 8, 8), 0.5)
    render(
        spy,
        [texture(num_optimization_steps=0)],
        noise=lambda seed: lambda tag, number, shape: start,
    )
    assert torch.equal(spy.decoded[0], start)


# ---------------------------------------------------------------------------- order


def test_results_come_in_the_order_of_the_requests(tiny_backbone):
    requests = [
        texture(seed=1, width=72),
        transfer(seed=2),
        texture(seed=3, style=11),
        transfer(seed=4, height=80),
        texture(seed=5, width=72),
        transfer(seed=6, num_inference_steps=1),
    ]
    results = render(tiny_backbone, requests, batch_size=2)
    for request, result in zip(requests, results, strict=True):
        assert result.seed == request.seed
        assert result.image.size == (request.width, request.height)
        assert len(result.style_losses) == request.settings.num_inference_steps
        assert any(result.content_losses[1:]) == (
            request.content is not None and len(result.content_losses) > 1
        )
        assert result.seconds > 0
        assert not result.degraded


def test_no_requests_give_no_results(tiny_backbone):
    assert render(tiny_backbone, []) == []


def test_a_batch_holds_what_can_run_together_and_no_more_than_was_allowed():
    requests = [transfer(), texture(), transfer(width=72), transfer(attn_scale=2.0)] * 3
    requests.append(
        Request.preset(
            "style-transfer", content=image(0), styles=[image(1)] * 2, width=64, height=64
        )
    )
    batches = plan_batches(requests, lambda one: 2)
    assert sorted(position for batch in batches for position in batch) == list(range(13))
    assert max(map(len, batches)) == 2
    for batch in batches:
        kinds = {
            (r.task, r.width, r.height, r.settings, len(r.styles))
            for r in (requests[n] for n in batch)
        }
        assert len(kinds) == 1


def test_items_with_the_same_style_stand_side_by_side():
    requests = [transfer(content=n, style=10 + n % 2) for n in range(8)]
    for batch in plan_batches(requests, lambda one: 4):
        assert len({position % 2 for position in batch}) == 1


def test_every_timestep_of_a_batch_is_reported(tiny_backbone):
    steps = []
    render(
        tiny_backbone,
        [texture(seed=n) for n in range(3)],
        batch_size=2,
        on_step_end=lambda *told: steps.append(told),
    )
    assert steps == [(2, 2), (2, 2), (1, 2), (1, 2)]


# ---------------------------------------------------------------------------- references


def test_each_distinct_picture_is_encoded_once(spy):
    """By its pixels, not by the object that holds them."""
    requests = [transfer(content=n % 2, style=10, seed=n) for n in range(4)]
    render(spy, requests)
    assert len(spy.encoded) == 3
    assert Counter(images.shape[0] for images in spy.encoded) == {1: 3}


def test_each_item_gets_its_own_references(tiny_backbone):
    """Styles and contents crossed, so that any mix-up shows."""
    pairs = [(content, style) for content in (0, 1) for style in (10, 11)]
    crossed = [transfer(content, style) for content, style in pairs]
    for request, result in zip(crossed, render(tiny_backbone, crossed), strict=True):
        (alone,) = render(tiny_backbone, [request])
        assert np.abs(pixels(result) - pixels(alone)).mean() <= IMAGE_TOLERANCE
        for name in ("style_losses", "content_losses"):
            first, later = zip(getattr(result, name), getattr(alone, name), strict=True)
            assert first[0] == pytest.approx(first[1], rel=1e-5)
            assert later[0] == pytest.approx(later[1], rel=1e-2)


def test_the_start_is_the_content_not_the_style(spy):
    (result,) = render(spy, [transfer(num_optimization_steps=0)])
    content = spy.encode(torch.from_numpy(np.array(image(0))).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(spy.decoded[0], content[0])
    assert result.style_losses == result.content_losses == ()


def test_a_picture_styled_after_itself_has_nearly_no_distillation_loss_at_its_start(tiny_backbone):
    itself, another = render(tiny_backbone, [transfer(content=0, style=0), transfer(style=10)])
    assert itself.style_losses[0] < 1e-4
    assert another.style_losses[0] > 1


def test_more_than_one_style_is_used(tiny_backbone):
    def with_styles(*styles):
        return Request.preset(
            "texture-optimize",
            styles=[image(n) for n in styles],
            width=64,
            height=64,
            num_inference_steps=1,
        )

    one, two, both = (
        render(tiny_backbone, [with_styles(*styles)])[0].style_losses[0]
        for styles in ((10,), (11,), (10, 11))
    )
    assert len({round(loss, 4) for loss in (one, two, both)}) == 3


# ---------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 71), (90, 64)])
@pytest.mark.parametrize("make", [transfer, texture])
def test_sizes_come_out_exact(tiny_backbone, make, width, height):
    (result,) = render(tiny_backbone, [make(width=width, height=height, num_inference_steps=1)])
    assert result.image.size == (width, height)
    assert result.image.mode == "RGB"


def test_nothing_is_squashed(spy):
    """A circle in a wide picture reaches the encoder as a circle, content and style alike."""
    wide = Image.new("RGB", (192, 96), "white")
    ImageDraw.Draw(wide).ellipse((96 - 30, 48 - 30, 96 + 30, 48 + 30), fill="black")
    request = Request.preset(
        "style-transfer",
        content=wide,
        styles=[wide.rotate(90, expand=True)],
        width=64,
        height=64,
        num_inference_steps=1,
    )
    render(spy, [request])
    assert len(spy.encoded) == 2
    for images in spy.encoded:
        dark = images[0].mean(0) < 0.5
        assert abs(int(dark.any(0).sum()) - int(dark.any(1).sum())) <= 1
        assert 38 <= int(dark.any(0).sum()) <= 42


def test_what_is_padded_is_cut_off_again(spy):
    """The crop is the upper left of what was decoded: the padding lies right and below."""
    content = image(0, 70, 66)
    request = Request.preset(
        "style-transfer",
        content=content,
        styles=[content],
        width=70,
        height=66,
        num_optimization_steps=0,
        num_inference_steps=1,
    )
    (result,) = render(spy, [request])
    (padded,) = spy.encoded
    assert padded.shape == (1, 3, 72, 72)
    np.testing.assert_array_equal((padded[0, :, :66, :70] * 255).round().permute(1, 2, 0), content)
    whole = spy.decode(spy.decoded[0][None])[0, :, :66, :70]
    np.testing.assert_array_equal(pixels(result), (whole * 255).round().permute(1, 2, 0))


# ---------------------------------------------------------------------------- refusals


def test_latents_that_blow_up_are_a_numerics_error_with_a_remedy(tiny_backbone):
    def endless(seed):
        return lambda tag, number, shape: torch.full(shape, torch.inf)

    with pytest.raises(NumericsError, match=r"1 of 1 latents .*lower the learning rate"):
        render(tiny_backbone, [texture()], noise=endless)


def test_layers_of_another_model_are_refused(tiny_backbone):
    with pytest.raises(RequestError, match="this U-Net has 16"):
        render(tiny_backbone, [texture(layers=(64, 70))])


# ---------------------------------------------------------------------------- what is encoded once


def test_each_distinct_picture_is_encoded_once_whatever_its_batches(spy):
    grid = [
        transfer(content=c, style=10 + s, num_inference_steps=1) for c in range(3) for s in (0, 1)
    ]
    render(spy, grid, batch_size=2)
    assert len(spy.encoded) == 3 + 2


def test_pictures_that_an_earlier_call_encoded_change_no_pixel(spy):
    encoded = EncodedPictures()
    requests = [transfer(content=c) for c in range(2)]
    first = render(spy, requests, encoded=encoded)
    num_encoded = len(spy.encoded)
    again = render(spy, requests, encoded=encoded)
    assert len(spy.encoded) == num_encoded
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(pixels(one), pixels(other))


def test_of_seamless_pictures_no_latents_are_used_that_wrap_around_elsewhere(spy):
    encoded = EncodedPictures()
    for seamless in ("none", "x", "both"):
        request = texture(seamless=seamless)
        (shared,) = render(spy, [request], encoded=encoded)
        (alone,) = render(spy, [request])
        assert np.array_equal(pixels(shared), pixels(alone))


def test_encoded_pictures_take_no_more_bytes_than_they_may(spy):
    num_bytes = spy.encode(torch.zeros(1, 3, 64, 64))[0].nbytes
    encoded = EncodedPictures(capacity=3 * num_bytes)
    requests = [transfer(content=c, num_inference_steps=1) for c in range(5)]
    render(spy, requests, batch_size=1, encoded=encoded)
    assert encoded.num_bytes == 3 * num_bytes
    spy.encoded.clear()
    render(spy, requests[-1:], encoded=encoded)
    assert not spy.encoded, "what was used last is kept"
