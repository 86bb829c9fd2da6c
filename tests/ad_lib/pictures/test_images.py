"""Files become upright 8-bit sRGB pictures of the right size, or are refused in one line."""

from __future__ import annotations

import contextlib
import io
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps

from ad_lib import ImageError, decode_image, fit_image
from ad_lib.model.seamless import cut_where_calm
from ad_lib.pictures import tensors
from ad_lib.pictures.colour import match_channel_statistics
from ad_lib.pictures.images import scaled_size
from ad_lib.pictures.tensors import image_to_tensor, pad_to_multiple, tensor_to_image
from tests import bad_images
from tests.bad_images import BROKEN, UNUSUAL, alpha, picture, upright

PICTURE = Image.fromarray(picture())
KINDS = {writer.__name__: "unsupported" for writer in bad_images.UNSUPPORTED}


FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF", "TIFF", "JPEG2000", "PPM", "TGA"]


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decoded(writer, folder) -> np.ndarray:
    image = decode_image(writer(folder).read_bytes())
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def over_white(colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    share = opacity[..., None] / 255
    return colours * share + 255 * (1 - share)


def grey_of(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(Image.fromarray(pixels).convert("L"))[..., None], 3, axis=2)


# ---------------------------------------------------------------------------- broken


@pytest.mark.parametrize("writer", BROKEN, ids=lambda writer: writer.__name__)
def test_a_broken_file_is_refused_in_one_line(writer, tmp_path):
    with pytest.raises(ImageError) as refused:
        decode_image(writer(tmp_path).read_bytes())
    assert refused.value.kind == KINDS.get(writer.__name__, "decode")
    assert str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_picture_above_the_callers_limit_is_refused_with_its_size():
    with pytest.raises(ImageError, match=r"128x96; the limit is 1000 pixels") as refused:
        decode_image(encoded(PICTURE), max_pixels=1000)
    assert refused.value.kind == "unsupported"
    assert decode_image(encoded(PICTURE), max_pixels=128 * 96).size == (128, 96)


def test_floating_point_pixels_are_unsupported():
    image = Image.fromarray(picture()[..., 0].astype(np.float32))
    with pytest.raises(ImageError, match="save 8 or 16 bits") as refused:
        decode_image(encoded(image, "TIFF"))
    assert refused.value.kind == "unsupported"


@pytest.mark.parametrize("file_format", FORMATS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_random_damage_gives_a_picture_or_an_image_error(file_format, seed):
    generator = random.Random(seed)
    data = bytearray(encoded(PICTURE, file_format))
    for _ in range(generator.randint(1, 6)):
        data[generator.randrange(generator.choice([40, 200, len(data)]))] = generator.randrange(256)
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data), max_pixels=10**6).mode == "RGB"


# ---------------------------------------------------------------------------- unusual


@pytest.mark.parametrize("writer", UNUSUAL, ids=lambda writer: writer.__name__)
def test_an_unusual_file_is_read_as_rgb(writer, tmp_path):
    pixels = decoded(writer, tmp_path)
    assert pixels.shape == ((1, 1, 3) if writer.__name__ == "write_one_pixel" else picture().shape)


