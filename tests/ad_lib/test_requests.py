"""A request is checked when it is built, and its size follows from its content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ad_lib import PRESETS, Request, RequestError, Settings

PAINTING = Image.new("RGB", (80, 80), "red")
PHOTO = Image.new("RGB", (200, 100), "blue")


def transfer(**changes):
    return Request.preset("style-transfer", **{"content": PHOTO, "styles": [PAINTING]} | changes)


def texture(**changes):
    return Request.preset("texture-optimize", **{"styles": [PAINTING]} | changes)


@pytest.mark.parametrize(
    ("build", "value", "remedy"),
    [
        (lambda: transfer(content=None), "style-transfer needs a content", "give content=..."),
        (lambda: texture(content=PHOTO), "texture-optimize starts from noise", "drop content=..."),
        (lambda: transfer(styles=[]), "style-transfer needs at least one style", "styles=[...]"),
        (lambda: transfer(width=63, height=64), "got 63x64", "at least 64"),
        (lambda: transfer(width=64, height=0), "got 64x0", "at least 64"),
        (lambda: transfer(width=100), "got 100x50", "at least 64"),
        (lambda: transfer(seed=-1), "got -1", "0..2**64-1"),
        (lambda: transfer(seed=2**64), f"got {2**64}", "0..2**64-1"),
        (lambda: transfer(content_weigth=1.0), "'content_weigth'", "did you mean 'content_weight'"),
        (lambda: transfer(content_weight=float("nan")), "got nan", "at least 0"),
        (lambda: transfer(num_inference_steps=1000), "got 1000", "1..999"),
        (
            lambda: Request.preset("style-transfr", styles=[PAINTING]),
            "'style-transfr'",
            "did you mean 'style-transfer'",
        ),
    ],
)
def test_a_refusal_gives_the_value_and_the_way_out(build, value, remedy):
    with pytest.raises(RequestError) as refused:
        build()
    assert value in str(refused.value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_seeds_at_the_edge_are_accepted(seed):
    assert transfer(seed=seed).seed == seed


def test_a_preset_fills_in_its_numbers_and_takes_others_by_name():
    assert transfer().settings == PRESETS["style-transfer"].settings
    assert transfer(attn_scale=1.5).settings == Settings(content_weight=0.25, attn_scale=1.5)


def test_the_size_follows_the_contents_proportions():
    assert (transfer().width, transfer().height) == (1024, 512)
    upright = transfer(content=PHOTO.transpose(Image.Transpose.ROTATE_90))
    assert (upright.width, upright.height) == (512, 1024)


def test_without_content_the_result_is_a_square():
    assert (texture().width, texture().height) == (512, 512)
    assert (texture(width=96).width, texture(width=96).height) == (96, 96)


def test_one_side_alone_scales_the_other():
    assert transfer(width=300).height == 150
    assert transfer(height=150).width == 300


def test_both_sides_are_taken_as_they_are():
    request = transfer(width=99, height=333)
    assert (request.width, request.height) == (99, 333)


@given(width=st.integers(64, 3000), height=st.integers(64, 3000))
def test_the_shorter_side_is_the_presets_and_proportions_hold_to_half_a_pixel(width, height):
    request = transfer(content=Image.new("1", (width, height)))
    assert min(request.width, request.height) == 512
    scale = 512 / min(width, height)
    assert abs(request.width - scale * width) <= 0.5
    assert abs(request.height - scale * height) <= 0.5


def test_a_request_is_frozen_and_holds_its_styles_as_a_tuple():
    request = transfer(styles=[PAINTING, PHOTO])
    assert request.styles == (PAINTING, PHOTO)
    with pytest.raises(AttributeError):
        request.seed = 1
