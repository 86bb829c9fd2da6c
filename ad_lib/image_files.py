"""Which format does a file have, and which of its bytes say how its pixels look?

Invariant: Pillow sees the bytes that pixels need, and nothing else. Comments, thumbnails, EXIF
tags, text chunks and the like are left out of JPEG, PNG, TIFF and AVIF files before Pillow opens
them, so no limit or fault of metadata makes sound pixels unreadable. What of the metadata changes
how a picture looks is read here, tolerantly: the orientation and the colour profile.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ad_lib.errors import ImageError

PIXEL_FORMATS = (
    "AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""What is read, under Pillow's names. None of their decoders starts a program or uses a network."""

READABLE = "JPEG, PNG, WEBP, TIFF, BMP, GIF, PPM, AVIF, JPEG 2000 and TGA"

MAX_PROFILE_BYTES = 16 << 20
"""A larger colour profile is ignored, as a damaged one is."""

MAX_TEXT_BYTES = 1 << 20
"""How far the texts of a PNG are searched for an orientation."""

MAX_PNG_CHUNKS = 1_000_000
MAX_JPEG_SCANS = 200
MAX_TIFF_TAGS = 65_536
MAX_TIFF_VALUES = 1 << 20
"""Larger counts are damage, or made to keep the decoder busy for hours."""

ORIENTATION_TAG = 0x0112

Part = bytes | memoryview


@dataclass(frozen=True)
class ImageFile:
    """A file as its pixels need it.

    Attributes:
        format: Pillow's name.
        parts: the bytes for Pillow, to be read one after the other.
        orientation: as EXIF counts, 1..8; 1 is upright.
        profile: the ICC colour profile.
        maximum: the largest value that a pixel may have, where the file states it.
        block_pixels: the size of a compressed tile or strip, which is decoded at once, in pixels.
        canvas: (width, height) where opening the file already takes memory for all its pixels.
    """

    format: str
    parts: Sequence[Part]
    orientation: int = 1
    profile: bytes | None = None
    maximum: int | None = None
    block_pixels: int = 0
    canvas: tuple[int, int] | None = None

    def open(self) -> io.IOBase:
        """The bytes for Pillow as a seekable file; they are not copied."""
        if len(self.parts) == 1 and isinstance(self.parts[0], bytes):
            return io.BytesIO(self.parts[0])
        return _Spliced(self.parts)


def image_file(data: bytes) -> ImageFile:
    """What the bytes of a file are, by their content.

    Raises:
        ImageError: no picture, or one in a format that is not read; the message names the format
            and what to do.
    """
    found = _format_of(data)
    reader = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "AVIF": _avif, "WEBP": _webp}.get(found)
    return reader(data) if reader else ImageFile(found, [data])


# ---------------------------------------------------------------------------- formats

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WEBP"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
)

_NOT_READ = (
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "a PostScript document (EPS)"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
    (0, b"gimp xcf", "a GIMP document (XCF)"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (0, b"II\xbc\x01", "a JPEG XR picture"),
    (0, b"v/1\x01", "an OpenEXR picture"),
    (0, b"#?RADIANCE", "a Radiance HDR picture"),
    (0, b"#?RGBE", "a Radiance HDR picture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\xabKTX", "a KTX texture"),
    (0, b"qoif", "a QOI picture"),
    (0, b"BPG\xfb", "a BPG picture"),
    (0, b"FLIF", "a FLIF picture"),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)"),
    (0, b"icns", "an icon (ICNS)"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)"),
    (40, b" EMF", "a Windows metafile (EMF)"),
    (0, b"AT&TFORM", "a DjVu document"),
    (0, b"SIMPLE  =", "a FITS picture"),
    (128, b"DICM", "a DICOM picture"),
    (0, b"\x89HDF\r\n", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"FUJIFILMCCD-RAW", "a raw picture of a camera (RAF)"),
    (0, b"IIU\x00", "a raw picture of a camera (RW2)"),
    (0, b"IIRO", "a raw picture of a camera (ORF)"),
    (0, b"IIRS", "a raw picture of a camera (ORF)"),
    (0, b"MMOR", "a raw picture of a camera (ORF)"),
    (6, b"HEAPCCDR", "a raw picture of a camera (CRW)"),
    (0, b"FOVb", "a raw picture of a camera (X3F)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)"),
    (0, b"\x00\x00\x01\xba", "a video (MPEG)"),
    (0, b"\x00\x00\x01\xb3", "a video (MPEG)"),
    (0, b"FLV\x01", "a video (FLV)"),
    (8, b"WAVE", "a sound file (WAV)"),
)  # fmt: skip
"""Pictures and films in other formats: `unsupported`."""

