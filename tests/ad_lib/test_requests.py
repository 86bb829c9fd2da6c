"""A request is checked when it is built, and its size follows from its content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ad_lib import PRESETS, Request, RequestError, Settings
from ad_lib.requests import fit_role

PAINTING = Image.new("RGB", (80, 80), "red")
PHOTO = Image.new("RGB", (200, 100), "blue")


def transfer(**changes):
    return Request.preset("style-transfer", **{"content": PHOTO, "styles": [PAINTING]} | changes)


def texture(**changes):
    return Request.preset("texture-optimize", **{"styles": [PAINTING]} | changes)


def t2i(**changes):
    given = {"styles": [PAINTING], "prompt": "a red fox"} | changes
    return Request.preset("style-t2i-sd15", **given)


def expand(**changes):
    return Request.preset("texture-expand", **{"styles": [PAINTING]} | changes)


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
        (
            lambda: t2i(prompt=" "),
            "style-t2i-sd15 needs a prompt",
            "give prompt",
        ),
        (lambda: texture(prompt="a fox"), "takes no prompt; got 'a fox'", "use style-t2i"),
        (
            lambda: t2i(negative_prompt="blurry", guidance_scale=1.0),
            "'blurry'",
            "raise guidance_scale",
        ),
        (lambda: texture(guidance_scale=7.0), "guidance_scale; got 7.0", "drop it, or choose"),
        (lambda: texture(content_weight=0.3), "content_weight; got 0.3", "style-transfer"),
        (lambda: t2i(content_weight=0.5), "content_weight 0.5", "give content=..."),
        (lambda: t2i(timesteps=300), "timesteps; got 300", "texture-optimize"),
        (lambda: texture(view_stride=8), "view_stride; got 8", "texture-expand"),
        (lambda: transfer(style_weights=[1, 2]), "2 numbers for 1 styles", "one for each"),
        (lambda: transfer(style_weights=[0]), "got [0]", "must not all be 0"),
        (lambda: transfer(style_weights=[-1]), "got -1", "at least 0"),
        (lambda: texture(colors="content"), "has none", "colors='style'"),
        (lambda: texture(colors="blue"), "got 'blue'", "'result', 'content', 'style'"),
        (lambda: texture(seamless="xy"), "got 'xy'", "'none', 'x', 'y', 'both'"),
        (lambda: texture(seamless="x", width=100, height=99), "got 100", "make it 96"),
        (lambda: texture(source_mask=PAINTING), "takes no source_mask", "drop source_mask"),
        (lambda: transfer(control_image=PHOTO), "takes no control_image", "drop control_image"),
        (
            lambda: t2i(controlnet_conditioning_scale=0.5),
            "controlnet_conditioning_scale 0.5",
            "or give one",
        ),
        (lambda: t2i(init="style", styles=[PAINTING, PHOTO]), "got 2", "give one"),
        (lambda: t2i(init="style", reference_size=64), "64", "drop reference_size"),
        (lambda: expand(view_stride=65), "got 65", "1..64"),
        (lambda: expand(content=PHOTO), "texture-expand starts from noise", "drop content=..."),
        (lambda: t2i(adain="yes"), "got 'yes'", "adain must be true or false"),
        (lambda: t2i(start_time=1000), "got 1000", "0..999"),
        (lambda: texture(reference_size=32), "got 32", "64..8192"),
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


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_refuses_every_setting_that_its_task_does_not_read(name):
    preset, changed = PRESETS[name], {"timesteps": 5, "view_stride": 3, "guidance_scale": 2.0}
    for setting, value in changed.items():
        if preset.uses(setting):
            assert getattr(preset.settings_with({setting: value}), setting) == value
        else:
            with pytest.raises(RequestError, match=setting):
                preset.settings_with({setting: value})


def test_the_size_follows_a_target_mask_or_a_control_image():
    mask = Image.new("RGB", (300, 100), "red")
    textured = Request.preset(
        "texture-masked",
        styles=[PAINTING],
        source_mask=Image.new("RGB", PAINTING.size, "red"),
        target_mask=mask,
    )
    assert (textured.width, textured.height) == (1536, 512)
    assert (t2i(control_image=mask).width, t2i(control_image=mask).height) == (1536, 512)


@pytest.mark.parametrize("role", ["style", "texture", "content", "source_mask", "target_mask"])
@pytest.mark.parametrize("reference_size", [None, 96])
def test_fitting_a_picture_twice_changes_nothing(role, reference_size):
    image = Image.effect_mandelbrot((140, 90), (-2, -1, 1, 1), 20).convert("RGB")
    settings = Settings(reference_size=reference_size)
    once = fit_role(role, image, 72, 64, settings)
    assert fit_role(role, once, 72, 64, settings).tobytes() == once.tobytes()


@pytest.mark.parametrize("reference_size", [None, 96])
def test_a_source_mask_is_fitted_as_the_texture_that_it_labels(reference_size):
    texture, settings = Image.new("RGB", (140, 90)), Settings(reference_size=reference_size)
    fitted = [fit_role(role, texture, 72, 64, settings) for role in ("texture", "source_mask")]
    assert fitted[0].size == fitted[1].size


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 4000)])
def test_a_narrow_reference_is_not_stretched_without_bound(size):
    texture = Image.new("RGB", size)
    with pytest.raises(RequestError, match=rf"{size[0]}x{size[1]}.*reference_size 64"):
        Request.preset("texture-optimize", styles=[texture], reference_size=64)
    assert Request.preset("texture-optimize", styles=[texture])  # cropped, not stretched
