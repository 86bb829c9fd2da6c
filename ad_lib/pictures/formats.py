"""Which picture formats are read, and what is a file of another kind?

The content decides, never the name of the file. No decoder of these formats starts a program or
uses a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ad_lib.errors import ImageError

PIXEL_FORMATS = (
    "JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "JPEG2000", "TGA",
)  # fmt: skip
"""Under Pillow's names, in the order in which they are tried; TGA files have no signature."""

_OTHER_PICTURES = (
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document (EPS)"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?R", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\0\0\1\0", "an icon (ICO)"),
    (0, b"FUJIFILMCCD-RAW", "a raw picture of a camera"),
    (0, b"IIU\0", "a raw picture of a camera"),
    (0, b"IIRO", "a raw picture of a camera"),
    (8, b"CR\2", "a raw picture of a camera"),
    (8, b"AVI ", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"\0\0\1\xba", "a video"),
)
_NO_PICTURES = (
    (0, b"PK\3\4", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file with 'git lfs pull'"),
)
"""(offset, bytes at that offset, what such a file is), as for `_OTHER_PICTURES`."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")


def refuse_other_formats(data: bytes) -> None:
    """Refuses files of other formats before any decoder sees them.

    Raises:
        ImageError: the message says what the file is, and what to do.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    if not any(data[:4096]):
        raise ImageError(f"no picture: it begins with zeros only ({len(data)} bytes)")
    kind = _named(_OTHER_PICTURES, data) or _media_kind(data)
    if kind or b"<svg" in data[:1024].lower():
        kind = kind or "an SVG drawing"
        raise ImageError(
            f"this is {kind}, which is not read: save it as PNG or JPEG", "unsupported"
        )
    if found := _named(_NO_PICTURES, data) or _kind_of_text(data):
        raise ImageError(f"this is no picture but {found}")


def refuse_camera_raw(tags: Mapping[int, Any]) -> None:
    """Refuses raw pictures that are TIFF files: what can be read of them is a small preview.

    Args:
        tags: of the file's first TIFF directory, by their numbers.

    Raises:
        ImageError: it is one.
    """
    subfile_type, sub_files, photometric, dng_version = 254, 330, 262, 50706
    is_preview = tags.get(subfile_type) == 1 and sub_files in tags
    if is_preview or dng_version in tags or tags.get(photometric) == 32803:
        raise ImageError(
            "this is a raw picture of a camera (DNG, NEF, ARW or similar), which is not read: save "
            "it as PNG or JPEG",
            "unsupported",
        )


def _named(signatures: Sequence[tuple[int, bytes, str]], data: bytes) -> str | None:
    return next((name for at, magic, name in signatures if data.startswith(magic, at)), None)


def _media_kind(data: bytes) -> str | None:
    """What an ISO media file is, by its brands; None for AVIF, and for other files."""
    if data[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return None
    if brands & set(_HEIC_BRANDS):
        return "a HEIC (HEIF) picture"
    return "a raw picture of a camera" if data[8:12] == b"crx " else "a video"


def _kind_of_text(data: bytes) -> str | None:
    start = data[:1024].lstrip().lower()
    if b"<html" in start or start.startswith(b"<!doctype html"):
        return "an HTML page (perhaps the error page of a failed download)"
    is_netpbm = start[:1] == b"p" and start[1:2].isdigit()
    is_text = all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start)
    return "a text file" if is_text and not is_netpbm else None