@pytest.mark.parametrize(
    "writer",
    [bad_images.write_rgb16_png, bad_images.write_png_as_jpg, bad_images.write_without_extension],
)
def test_pixels_come_out_as_they_went_in(writer, tmp_path):
    np.testing.assert_array_equal(decoded(writer, tmp_path), picture())


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    expected = np.repeat(picture()[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decoded(bad_images.write_grey16_png, tmp_path), expected)


@pytest.mark.parametrize(
    ("wide", "narrow"), [(0, 0), (128, 0), (129, 1), (65535 - 128, 255), (65535, 255)]
)
def test_16_bit_grey_is_rounded_to_the_nearest_of_8_bits(wide, narrow):
    image = Image.fromarray(np.array([[wide, 65535]], np.uint16))
    assert decode_image(encoded(image)).getpixel((0, 0)) == (narrow,) * 3


def test_grey_is_equal_in_all_channels(tmp_path):
    np.testing.assert_array_equal(decoded(bad_images.write_grey_png, tmp_path), grey_of(picture()))


def test_a_palette_becomes_its_colours(tmp_path):
    np.testing.assert_array_equal(
        decoded(bad_images.write_palette_png, tmp_path),
        np.asarray(PICTURE.quantize(64).convert("RGB")),
    )


def test_an_animation_is_its_first_frame(tmp_path):
    np.testing.assert_array_equal(
        decoded(bad_images.write_animated_gif, tmp_path),
        np.asarray(PICTURE.quantize(256).convert("RGB")),
    )


def test_transparency_is_laid_over_white(tmp_path):
    np.testing.assert_allclose(
        decoded(bad_images.write_rgba_png, tmp_path), over_white(picture(), alpha()), atol=1
    )


def test_transparent_grey_is_laid_over_white(tmp_path):
    np.testing.assert_allclose(
        decoded(bad_images.write_la_png, tmp_path), over_white(grey_of(picture()), alpha()), atol=1
    )


def test_clear_colours_of_a_palette_are_white(tmp_path):
    pixels = decoded(bad_images.write_transparent_palette_png, tmp_path)
    index = np.asarray(PICTURE.quantize(64))
    colours = np.asarray(PICTURE.quantize(64).convert("RGB"))
    assert (pixels[index < 32] == 255).all()
    np.testing.assert_array_equal(pixels[index >= 32], colours[index >= 32])


def test_a_picture_that_asks_to_be_turned_comes_out_upright(tmp_path):
    pixels = decoded(bad_images.write_exif_rotated_jpeg, tmp_path)
    np.testing.assert_allclose(pixels, upright(), atol=6)


def test_cmyk_comes_close_to_the_picture_it_was_made_of(tmp_path):
    np.testing.assert_allclose(decoded(bad_images.write_cmyk_jpeg, tmp_path), picture(), atol=6)


# ---------------------------------------------------------------------------- colour profiles


def adobe_rgb_to_srgb(pixels: np.ndarray) -> np.ndarray:
    """By the two colour spaces' definitions: gamma 2.2, primaries at D50, sRGB's curve."""
    to_xyz = np.array(
        [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]]
    )
    srgb_to_xyz = np.array(
        [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    )
    linear = (pixels / 255) ** 2.2 @ (np.linalg.inv(srgb_to_xyz) @ to_xyz).T
    linear = linear.clip(0, 1)
    curve = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curve


def test_a_colour_profile_is_converted_to_srgb():
    data = encoded(PICTURE, icc_profile=bad_images._icc())
    ours = np.asarray(decode_image(data)).astype(int)
    expected = adobe_rgb_to_srgb(picture())
    assert np.abs(expected - picture()).max() > 20
    np.testing.assert_allclose(ours, expected, atol=3)


def test_a_jpegs_colour_profile_is_converted_too(tmp_path):
    ours = decoded(bad_images.write_icc_jpeg, tmp_path)
    assert np.abs(ours - adobe_rgb_to_srgb(picture())).mean() < 3


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "RGB with a clear colour"])
def test_a_colour_profile_counts_beside_transparency_and_palettes_too(mode):
    solid, options = Image.new("RGB", (4, 4), (200, 90, 30)), {}
    expected = adobe_rgb_to_srgb(np.array([200, 90, 30]))
    if mode == "RGBA":
        image = solid.copy()
        image.putalpha(255)
        image.putpixel((0, 0), (0, 0, 0, 0))
    elif mode == "P":
        image = solid.quantize(2)
    elif mode == "LA":
        image = Image.new("LA", (4, 4), (128, 255))
        expected = np.full(3, 128)  # an RGB profile says nothing about grey
    else:
        image, options = solid.copy(), {"transparency": (0, 0, 0)}
        image.putpixel((0, 0), (0, 0, 0))
    read = decode_image(encoded(image, icc_profile=bad_images._icc(), **options))
    np.testing.assert_allclose(read.getpixel((3, 3)), expected, atol=3)
    if mode.startswith("RGB"):
        assert read.getpixel((0, 0)) == (255, 255, 255)


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ours = np.asarray(decode_image(encoded(PICTURE, icc_profile=profile))).astype(int)
    np.testing.assert_allclose(ours, picture(), atol=1)


