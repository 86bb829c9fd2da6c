"""What a file is shows in its bytes; metadata turns and colours a picture, and never breaks it."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ad_lib import ImageError, decode_image
from ad_lib.pictures.decoding import inspect_image
from ad_lib.pictures.memory import MemoryBudget
from tests import bad_images
from tests.bad_images import ORIENTATION_TAG, picture

PICTURE = Image.fromarray(picture())


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION_TAG] = orientation
    return tags


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data)).astype(int)


def refused(data: bytes, kind: str) -> str:
    with pytest.raises(ImageError) as error:
        decode_image(data)
    with pytest.raises(ImageError, match=r"."):
        inspect_image(data)
    assert error.value.kind == kind
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0qt      ", "video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw"),
        (b"%PDF-1.7\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6", "EPS"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"  <svg width='3'>", "SVG"),
        (b"8BPS\0\1", "PSD"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"v/1\x01\x02\0\0\0", "OpenEXR"),
        (b"FUJIFILMCCD-RAW 0201", "raw"),
        (b"\0\0\1\0\1\0\x10\x10", "ICO"),
        (b"\x1a\x45\xdf\xa3", "video"),
    ],
)
def test_what_is_not_read_is_named_with_the_way_out(data, named):
    message = refused(data.ljust(200, b"\0"), "unsupported")
    assert named in message
    assert "PNG" in message


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(99), "zip"),
        (b"just words\n", "text"),
        (bytes(5000), "zeros"),
        (b"\x93 no idea \x94" * 9, "JPEG, PNG"),
    ],
)
def test_what_is_no_picture_is_named_too(data, named):
    assert named in refused(data, "decode")


def test_no_program_is_started_for_a_file(tmp_path, monkeypatch):
    for name in ("gs", "gswin32c", "gswin64c", "djpeg"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    refused(bad_images.write_eps_as_jpg(tmp_path).read_bytes(), "unsupported")
    assert not (tmp_path / "started").exists()


def test_a_cameras_raw_file_is_not_mistaken_for_its_preview():
    tags = ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    assert "raw" in refused(encoded(PICTURE, "TIFF", tiffinfo=tags), "unsupported")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_what_stands_behind_a_picture_does_not_matter(file_format):
    data = encoded(PICTURE, file_format)
    np.testing.assert_array_equal(pixels(data + b"trailing" * 99), pixels(data))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_picture_that_lacks_its_end_is_refused(file_format):
    data = encoded(PICTURE, file_format)
    refused(data[: len(data) * 9 // 10], "decode")


def test_a_picture_of_several_is_the_first():
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    for file_format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(pixels(data), picture())
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pixels(data), pixels(encoded(frames[0], "JPEG")))


# ---------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"speed": 10}),
    ],
)
def test_every_format_is_turned_as_its_metadata_says(file_format, options, orientation):
    data = encoded(PICTURE, file_format, exif=exif(orientation), **options)
    stored = pixels(encoded(PICTURE, file_format, **options)).astype(np.uint8)
    expected = Image.fromarray(stored)
    expected.getexif()[ORIENTATION_TAG] = orientation
    turned = ImageOps.exif_transpose(expected)
    np.testing.assert_array_equal(pixels(data), np.asarray(turned))
    facts = inspect_image(data)
    assert (facts.width, facts.height) == turned.size


def test_a_picture_is_turned_even_where_its_other_tags_are_odd(tmp_path):
    data = bad_images.write_odd_exif_jpeg(tmp_path).read_bytes()
    np.testing.assert_allclose(pixels(data), bad_images.upright(), atol=6)


def test_an_orientation_may_stand_in_xmp():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    for data in (
        encoded(PICTURE, "JPEG", xmp=xmp),
        encoded(PICTURE, "PNG", pnginfo=texts),
        encoded(PICTURE, "WEBP", xmp=xmp),
        encoded(PICTURE, "TIFF", tiffinfo={700: xmp}),
    ):
        assert decode_image(data).size == (96, 128)


@pytest.mark.parametrize(
    "block", [b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", b"II+\0\x08\0\0\0" + b"\xff" * 8, b"junk"]
)
def test_a_damaged_block_of_exif_is_ignored(block):
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + block))
    data = encoded(PICTURE)
    np.testing.assert_array_equal(pixels(data[:33] + chunk + data[33:]), picture())


# ---------------------------------------------------------------------------- other metadata


def test_metadata_of_any_size_leaves_the_pixels_as_they_are(tmp_path):
    data = bad_images.write_much_metadata_png(tmp_path).read_bytes()
    np.testing.assert_array_equal(pixels(data), picture())


def test_a_colour_profile_may_be_large():
    profile = bad_images._icc()
    large = profile + bytes(3 << 20)
    large = struct.pack(">I", len(large)) + large[4:]
    assert np.abs(pixels(encoded(PICTURE, icc_profile=profile)) - picture()).max() > 20
    np.testing.assert_array_equal(
        pixels(encoded(PICTURE, icc_profile=large)), pixels(encoded(PICTURE, icc_profile=profile))
    )


def test_a_profile_of_another_type_in_a_tiff_is_a_profile():
    tags = ImageFileDirectory_v2()
    tags[34675] = "no profile at all"
    tags.tagtype[34675] = 2  # ASCII
    np.testing.assert_array_equal(pixels(encoded(PICTURE, "TIFF", tiffinfo=tags)), picture())


def test_odd_metadata_is_no_matter_in_threads_where_warnings_are_errors(tmp_path):
    writers = (bad_images.write_odd_exif_jpeg, bad_images.write_much_metadata_png)
    files = [writer(tmp_path).read_bytes() for writer in writers] * 8
    with ThreadPoolExecutor(4) as pool:
        assert all(image.size == (128, 96) for image in pool.map(decode_image, files))


def test_a_damaged_index_of_further_pictures_is_ignored():
    data = encoded(PICTURE, "JPEG")
    index = b"\xff\xe2\0\x10MPF\0II*\0\xff\xff\xff\xff\0\0"
    np.testing.assert_array_equal(pixels(data[:2] + index + data[2:]), pixels(data))


def test_a_flipped_bit_among_the_pixels_of_a_png_is_no_picture():
    data = bytearray(encoded(PICTURE))
    start = data.index(b"IDAT") + 6
    for place in range(start, len(data) - 20, 397):
        damaged = data.copy()
        damaged[place] ^= 4
        refused(bytes(damaged), "decode")


# ---------------------------------------------------------------------------- numbers


def tiff_of(numbers: np.ndarray) -> bytes:
    return encoded(Image.fromarray(numbers), "TIFF")


def test_whole_numbers_of_32_bits_are_read_as_16_where_they_fit():
    grey = picture()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(tiff_of(grey.astype(np.int32) * 257)), expected)


@pytest.mark.parametrize(("least", "most"), [(-5, 60_000), (0, 65_536), (0, 2**31 - 1)])
def test_numbers_without_a_white_are_refused_with_their_range(least, most):
    message = refused(tiff_of(np.array([[least, most]], np.int32)), "unsupported")
    assert f"{least} to {most}" in message


@pytest.mark.parametrize("most", [1, 255, 1023, 4095])
def test_few_bits_in_16_are_refused_and_not_turned_black(most):
    grey = np.array([[0, most]], np.uint16)
    assert str(most) in refused(encoded(Image.fromarray(grey)), "unsupported")
    rows = [b"\0" + np.full((4, 3), most, ">u2").tobytes()] * 4
    coloured = bad_images._raw_png(4, 4, rows, bit_depth=16, color_type=2)
    assert "nearly black" in refused(coloured, "unsupported")


def test_a_black_picture_of_16_bits_is_black():
    assert (pixels(encoded(Image.fromarray(np.zeros((4, 4), np.uint16)))) == 0).all()


def test_a_number_that_means_clear_in_grey_of_16_bits_stays_a_grey():
    data = encoded(Image.fromarray(np.array([[0, 25_700, 65535]], np.uint16)), transparency=25_700)
    assert pixels(data)[0, :, 0].tolist() == [0, 100, 255]


# ---------------------------------------------------------------------------- bounds


def test_a_jpeg_of_very_many_scans_is_refused():
    data = encoded(PICTURE, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert "scans" in refused(data[:-2] + scan * 1000 + data[-2:], "unsupported")


def test_a_tiff_of_more_strips_than_it_has_rows_is_refused():
    layout = ImageFileDirectory_v2()
    layout[256], layout[257], layout[258], layout[277] = 128, 96, (8, 8, 8), 3
    layout[262], layout[259], layout[278] = 2, 1, 48
    layout[273], layout[279] = (8,) * 5000, (16,) * 5000
    data = b"II*\0\x08\0\0\0" + layout.tobytes(8)
    assert "strips" in refused(data, "decode")


def test_a_plain_ppm_of_comments_is_no_matter_of_minutes():
    data = b"P3 2000 2000 255\n" + b"#\n" * 2_000_000
    refused(data, "decode")


def test_colours_are_counted_as_far_as_asked():
    data = encoded(PICTURE.quantize(7))
    assert inspect_image(data, max_colours=10).num_colours == 7
    assert inspect_image(data, max_colours=7).num_colours == 7
    assert inspect_image(data, max_colours=6).num_colours is None
    assert inspect_image(data).num_colours == 0


# ---------------------------------------------------------------------------- memory


def test_threads_never_hold_more_than_the_budget_except_one_alone():
    budget, lock = MemoryBudget(100), threading.Lock()
    held: list[int] = []
    sums: list[tuple[int, int]] = []

    def hold(size: int) -> None:
        with budget.reserved(size):
            with lock:
                held.append(size)
                sums.append((sum(held), len(held)))
            threading.Event().wait(0.001)
            with lock:
                held.remove(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, [30, 60, 250, 10, 50, 50, 1, 99, 1000, 40] * 8))
    assert all(total <= 100 or count == 1 for total, count in sums)
    assert any(count > 1 for _, count in sums)


def test_what_was_held_is_free_again_after_an_error():
    budget = MemoryBudget(10)
    with pytest.raises(RuntimeError), budget.reserved(10):
        raise RuntimeError
    with budget.reserved(10):
        pass
