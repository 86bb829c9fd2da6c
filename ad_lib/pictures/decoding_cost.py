"""What does it cost to decode a picture, and is that too much?

The header alone answers; no pixel has been decoded yet.
"""

from __future__ import annotations

from PIL.ImageFile import ImageFile as PillowFile

from ad_lib.errors import ImageError

MAX_SLOW_PIXELS, MAX_SLOW_BYTES = 16_000_000, 64 << 20
"""Limits for what Pillow decodes in Python; it takes a few seconds for so many pixels."""

MAX_JPEG_SCANS = 200
"""Each scan of a progressive JPEG visits all pixels; a file with more is an attack."""

SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")
MAX_COMMENTS = 1000
"""The most comments of a PPM in plain text: Pillow copies the text for each."""

MAX_TIFF_BANDS = 6
"""The most bands that a TIFF stores one after the other."""

MAX_BLOCK_PIXELS = 1 << 27
"""The largest compressed tile or strip of a TIFF."""

_DECODER_BYTES = {"WEBP": 14, "AVIF": 12, "JPEG2000": 20}
"""Bytes that a decoder needs for each pixel besides the picture itself, measured."""

_PROGRESSIVE_BYTES = 8
"""The same for a progressive JPEG: the coefficients of all its channels."""

_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow's modes; 4 in all others."""


def check_effort(image: PillowFile, data: bytes) -> None:
    """Refuses files whose decoding would take minutes or hours.

    Args:
        image: with its header read.
        data: the bytes of the file.

    Raises:
        ImageError: `unsupported`, or a damaged or hostile file.
    """
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


def peak_bytes(image: PillowFile, num_bytes: int) -> int:
    """The most bytes that decoding needs at a time, by the header; the RGB picture included."""
    per_pixel = _PIXEL_BYTES.get(image.mode, 4) + 4
    per_pixel += _DECODER_BYTES.get(image.format or "", 0)
    if image.info.get("progressive"):
        per_pixel += _PROGRESSIVE_BYTES
    return image.width * image.height * per_pixel + _block_pixels(image) * 8 + num_bytes


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