def test_a_damaged_profile_is_ignored():
    ours = decode_image(encoded(PICTURE, icc_profile=b"not a profile"))
    np.testing.assert_array_equal(np.asarray(ours), picture())


# ---------------------------------------------------------------------------- sizes


def circle(width, height, radius=30) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    x, y = width / 2, height / 2
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill="black")
    return image


@pytest.mark.parametrize("source", [(200, 100), (100, 200), (128, 128)])
@pytest.mark.parametrize("target", [(64, 64), (96, 64), (64, 160), (301, 77)])
def test_a_circle_stays_round(source, target):
    # The radius is small enough for every crop to keep the circle whole.
    fitted = fit_image(circle(*source, radius=12), *target)
    assert fitted.size == target
    left, top, right, bottom = (
        ImageOps.invert(fitted.convert("L"))
        .point(lambda value: 255 if value > 127 else 0)
        .getbbox()
    )
    assert abs((right - left) - (bottom - top)) <= 1
    assert abs((left + right) - target[0]) <= 3
    assert abs((top + bottom) - target[1]) <= 3


def test_a_picture_of_the_right_size_is_not_touched():
    assert fit_image(PICTURE, 128, 96) is PICTURE


@given(width=st.integers(1, 400), height=st.integers(1, 400), shorter=st.integers(1, 600))
def test_a_scaled_size_has_the_shorter_side_that_was_asked_for(width, height, shorter):
    scaled = scaled_size(width, height, shorter)
    assert min(scaled) == shorter
    assert abs(max(scaled) - shorter * max(width, height) / min(width, height)) <= 0.5


def test_a_picture_survives_the_way_to_a_tensor_and_back():
    tensor = image_to_tensor(PICTURE)
    assert tensor.shape == (1, 3, 96, 128)
    assert (tensor.dtype, tensor.max() <= 1) == (torch.float32, True)
    np.testing.assert_array_equal(np.asarray(tensor_to_image(tensor[0])), picture())


def test_values_are_rounded_and_clamped_on_the_way_to_a_picture():
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 2.0]).expand(3, 1, 4)
    assert np.asarray(tensor_to_image(values))[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 64), (70, 79)])
def test_padding_repeats_the_edge_up_to_the_next_multiple(height, width):
    pixels = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(pixels, 8)
    assert padded.shape == (1, 3, -(-height // 8) * 8, -(-width // 8) * 8)
    assert torch.equal(padded[..., :height, :width], pixels)
    assert torch.equal(padded[..., -1, :width], pixels[..., -1, :])
    assert torch.equal(padded[..., :height, -1], pixels[..., -1])


@pytest.mark.parametrize("band", [1, 7, 512])
def test_what_is_done_band_by_band_is_what_is_done_at_once(monkeypatch, band):
    images = torch.rand(2, 3, 20, 33, generator=torch.Generator().manual_seed(0))
    references = images.flip(1) * 0.5
    whole = tensor_to_image(images[0]).tobytes()
    matched = match_channel_statistics(images, references)
    calm = cut_where_calm(images.clone(), "both")
    monkeypatch.setattr(tensors, "BAND", band)
    assert tensor_to_image(images[0]).tobytes() == whole
    torch.testing.assert_close(match_channel_statistics(images, references), matched)
    assert torch.equal(cut_where_calm(images.clone(), "both"), calm)
    for item in range(2):
        change = (calm[item] - calm[item].roll(1, 1)).abs().mean((0, 2))
        assert change.argmin() == 0
