"""How the bytes of an image file become an upright 8-bit sRGB picture, or one sentence.

Formats: those of `formats.PIXEL_FORMATS`, recognised by content. Of an animation or of several
pages the first is used. `srgb` says what happens to pixels.

Memory: all threads of a process share `DECODING_BYTES`. A file reserves what its header says that
decoding will take at its peak; a larger file waits until it is alone.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import PIL
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowFile

from ad_lib.errors import ImageError
from ad_lib.pictures.formats import PIXEL_FORMATS, refuse_camera_raw, refuse_other_formats
from ad_lib.pictures.memory import MemoryBudget
from ad_lib.pictures.metadata import without_obstacles
from ad_lib.pictures.srgb import Picture

MAX_PIXELS = 89_478_485
"""Pillow's own limit: above it a file is taken for a decompression bomb."""

DECODING_BYTES = 1 << 30
"""What all threads together use for decoding, unless one picture alone needs more."""

MAX_SLOW_PIXELS, MAX_SLOW_BYTES = 16_000_000, 64 << 20
"""Limits of the formats that Pillow decodes in Python, a few seconds for so many pixels."""

MAX_JPEG_SCANS = 200
"""Every scan of a progressive JPEG visits all pixels; more were made to keep a reader busy."""

SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")
MAX_COMMENTS = 1000
"""Of a PPM in plain text; each takes Pillow a copy of the text."""

MAX_TIFF_BANDS = 6
"""Bands that a TIFF may store one after the other."""

MAX_BLOCK_PIXELS = 1 << 27
"""The largest compressed tile or strip of a TIFF."""

# Pillow's own settings, made once for the process. Sizes are checked here, by each job's limit; the
# warnings of its readers are about metadata and name no file.
Image.MAX_IMAGE_PIXELS = None
Image.core.set_block_size(1 << 30)  # glibc gives large blocks back when they are freed, small not
warnings.filterwarnings("ignore", module=r"PIL\.")


