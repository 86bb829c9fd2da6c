"""How the bytes of an image file become an upright 8-bit sRGB picture, or one sentence.

Formats: those of `formats.PIXEL_FORMATS`, recognised by content. Of an animation or of several
pages the first is used. What happens to pixels:

* They are turned as EXIF, XMP or the container states (`metadata`).
* An embedded colour profile is converted to sRGB. A profile that is damaged, or one of other kinds
  of pixels, is ignored, as browsers do.
* Whole numbers of 16 bits are scaled from 0..65535 to 0..255, grey rounded, colours cut off (as
  Pillow reads them). A TIFF may state another maximum. Grey of 32 bits is taken as 16 bits where
  its values lie in 0..65535. Refused are values outside, and pictures that are not black and whose
  largest value lies below 4096: they hold 8, 10 or 12 bits in 16, and nothing says which.
* Floating-point numbers are refused: nothing says which value is white.
* 1, 2 and 4 bits are scaled to 8. CMYK, YCbCr, LAB and palettes become RGB.
* Transparency is laid over white.

Memory: all threads of a process share `DECODING_BYTES`. A file reserves what its header says that
decoding will take at its peak; a larger file waits until it is alone. Pixels are converted in
strips of about a million, so that beside the decoder's own copy there is one RGB picture at most.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowFile

from ad_lib.errors import ImageError
from ad_lib.formats import PIXEL_FORMATS, refuse_camera_raw, refuse_other_formats
from ad_lib.memory import MemoryBudget
from ad_lib.metadata import stated_orientation, without_obstacles

MAX_PIXELS = 89_478_485
"""Pillow's own limit: above it a file is taken for a decompression bomb."""

DECODING_BYTES = 1 << 30
"""What all threads together use for decoding, unless one picture alone needs more."""

STRIP_PIXELS = 1 << 20

MAX_SLOW_PIXELS, MAX_SLOW_BYTES = 16_000_000, 64 << 20
"""Limits of the formats that Pillow decodes in Python, a few seconds for so many pixels."""

MAX_JPEG_SCANS = 200
"""Every scan of a progressive JPEG visits all pixels; more were made to keep a reader busy."""

SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")
MAX_COMMENTS = 1000
MAX_TIFF_BANDS = 6
MAX_BLOCK_PIXELS = 1 << 27

WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
WIDE_WHITE = 65_535
LEAST_WIDE_MAXIMUM = 4096

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

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture of each EXIF orientation upright."""

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
def _loaded(data: bytes, max_pixels: int) -> Iterator[_Picture]:
    """A decoded picture; its share of memory is held inside the block."""
    with _told():
        image = _opened(data)
        _check_size(*image.size, max_pixels)
        _check_effort(image, data)
    with _budget.reserved(_peak_bytes(image, len(data))):
        with _told():
            is_wide = any(";16" in str(tile.args) for tile in image.tile)
            stated_white = _tiff_number(image, 281)
            image.load()
            picture = _Picture(image, stated_white, is_wide)
        yield picture


def _opened(data: bytes) -> PillowFile:
    """The file with its header read, and no pixels yet."""
    refuse_other_formats(data)
    pixels, info = without_obstacles(data)
    image = Image.open(io.BytesIO(pixels), formats=PIXEL_FORMATS)
    image.info.update(info)
    if image.format == "TIFF":
        refuse_camera_raw(dict(image.tag_v2))  # type: ignore[attr-defined]
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
    pixels = image.width * image.height
    scans = (
        data.count(b"\xff\xda") if image.format == "JPEG" and image.info.get("progressive") else 0
    )
    if scans > MAX_JPEG_SCANS:
        raise ImageError(
            f"a JPEG of {scans} scans (at most {MAX_JPEG_SCANS}): save it again", "unsupported"
        )
    is_slow = any(tile.codec_name in SLOW_DECODERS for tile in image.tile)
    if is_slow and (pixels > MAX_SLOW_PIXELS or len(data) > MAX_SLOW_BYTES):
        raise ImageError(
            f"{image.width}x{image.height} pixels in this kind of {image.format} would take "
            f"minutes to decode (the limit is {MAX_SLOW_PIXELS}): save it as PNG",
            "unsupported",
        )
    if data[:2] in (b"P1", b"P2", b"P3") and data.count(b"#") > MAX_COMMENTS:
        raise ImageError(f"a PPM of more than {MAX_COMMENTS} comments: save it again")
    boxes = [tile.extents for tile in image.tile if tile.extents]
    tiled = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes)
    if tiled > pixels * MAX_TIFF_BANDS:
        raise ImageError("damaged image file: its strips hold more pixels than the picture")
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


# ---------------------------------------------------------------------------- from pixels to sRGB


class _Picture:
    """Decoded pixels, and how they become upright sRGB.

    Raises:
        ImageError: `unsupported`, the numbers have no 8-bit meaning.
    """

    def __init__(self, image: PillowFile, stated_white: int, is_wide: bool) -> None:
        self._image = image
        is_turned = image.format == "TIFF"  # by Pillow, when it is loaded
        self._orientation = 1 if is_turned else stated_orientation(image.info)
        self._white = _white(image, stated_white, is_wide)
        self._transforms: dict[str, Any] = {}
        profile = image.info.get("icc_profile")
        self._profile = profile if isinstance(profile, bytes) else None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) once the picture is turned."""
        width, height = self._image.size
        return (height, width) if self._orientation >= 5 else (width, height)

    def upright(self) -> Image.Image:
        """The picture in RGB; its decoded pixels are given up."""
        rgb = Image.new("RGB", self._image.size)
        for top, strip in self._strips():
            rgb.paste(strip, (0, top))
        self._image.close()
        method = _UPRIGHT.get(self._orientation)
        return rgb if method is None else rgb.transpose(method)

    def count_colours(self, most: int) -> int | None:
        """Converts every strip; counts its colours up to so many, and returns None above."""
        colours: set[Any] | None = set()
        for _, strip in self._strips():
            if most and colours is not None:
                found = strip.getcolors(most)
                colours = colours | {colour for _, colour in found} if found else None
                colours = colours if colours is not None and len(colours) <= most else None
        return len(colours) if colours is not None else None

    def _strips(self) -> Iterator[tuple[int, Image.Image]]:
        """Each strip in RGB, and where it begins, from the top as stored."""
        for top, strip in _strips(self._image):
            yield top, self._to_srgb(strip)

    def _to_srgb(self, strip: Image.Image) -> Image.Image:
        colours, alpha = _without_alpha(strip)
        if transform := self._transform(colours.mode):
            colours = transform.apply(colours)
        elif colours.mode in WIDE_MODES:
            colours = _narrow(colours, self._white)
        rgb = colours.convert("RGB")
        if alpha is None:
            return rgb
        rgb.putalpha(alpha)
        white = Image.new("RGBA", rgb.size, "white")
        return Image.alpha_composite(white, rgb).convert("RGB")

    def _transform(self, mode: str) -> Any:
        """What converts pixels of a mode from the profile to sRGB, or None."""
        if not self._profile or (mode in WIDE_MODES and self._white != WIDE_WHITE):
            return None
        if mode not in self._transforms:
            self._transforms[mode] = _transform_to_srgb(self._profile, mode)
        return self._transforms[mode]


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    height = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, height):
        yield top, image.crop((0, top, image.width, min(top + height, image.height)))


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """A picture's colours alone, and its transparency where it has any."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode == "P" else image, None
    if image.mode in WIDE_MODES:
        clear = np.asarray(image) == image.info["transparency"]
        return image, Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    is_grey = image.mode in ("1", "L", "LA")
    return rgba.getchannel("R") if is_grey else rgba.convert("RGB"), rgba.getchannel("A")


def _transform_to_srgb(profile: bytes, mode: str) -> Any:
    """None where the profile is damaged or is one of other pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, srgb, mode, "RGB")
    except Exception:
        return None


def _white(image: Image.Image, stated: int, is_wide: bool) -> int:
    """Which of a picture's numbers is white; where pixels have 8 bits it does not matter.

    Raises:
        ImageError: nothing says which, or a number is darker than black or lighter than white.
    """
    if image.mode in WIDE_MODES:
        least, most = _extremes(image)
        white = stated if 255 <= stated < WIDE_WHITE and most <= stated else WIDE_WHITE
        if least < 0 or most > white:
            raise ImageError(
                f"whole numbers from {least} to {most}, and nothing says which is white: save 8 "
                "bits, or 16 bits from 0 to 65535",
                "unsupported",
            )
    elif is_wide and image.mode in ("RGB", "RGBA"):  # Pillow keeps the upper 8 bits of 16
        extremes = image.getextrema()[:3]
        most = max(int(high) for _, high in extremes) * 256  # type: ignore[misc]
        most += 255 * (most > 0 or image.mode == "RGB")
        white = WIDE_WHITE
    else:
        return 255
    if white == WIDE_WHITE and 0 < most < LEAST_WIDE_MAXIMUM:
        raise ImageError(
            f"no number above {most} of 65535 in its 16 bits, so it would be nearly black, and "
            "nothing says which is white: scale it to 0..65535, or save it with 8 bits",
            "unsupported",
        )
    return white


def _extremes(image: Image.Image) -> tuple[int, int]:
    found = [(int(part.min()), int(part.max())) for part in _arrays(image)]
    return min(least for least, _ in found), max(most for _, most in found)


def _arrays(image: Image.Image) -> Iterator[np.ndarray]:
    return (np.asarray(strip) for _, strip in _strips(image))


def _narrow(image: Image.Image, white: int) -> Image.Image:
    """Grey of 16 bits in 8, rounded to the nearest."""
    wide = np.asarray(image).astype(np.int64)
    scaled = (wide + 128) // 257 if white == WIDE_WHITE else (wide * 255 + white // 2) // white
    return Image.fromarray(scaled.astype(np.uint8))