_NO_PICTURE = (
    (0, b"PK\x03\x04", "a zip archive (or an office document)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file with 'git lfs pull'"),
    (0, b"/annex/objects", "a git-annex pointer: fetch the file with 'git annex get'"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)

_BRANDS = (
    (b"avif avis", "AVIF"),
    (b"heic heix heim heis hevc hevx hevm hevs mif1 msf1 mif2 miaf", "a HEIC (HEIF) picture"),
    (b"crx ", "a raw picture of a camera (CR3)"),
)
"""The kinds of ISO media files that are pictures; other ones are videos."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+")


def _format_of(data: bytes) -> str:
    """The name of a format that is read.

    Raises:
        ImageError: any other; the message names it where it is known.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    found = _named(_SIGNATURES, data)
    if found and (found != "WEBP" or data[:4] == b"RIFF"):
        return found
    if data[4:8] == b"ftyp":
        found = _media_kind(data)
        return found if found == "AVIF" else _refuse(found)
    if other := _named(_NOT_READ, data):
        _refuse(other)
    if data[:4] in _TIFF_STARTS:
        return "TIFF"
    if data[:2] == b"BM":
        return "BMP"
    if re.match(rb"P[1-6][\s#]|P0CMYK\s|Py(P|RGBA|CMYK)\s|P[fF]\s", data):
        return "PPM"
    if other := _named(_NO_PICTURE, data) or _kind_of_text(data):
        raise ImageError(f"this is no picture but {other}")
    if _may_be_tga(data):
        return "TGA"
    if not any(data[:4096]):
        raise ImageError(f"no picture: it begins with zeros only ({len(data)} bytes)")
    raise ImageError(f"not a picture that can be read ({len(data)} bytes): use {READABLE}")


def _refuse(kind: str) -> str:
    sentence = f"this is {kind}, which is not read: convert it to PNG or JPEG"
    if kind.startswith("a video"):
        sentence = f"this is {kind}, not a picture: save its frames as PNG or JPEG"
    raise ImageError(sentence, "unsupported")


def _named(signatures: Sequence[tuple[int, bytes, str]], data: bytes) -> str | None:
    return next((name for at, magic, name in signatures if data.startswith(magic, at)), None)


def _media_kind(data: bytes) -> str:
    """What an ISO media file is, by its brands: the main one first."""
    size = min(int.from_bytes(data[:4], "big"), 1024)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    for brand in brands[:1] if brands[0] not in (b"mif1", b"msf1") else brands[::-1]:
        for known, kind in _BRANDS:
            if (len(brand) == 4 and brand in known.split(b" ")) or brand == known:
                return kind
    return "a video (MP4 or QuickTime)"


def _kind_of_text(data: bytes) -> str | None:
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        _refuse("an SVG drawing")
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "an HTML page (perhaps the error page of a failed download)"
    if start.startswith(b"<?xml"):
        return "an XML document"
    if start and all(32 <= byte < 127 or byte in b"\t\n\r" for byte in start):
        return "a text file"
    return None


def _may_be_tga(data: bytes) -> bool:
    """TGA files have no signature; every field of the header has to make sense."""
    if len(data) < 18 + 3:
        return False
    map_type, kind, map_bits, depth, flags = data[1], data[2], data[7], data[16], data[17]
    size = struct.unpack_from("<HH", data, 12)
    is_mapped = kind in (1, 9)
    return (
        kind in (1, 2, 3, 9, 10, 11)
        and min(size) > 0
        and map_type in (0, 1)
        and (map_type == 1 or not is_mapped)
        and (map_bits in (15, 16, 24, 32) if map_type else map_bits == 0)
        and depth in ((8, 16) if is_mapped else (1, 8, 16) if kind in (3, 11) else (16, 24, 32))
        and not flags & 0xC0
    )


# ---------------------------------------------------------------------------- JPEG


def _jpeg(data: bytes) -> ImageFile:
    """The segments up to the first scan, without those that are metadata, then the scans."""
    parts: list[Part] = [data[:2]]
    exif, xmp, profiles = b"", b"", []
    pixels = memoryview(data)
    start_of_scan = 2
    for marker, start, end in _segments(data):
        start_of_scan = end
        body = data[start + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:]
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body[29:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profiles.append(body[12:])
        elif _jpeg_needs(marker, body):
            parts.append(pixels[start:end])
    _check_scans(data, start_of_scan)
    parts.append(pixels[start_of_scan:])
    profiles.sort()  # each begins with its number, then how many there are
    is_whole = bool(profiles) and len(profiles[0]) > 1 and profiles[0][1] == len(profiles)
    return ImageFile(
        "JPEG",
        parts,
        orientation=exif_orientation(exif) or _xmp_orientation(xmp),
        profile=b"".join(one[2:] for one in profiles) if is_whole else None,
    )


_NO_FILL = re.compile(rb"[^\xff]")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan; bytes between are skipped."""
    position = 2
    while True:
        fill = data.find(b"\xff", position)
        found = _NO_FILL.search(data, fill) if fill >= 0 else None
        if found is None or found.start() + 3 > len(data):
            return
        start = found.start() - 1
        marker = data[start + 1]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # these have no length
            position = start + 2
            continue
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        position = start + 2 + length
        if marker in (0xD9, 0xDA) or length < 2 or position > len(data):
            return
        yield marker, start, position


def _jpeg_needs(marker: int, body: bytes) -> bool:
    """Whether pixels depend on a segment; libjpeg reads two of the application markers."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _check_scans(data: bytes, start: int) -> None:
    """Refuses files that were made to keep the decoder busy: every scan visits all pixels."""
    end = data.find(b"\xff\xd9", start)
    count = data.count(b"\xff\xda", start, end if end >= 0 else len(data))
    if count > MAX_JPEG_SCANS:
        raise ImageError(
            f"a JPEG of {count} scans (at most {MAX_JPEG_SCANS}): save it again", "unsupported"
        )


# ---------------------------------------------------------------------------- PNG


def _png(data: bytes) -> ImageFile:
    """The chunks that pixels need: header, palette, transparency, and the pixels as one chunk."""
    parts: list[Part] = [data[:8]]
    pixels: list[Part] = []
    shown = ImageFile("PNG", parts)
    exif, raw_exif, xmp, last = b"", b"", b"", b""
    for count, (kind, start, end) in enumerate(_chunks(data)):
        if count > MAX_PNG_CHUNKS:
            raise ImageError(f"a PNG of more than {MAX_PNG_CHUNKS} chunks: save it again")
        body = memoryview(data)[start:end]
        if kind == b"IDAT":
            if not pixels or last == b"IDAT":
                pixels.append(body)
        elif kind in (b"IHDR", b"PLTE", b"tRNS") and not pixels:
            parts.append(memoryview(data)[start - 8 : end + 4])
        elif kind == b"iCCP":
            shown = replace(shown, profile=_inflated(bytes(body), MAX_PROFILE_BYTES))
        elif kind == b"eXIf":
            exif = bytes(body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, text = _png_text(kind, bytes(body[: 4 * MAX_TEXT_BYTES]))
            raw_exif = text if key == b"Raw profile type exif" else raw_exif
            xmp = text if key == b"XML:com.adobe.xmp" else xmp
        last = kind
    if pixels:
        length = sum(map(len, pixels))
        parts += [struct.pack(">I", length), b"IDAT", *pixels, b"\0\0\0\0"]
        parts.append(b"\0\0\0\0IEND\xaeB`\x82")
    orientation = exif_orientation(exif or _from_hex(raw_exif)) or _xmp_orientation(xmp)
    return replace(shown, orientation=orientation)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of the data of each chunk; a chunk that is cut off ends with the file."""
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        start, end = position + 8, min(position + 8 + length, len(data))
        yield data[position + 4 : start], start, end
        position = end + 4


def _png_text(kind: bytes, body: bytes) -> tuple[bytes, bytes]:
    """(keyword, text) of a text chunk; the text is cut where it is very long."""
    key, _, text = body.partition(b"\0")
    if kind == b"iTXt":
        is_compressed, text = text[:1] == b"\1", text[2:]
        text = text.split(b"\0", 2)[-1]
    else:
        is_compressed, text = kind == b"zTXt", text[kind == b"zTXt" :]
    if is_compressed and key in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
        text = _decompressed(text, MAX_TEXT_BYTES) or b""
    return key, text


def _inflated(chunk: bytes, most: int) -> bytes | None:
    """The profile in an iCCP chunk, or None where it is damaged or longer than `most` bytes."""
    _, _, rest = chunk.partition(b"\0")
    if rest[:1] != b"\0":
        return None
    profile = _decompressed(rest[1:], most + 1)
    return profile if profile is not None and len(profile) <= most else None


def _decompressed(packed: bytes, most: int) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(packed, most)
    except zlib.error:
        return None


def _from_hex(text: bytes) -> bytes:
    """The EXIF block that ImageMagick writes as text: two lines of header, then hex digits."""
    try:
        return bytes.fromhex("".join(text.decode("ascii", "replace").split("\n")[3:]))
    except ValueError:
        return b""


# ---------------------------------------------------------------------------- TIFF

_PIXEL_TAGS = frozenset(
    {256, 257, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323,
     324, 325, 332, 334, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531,
     532, 37439}
)  # fmt: skip
"""The tags by which pixels are decoded."""

_WIDTH, _HEIGHT, _COMPRESSION = 256, 257, 259
_STRIP_OFFSETS, _ROWS_PER_STRIP, _PLANAR = 273, 278, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _SAMPLES = 322, 323, 324, 277
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION, _PHOTOMETRIC = 254, 330, 50706, 262
_MAX_SAMPLE, _MAX_SAMPLE_OF_TYPE, _XMP_TAG, _PROFILE_TAG = 281, 341, 700, 34675
_COLOUR_FILTER_ARRAY = (32803, 34892)

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
               16: 8, 17: 8, 18: 8}  # fmt: skip
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}


class _Directory:
    """The tags of one TIFF directory, as EXIF has them too; odd ones are skipped.

    Args:
        data: the whole TIFF (or EXIF) block; offsets count from its beginning.

    Raises:
        ValueError, struct.error: there is no directory.
    """

    def __init__(self, data: Part) -> None:
        order = bytes(data[:2])
        if order not in (b"II", b"MM"):
            raise ValueError("no byte order")
        self._data, self.endian = data, "<" if order == b"II" else ">"
        self.is_big = 43 in bytes(data[2:4])
        self.entry_layout = self.endian + ("HHQ8s" if self.is_big else "HHI4s")
        self.word = self.endian + ("Q" if self.is_big else "I")
        self.head = 16 if self.is_big else 8
        (start,) = struct.unpack_from(self.word, data, self.head // 2)
        if start > len(data):
            raise ValueError("the directory lies beyond the end")
        count_layout = self.endian + ("Q" if self.is_big else "H")
        (count,) = struct.unpack_from(count_layout, data, start)
        start += struct.calcsize(count_layout)
        size = struct.calcsize(self.entry_layout)
        self.num_tags = count
        self.entries: dict[int, tuple[int, int, bytes]] = {}
        for number in range(min(count, MAX_TIFF_TAGS, (len(data) - start) // size)):
            tag, kind, length, value = struct.unpack_from(
                self.entry_layout, data, start + number * size
            )
            if kind in _TYPE_SIZES:
                self.entries.setdefault(tag, (kind, length, value))

    def raw(self, tag: int, most: int) -> bytes | None:
        """The bytes of a tag's values, or None where it is absent, cut off, or longer than that."""
        if tag not in self.entries:
            return None
        kind, count, value = self.entries[tag]
        size = count * _TYPE_SIZES[kind]
        if size <= len(value):
            return value[:size]
        (offset,) = struct.unpack(self.word, value)
        if size > most or offset + size > len(self._data):
            return None
        return bytes(self._data[offset : offset + size])

    def number(self, tag: int, default: int = 0) -> int:
        """The first of a tag's whole numbers."""
        kind, _, _ = self.entries.get(tag, (0, 0, b""))
        found = self.raw(tag, MAX_TIFF_VALUES)
        if kind not in _TYPE_CODES or not found:
            return default
        return struct.unpack_from(self.endian + _TYPE_CODES[kind], found)[0]

    def count(self, tag: int) -> int:
        """How many values a tag has."""
        return self.entries[tag][1] if tag in self.entries else 0

    def only(self, tags: frozenset[int]) -> bytes:
        """The directory again, with those tags alone and no directory after it."""
        kept = sorted((tag, *entry) for tag, entry in self.entries.items() if tag in tags)
        layout = self.endian + ("Q" if self.is_big else "H")
        entries = (struct.pack(self.entry_layout, *entry) for entry in kept)
        return struct.pack(layout, len(kept)) + b"".join(entries) + struct.pack(self.word, 0)


def _tiff(data: bytes) -> ImageFile:
    """The file with another directory behind it, which holds the tags of pixels alone."""
    try:
        tags = _Directory(data)
    except (ValueError, struct.error):
        raise ImageError("damaged image file: a TIFF without a directory") from None
    _refuse_raw(tags)
    _check_tiff(tags)
    padding = bytes(-len(data) % 8)
    new_start = struct.pack(tags.word, len(data) + len(padding))
    parts = [data[: tags.head // 2] + new_start, memoryview(data)[tags.head :], padding]
    orientation = tags.number(ORIENTATION_TAG)
    return ImageFile(
        "TIFF",
        [*parts, tags.only(_PIXEL_TAGS)],
        orientation=orientation
        if 1 <= orientation <= 8
        else _xmp_orientation(tags.raw(_XMP_TAG, MAX_PROFILE_BYTES) or b""),
        profile=tags.raw(_PROFILE_TAG, MAX_PROFILE_BYTES),
        maximum=tags.number(_MAX_SAMPLE) or tags.number(_MAX_SAMPLE_OF_TYPE) or None,
        block_pixels=_block_pixels(tags),
    )


def _refuse_raw(tags: _Directory) -> None:
    """Cameras write raw pictures as TIFF files whose first picture is a small preview."""
    is_preview = tags.number(_SUBFILE_TYPE) & 1 and _SUB_IFDS in tags.entries
    is_raw = tags.number(_PHOTOMETRIC) in _COLOUR_FILTER_ARRAY
    if is_preview or is_raw or _DNG_VERSION in tags.entries:
        _refuse("a raw picture of a camera (DNG, NEF, ARW or similar)")


def _check_tiff(tags: _Directory) -> None:
    """Refuses counts that no picture has; they would keep the decoder busy for hours."""
    if tags.num_tags > MAX_TIFF_TAGS:
        raise ImageError(f"damaged image file: a TIFF directory of {tags.num_tags} tags")
    for tag in _PIXEL_TAGS & tags.entries.keys():
        if tags.count(tag) > MAX_TIFF_VALUES:
            raise ImageError(f"damaged image file: TIFF tag {tag} has {tags.count(tag)} values")
    width, height = max(1, tags.number(_WIDTH)), max(1, tags.number(_HEIGHT))
    planes = max(1, tags.number(_SAMPLES, 1)) if tags.number(_PLANAR) == 2 else 1
    blocks = {
        _STRIP_OFFSETS: -(-height // max(1, tags.number(_ROWS_PER_STRIP, height))),
        _TILE_OFFSETS: -(-width // max(1, tags.number(_TILE_WIDTH)))
        * -(-height // max(1, tags.number(_TILE_HEIGHT))),
    }
    for tag, expected in blocks.items():
        if tags.count(tag) > expected * planes:
            raise ImageError(
                f"damaged image file: a TIFF of {tags.count(tag)} strips or tiles, where "
                f"{expected * planes} hold all pixels"
            )


def _block_pixels(tags: _Directory) -> int:
    if tags.number(_COMPRESSION, 1) == 1:
        return 0
    if _TILE_WIDTH in tags.entries:
        return max(0, tags.number(_TILE_WIDTH)) * max(0, tags.number(_TILE_HEIGHT))
    rows = min(tags.number(_ROWS_PER_STRIP, 1 << 31), max(0, tags.number(_HEIGHT)))
    return max(0, tags.number(_WIDTH)) * rows


# ---------------------------------------------------------------------------- AVIF


def _avif(data: bytes) -> ImageFile:
    """The EXIF item is hidden: of AVIF, the container alone says how a picture is turned."""
    head, rest = data[: 1 << 20], memoryview(data)[1 << 20 :]
    hidden = re.sub(rb"(infe[\x02\x03]...(?:..|....)..)Exif", rb"\1none", head, flags=re.DOTALL)
    return ImageFile("AVIF", [hidden, rest] if len(rest) else [hidden])


# ---------------------------------------------------------------------------- WEBP


def _webp(data: bytes) -> ImageFile:
    """The size is read here, as the decoder makes its canvas when it is opened."""
    chunk, canvas = data[12:16], None
    if chunk == b"VP8X" and len(data) >= 30:
        canvas = (_little(data[24:27]) + 1, _little(data[27:30]) + 1)
    elif chunk == b"VP8L" and len(data) >= 25:
        bits = _little(data[21:25])
        canvas = (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif chunk == b"VP8 " and len(data) >= 30:
        canvas = (_little(data[26:28]) & 0x3FFF, _little(data[28:30]) & 0x3FFF)
    return ImageFile("WEBP", [data], canvas=canvas)


def _little(number: bytes) -> int:
    return int.from_bytes(number, "little")


# ---------------------------------------------------------------------------- orientation


def exif_orientation(exif: bytes) -> int:
    """The orientation that a block of EXIF states, 1..8, or 0; other tags may be damaged."""
    try:
        found = _Directory(re.sub(rb"\A(?:Exif\0\0){1,2}", b"", exif)).number(ORIENTATION_TAG)
    except (ValueError, struct.error):
        return 0
    return found if 1 <= found <= 8 else 0


def _xmp_orientation(xmp: bytes) -> int:
    """The same of an XMP packet; 1 where it states none."""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


def stated_orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation of a picture with those blocks of metadata, 1..8; EXIF goes first."""
    return exif_orientation(exif) or _xmp_orientation(xmp)


# ---------------------------------------------------------------------------- parts as one file


class _Spliced(io.RawIOBase):
    """Pieces of bytes as one file."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = [memoryview(part) for part in parts if len(part)]
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + len(part))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if start + offset < 0:
            raise ValueError(f"no place before the file's beginning: {start + offset}")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        end = self._starts[-1]
        stop = end if size is None or size < 0 else min(end, self._position + size)
        pieces = []
        while self._position < stop:
            number = bisect_right(self._starts, self._position) - 1
            within = self._position - self._starts[number]
            piece = self._parts[number][within : within + stop - self._position]
            pieces.append(piece)
            self._position += len(piece)
        return b"".join(pieces)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