def _silence_libtiff() -> None:
    """It writes its errors to the terminal, one for each damaged line; Pillow raises one too."""
    for path in Path(PIL.__file__).parents[1].glob("pillow.libs/libtiff*"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(None)


_silence_libtiff()

_budget = MemoryBudget(DECODING_BYTES)

_DECODER_BYTES = {"WEBP": 14, "AVIF": 12, "JPEG2000": 20}
"""What decoders take for each pixel besides the picture that they make, measured."""

_PROGRESSIVE_BYTES = 8
"""The same of a progressive JPEG: the coefficients of all its channels."""

_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""What Pillow takes for a pixel of a mode; 4 of all others."""


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a picture that could be decoded.

    Attributes:
        width, height: pixels, upright.
        num_colours: how many different colours it has; 0 where they were not counted, and None
            where there are more than were to be counted.
    """

    width: int
    height: int
    num_colours: int | None = 0


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright 8-bit sRGB picture from the bytes of an image file; see the module for the rules.

    Args:
        data: the file's bytes; its name does not matter.
        max_pixels: refuse larger pictures, before their pixels are decoded.

    Raises:
        ImageError: the bytes are empty, damaged or cut off (`decode`), or the picture is too large,
            of another format, or its numbers have no 8-bit meaning (`unsupported`).
    """
    with decoded_image(data, max_pixels=max_pixels) as image:
        return image


@contextmanager
def decoded_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The same for a `with` block, which keeps the picture's share of memory while it runs.

    Where many threads decode large pictures, make them small inside the block.
    """
    with _loaded(data, max_pixels) as picture:
        with _told():
            image = picture.upright()
        yield image


def inspect_image(data: bytes, *, max_pixels: int = MAX_PIXELS, max_colours: int = 0) -> ImageFacts:
    """Decodes a picture as `decode_image` does, strip by strip, and keeps none of its pixels.

    Args:
        data: the file's bytes.
        max_pixels: refuse larger pictures.
        max_colours: count the colours up to so many.

    Raises:
        ImageError: `decode_image` would refuse it too.
    """
    with _loaded(data, max_pixels) as picture, _told():
        return ImageFacts(*picture.upright_size, picture.count_colours(max_colours))


# ---------------------------------------------------------------------------- from bytes to pixels


@contextmanager
def _loaded(data: bytes, max_pixels: int) -> Iterator[Picture]:
    """A decoded picture; its share of memory is held inside the block."""
    with _told():
        image = _opened(data)
        _check_size(*image.size, max_pixels)
        _check_effort(image, data)
    with _budget.reserved(_peak_bytes(image, len(data))):
        with _told():
            is_wide = any(";16" in str(tile.args) for tile in image.tile)
            image.load()
            picture = Picture(image, is_wide)
        yield picture


def _opened(data: bytes) -> PillowFile:
    """The file with its header read, and no pixels yet."""
    refuse_other_formats(data)
    pixels, info = without_obstacles(data)
    image = Image.open(io.BytesIO(pixels), formats=PIXEL_FORMATS)
    image.info.update(info)
    if image.format == "TIFF":
        refuse_camera_raw(image.tag_v2)  # type: ignore[attr-defined]
    if image.mode == "F":
        raise ImageError(
            "floating-point pixels have no stated range: save 8 or 16 bits", "unsupported"
        )
    return image


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a decoder raises is the file's own problem.

    On damaged bytes they raise OSError, SyntaxError, struct.error, ZeroDivisionError, TypeError
    and others.
    """
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            "not a picture that can be read, or a damaged one; what is read are JPEG, PNG, WEBP, "
            "TIFF, BMP, GIF, PPM, AVIF, JPEG 2000 and TGA"
        ) from None
    except MemoryError:
        raise ImageError("too large to decode: out of memory", "unsupported") from None
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged image file: {words[:200]}") from None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(_too_large(f"{width}x{height}", max_pixels), "unsupported")


def _too_large(size: str, max_pixels: int) -> str:
    return f"picture too large to decode safely ({size}; the limit is {max_pixels} pixels)"


def _check_effort(image: PillowFile, data: bytes) -> None:
    """Refuses files that would keep the decoder busy for minutes or hours."""
    is_progressive = image.format == "JPEG" and image.info.get("progressive")
    scans = data.count(b"\xff\xda") if is_progressive else 0
    if scans > MAX_JPEG_SCANS:
        raise ImageError(
            f"a JPEG of {scans} scans (at most {MAX_JPEG_SCANS}): save it again", "unsupported"
        )
    if data[:2] in (b"P1", b"P2", b"P3") and data.count(b"#") > MAX_COMMENTS:
        raise ImageError(f"a PPM of more than {MAX_COMMENTS} comments: save it again")
    is_slow = any(tile.codec_name in SLOW_DECODERS for tile in image.tile)
    pixels = image.width * image.height
    if is_slow and (pixels > MAX_SLOW_PIXELS or len(data) > MAX_SLOW_BYTES):
        raise ImageError(
            f"{image.width}x{image.height} pixels in this kind of {image.format} would take "
            f"minutes to decode (the limit is {MAX_SLOW_PIXELS}): save it as PNG",
            "unsupported",
        )
    if image.format == "TIFF":
        _check_strips(image)


def _check_strips(image: PillowFile) -> None:
    """Refuses a TIFF whose strips or tiles do not make up the picture."""
    pixels = image.width * image.height
    boxes = [tile.extents for tile in image.tile if tile.extents]
    covered = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    if not pixels <= covered <= pixels * MAX_TIFF_BANDS:
        raise ImageError(
            f"damaged image file: its strips hold {covered} pixels, and the picture has {pixels}"
        )
    if _block_pixels(image) > MAX_BLOCK_PIXELS:
        raise ImageError("damaged image file: its tiles are far larger than the picture")


def _tiff_number(image: PillowFile, tag: int) -> int:
    """A whole number among a TIFF's tags; 0 where there is none."""
    found = getattr(image, "tag_v2", {}).get(tag, 0)
    found = found[0] if isinstance(found, tuple) and found else found
    return found if isinstance(found, int) else 0


def _block_pixels(image: PillowFile) -> int:
    """The size of a compressed TIFF's tile or strip, which is decoded at once."""
    if image.info.get("compression") in (None, "raw"):
        return 0
    if tile_width := _tiff_number(image, 322):
        return tile_width * _tiff_number(image, 323)
    return image.width * min(image.height, _tiff_number(image, 278) or image.height)


def _peak_bytes(image: PillowFile, num_bytes: int) -> int:
    """What decoding takes at its peak, as the header says; the RGB picture included."""
    per_pixel = _PIXEL_BYTES.get(image.mode, 4) + 4
    per_pixel += _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        per_pixel += _PROGRESSIVE_BYTES
    return image.width * image.height * per_pixel + _block_pixels(image) * 8 + num_bytes
