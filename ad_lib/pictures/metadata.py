"""Which orientation does a file's metadata state, and which metadata must Pillow not see?

The orientation is found even where other tags are damaged; Pillow gives up there. Pillow refuses
some files whose pixels are sound, because of the texts of a PNG or the index of further pictures
in a JPEG: these are taken out before it opens the file.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ad_lib.errors import ImageError

MAX_PROFILE_BYTES = 16 << 20
"""A larger colour profile of a PNG is ignored, as a damaged one is."""

MAX_TEXT_BYTES = 1 << 20
"""How far the texts of a PNG are read."""

MAX_PNG_CHUNKS = 1_000_000
MAX_EXIF_TAGS = 1000
ORIENTATION_TAG = 0x0112

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ORIENTED_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")


def without_obstacles(data: bytes) -> tuple[bytes, dict[str, Any]]:
    """(bytes, information) of a file: its bytes without the metadata that make Pillow fail.

    Of a PNG, the chunks that pixels need stay as they are; of the others, the information holds the
    `icc_profile`, the `exif` and the texts that may state an orientation. Pillow refuses a PNG
    whose texts or profile unpack to more than a megabyte, and one with a damaged chunk beside its
    pixels. Of a JPEG, the EXIF and an index of further pictures are hidden, and the information
    holds the `exif`: Pillow reads them when it opens the file, and warns of damage or refuses it.

    Raises:
        ImageError: the file was made to keep a reader busy.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _png(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    return data, {}


def stated_orientation(info: Mapping[Any, Any]) -> int:
    """The orientation that a picture's metadata states, 1..8 as EXIF counts; 1 is upright.

    Args:
        info: as Pillow fills it, or as `without_obstacles` does.
    """
    xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or b""
    exif = info.get("exif") or _from_hex(info.get("Raw profile type exif") or "")
    return _exif_orientation(exif) or _xmp_orientation(xmp)


def _jpeg(data: bytes) -> tuple[bytes, dict[str, Any]]:
    exif = b""
    first_scan = data.find(b"\xff\xda")
    for found in re.compile(rb"\xff\xe1(..)Exif\0\0", re.DOTALL).finditer(data, 0, first_scan):
        exif += data[found.end() : found.start() + 2 + int.from_bytes(found[1], "big")]
    hidden = re.sub(rb"(\xff\xe1..)Exif(?=\0\0)", rb"\1exif", data, flags=re.DOTALL)
    hidden = re.sub(rb"(\xff\xe2..)MPF(?=\0)", rb"\1mpf", hidden, flags=re.DOTALL)
    return hidden, {"exif": exif}


def _png(data: bytes) -> tuple[bytes, dict[str, Any]]:
    parts: list[bytes | memoryview] = [_PNG_SIGNATURE]
    info: dict[str, Any] = {}
    for number, (kind, start, end) in enumerate(_chunks(data)):
        if number > MAX_PNG_CHUNKS:
            raise ImageError(f"a PNG of more than {MAX_PNG_CHUNKS} chunks: save it again")
        if kind in _PNG_PIXELS:
            parts.append(memoryview(data)[start - 8 : end + 4])
        elif kind == b"iCCP":
            _, _, packed = data[start:end].partition(b"\0")
            profile = _decompressed(packed[1:], MAX_PROFILE_BYTES + 1)
            info["icc_profile"] = profile if len(profile) <= MAX_PROFILE_BYTES else None
        elif kind == b"eXIf":
            info["exif"] = data[start:end]
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, text = _text(kind, data[start : min(end, start + MAX_TEXT_BYTES)])
            if key in _ORIENTED_TEXTS:
                info[key.decode()] = text
    return b"".join(parts), info


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the data of each chunk; a chunk that is cut off ends with the file."""
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        start = position + 8
        end = min(start + length, len(data))
        yield data[position + 4 : start], start, end
        position = end + 4


def _text(kind: bytes, chunk: bytes) -> tuple[bytes, bytes]:
    """(keyword, text) of a text chunk, as far as it is read."""
    key, _, text = chunk.partition(b"\0")
    if key not in _ORIENTED_TEXTS or kind == b"tEXt":
        return key, text
    if kind == b"zTXt":
        return key, _decompressed(text[1:], MAX_TEXT_BYTES)
    is_compressed, (_, _, *text_parts) = text[:1] == b"\1", text[2:].split(b"\0", 2) + [b""] * 2
    text = text_parts[0]
    return key, _decompressed(text, MAX_TEXT_BYTES) if is_compressed else text


def _decompressed(packed: bytes, most: int) -> bytes:
    """The first `most` bytes; none where they are damaged."""
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return b""


def _from_hex(text: str | bytes) -> bytes:
    """EXIF as ImageMagick writes it into a PNG: header lines, then hex digits."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    try:
        return bytes.fromhex("".join(text.split("\n")[3:]))
    except ValueError:
        return b""


def _exif_orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF, or 0; its other tags may be damaged."""
    block = re.sub(rb"\A(?:Exif\0\0)+", b"", exif)
    endian = {b"II": "<", b"MM": ">"}.get(block[:2])
    if endian is None or len(block) < 10:
        return 0
    (start,) = struct.unpack_from(endian + "I", block, 4)
    for place in range(start + 2, min(len(block) - 11, start + 2 + 12 * MAX_EXIF_TAGS), 12):
        tag, kind = struct.unpack_from(endian + "HH", block, place)
        if tag == ORIENTATION_TAG:
            layout = {1: "B", 3: "H", 4: "I"}.get(kind, "H")
            (found,) = struct.unpack_from(endian + layout, block, place + 8)
            return found if 1 <= found <= 8 else 0
    return 0


def _xmp_orientation(xmp: str | bytes) -> int:
    """The orientation in an XMP packet; 1 where it states none."""
    packet = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', packet)
    return int(found[1]) if found else 1
