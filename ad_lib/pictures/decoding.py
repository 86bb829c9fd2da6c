"""How do the bytes of an image file become an upright 8-bit sRGB picture, or one clear error?

Formats: those of `formats.PIXEL_FORMATS`, recognised by content. Of an animation, and of several
pages, the first is used. `srgb` says what happens to pixels.

Memory: all threads of a process share `DECODING_BYTES`. A file reserves the bytes that its decoding
needs (`decoding_cost`); a file that needs more than all of them waits until it is alone.
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
from ad_lib.pictures.decoding_cost import check_effort, peak_bytes
from ad_lib.pictures.formats import PIXEL_FORMATS, refuse_camera_raw, refuse_other_formats
from ad_lib.pictures.memory import MemoryBudget
from ad_lib.pictures.metadata import without_obstacles
from ad_lib.pictures.srgb import Picture

MAX_PIXELS = 89_478_485
"""Pillow's own limit: above it a file is taken for a decompression bomb."""

DECODING_BYTES = 1 << 30
"""Bytes that all threads together use for decoding, unless one picture alone needs more."""

# Pillow's own settings, made once for the process. Sizes are checked here, by each job's limit; the
# warnings of its readers are about metadata and name no file.
Image.MAX_IMAGE_PIXELS = None
Image.core.set_block_size(1 << 30)  # glibc gives large blocks back when they are freed, small not
warnings.filterwarnings("ignore", module=r"PIL\.")


def _silence_libtiff() -> None:
    """Silences libtiff: it prints each damaged line, and Pillow raises an error anyway."""
    for path in Path(PIL.__file__).parents[1].glob("pillow.libs/libtiff*"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(None)


_silence_libtiff()

_budget = MemoryBudget(DECODING_BYTES)


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
    """As `decode_image`, for a `with` block; its share of the memory is kept until the block ends.

    Where many threads decode large pictures, reduce them inside the block.
    """
    with _loaded(data, max_pixels) as picture:
        with _decoder_errors():
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
    with _loaded(data, max_pixels) as picture, _decoder_errors():
        return ImageFacts(*picture.upright_size, picture.count_colours(max_colours))


@contextmanager
def _loaded(data: bytes, max_pixels: int) -> Iterator[Picture]:
    """A decoded picture; its share of memory is held inside the block."""
    with _decoder_errors():
        image = _opened(data)
        _check_size(*image.size, max_pixels)
        check_effort(image, data)
    with _budget.reserved(peak_bytes(image, len(data))):
        with _decoder_errors():
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
def _decoder_errors() -> Iterator[None]:
    """Turns whatever a decoder raises into an `ImageError` of one sentence.

    On damaged bytes decoders raise OSError, SyntaxError, struct.error, ZeroDivisionError,
    TypeError and others.
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
        raise ImageError(
            f"picture too large to decode safely ({width}x{height}; the limit is {max_pixels} "
            "pixels)",
            "unsupported",
        )
