"""Pictures: damaged, lying about themselves, too large, of odd kinds, or no pictures at all."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SUFFIXES = ("png", "jpg", "jpeg", "JPG", "tif", "tiff", "gif", "bmp", "webp", "ppm", "avif", "jfif")


def damaged_bytes(draw: random.Random, folder: Path) -> Case:
    """A sound picture of any format and mode, with damage."""
    suffix, data = sound.any_image(draw)
    return beside_sound_ones(draw, folder, suffix, damaged(draw, data))


def any_mode(draw: random.Random, folder: Path) -> Case:
    """A sound picture of any format and mode, under a name that every tool takes for a picture."""
    suffix, data = sound.any_image(draw)
    if draw.random() < 0.5:
        suffix = draw.choice(SUFFIXES)
    return beside_sound_ones(draw, folder, suffix, data)


def png_chunks(draw: random.Random, folder: Path) -> Case:
    """A PNG of chunks with fields at their edges."""
    return beside_sound_ones(draw, folder, "png", hostile_png(draw))


def jpeg_segments(draw: random.Random, folder: Path) -> Case:
    """A JPEG with odd EXIF, XMP, ICC, Adobe, Photoshop and MPF segments."""
    return beside_sound_ones(draw, folder, "jpg", hostile_jpeg(draw))


def tiff_fields(draw: random.Random, folder: Path) -> Case:
    """A TIFF whose directory has fields at their edges."""
    return beside_sound_ones(draw, folder, draw.choice(("tif", "tiff")), hostile_tiff(draw))


def wide_pixels(draw: random.Random, folder: Path) -> Case:
    """Integers and floats of 16 to 64 bits, in ranges that pictures do not have."""
    shape = (96, 128)
    kind = draw.choice(("uint16", "int32", "uint32", "float32", "bool", "nan", "12 bits"))
    noise = np.random.default_rng(draw.randrange(99)).random(shape)
    if kind == "nan":
        pixels: Any = noise.astype(np.float32)
        pixels[::3] = draw.choice((np.nan, np.inf, -np.inf, 1e38))
    elif kind == "12 bits":
        pixels = (noise * 4095).astype(np.uint16)
    elif kind.startswith("float"):
        pixels = (noise * draw.choice((1, 255, 65535, 1e30, -1))).astype(kind)
    elif kind == "bool":
        pixels = noise > 0.5
    else:
        scale = draw.choice((255, 4095, 65535, 2**31 - 1)) if kind != "uint16" else 65535
        pixels = (noise * scale).astype(np.int32 if kind == "uint32" else kind)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return beside_sound_ones(draw, folder, "tif", file.getvalue())


def extreme_sizes(draw: random.Random, folder: Path) -> Case:
    """Sound PNGs of one colour and any size, from one pixel to the limit and above."""
    width, height = draw.choice(
        (
            *((1, 1), (1, 20_000), (20_000, 1), (65_535, 1), (1, 10**6), (2, 3), (64, 64)),
            *((9459, 9459), (9460, 9460), (30_000, 30_000), (89_478_485, 1), (2**31 - 1, 1)),
            *((2**31 - 1, 2**31 - 1), (63, 8192), (4000, 4000)),
        )
    )
    case = beside_sound_ones(draw, folder, "png", flat_png(draw, width, height))
    return case


def many_large_ones(draw: random.Random, folder: Path) -> Case:
    """Several pictures of just under the limit, at the same time."""
    sound.write_style_transfer(folder, "ab", compute__io_threads=draw.choice((2, 8, 64)))
    data = flat_png(draw, 9459, 9459)
    for number in range(draw.choice((2, 8))):
        (folder / "content" / f"large{number}.png").write_bytes(data)
    return Case(told="pictures of 89 megapixels", sound=2, **run_command(draw, renders=0.0))


def bombs(draw: random.Random, folder: Path) -> Case:
    """A few bytes that unpack to many, in pixels or in metadata."""
    kind = draw.choice(("text", "profile", "frames", "short", "gzip"))
    header = _chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 8, 2, 0, 0, 0))
    pixels = _chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
    zeros = zlib.compress(bytes(draw.choice((10**6, 10**8))), 9)
    if kind == "text":
        many = draw.choice((1, 50, 1000))
        more = b"".join(_chunk(b"zTXt", b"k%d\0\0" % n + zeros) for n in range(min(many, 60)))
        data = PNG_SIGNATURE + header + more + pixels + _chunk(b"IEND", b"")
    elif kind == "profile":
        profile = _chunk(b"iCCP", b"p\0\0" + zeros)
        data = PNG_SIGNATURE + header + profile + pixels + _chunk(b"IEND", b"")
    elif kind == "frames":
        frame = b"\x21\xf9\x04\0\0\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
        data = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
        data += frame * draw.choice((10, 100_000)) + b";"
    elif kind == "gzip":
        data = gzip.compress(bytes(10**8))
    else:
        data = flat_png(draw, 5000, 5000, rows=draw.choice((0, 1, 2500)))
    return beside_sound_ones(draw, folder, "png", data)


def not_pictures(draw: random.Random, folder: Path) -> Case:
    """Other files under the names of pictures, some of which some reader would run or fetch."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../secret.png", b"x")
    svg = b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg '
    svg += b'xmlns="http://www.w3.org/2000/svg"><image href="http://example.org/x.png"/>&x;</svg>'
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(pwned) (w) file closefile\n"
    heif = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + draw.randbytes(200)
    data = draw.choice(
        (
            *(b"", b"\0", b"<html>404</html>", svg, postscript, postscript.replace(b"\n", b"\r")),
            *(b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, 2**31, 0, 0, 0, 0) + b"\xff\xff", heif),
            *(b"%PDF-1.4\n%%EOF", archive.getvalue(), gzip.compress(b"x"), pickle.dumps(Planted())),
            *(b"\x93NUMPY\x01\0v\0" + draw.randbytes(200), b"SIMPLE  =" + b" " * 5000, b"\x1f\x8b"),
            *(
                b"#define w_width 99999999999\n#define w_height 1\n",
                b"/* XPM */\nstatic char *x[]={",
            ),
            *(b"\xd7\xcd\xc6\x9a" + bytes(40), b"BUFR" + bytes(90), b"GRIB" + bytes(90), b"qoif"),
            *(
                b"8BPS\0\x01" + draw.randbytes(90),
                b"BM" + draw.randbytes(60),
                b"RIFF\xff\xff\xff\xff",
            ),
            *(
                b"P6\n" + b"9" * 5000 + b" 1\n255\n",
                b"P1\n1 1\n2",
                b"Pf\n1 1\n-1e999\n",
                b"P7\n332",
            ),
            *(b"\0\0\x01\0\xff\xff" + draw.randbytes(300), b"icns\0\0\0\x08", b"icns" + bytes(40)),
            *(b"DDS |\0\0\0" + draw.randbytes(120), b"\xff\x4f\xff\x51" + draw.randbytes(90)),
            *(b"\x89HDF\r\n\x1a\n", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), b"\x80\x04."),
            *(b"\x0a\x05\x01\x08" + draw.randbytes(124), b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"),
            *(b"\0\0\0\x0cjP  \r\n\x87\n" + draw.randbytes(60), b"Kodak", b"SIT!" + bytes(40)),
        )
    )
    return beside_sound_ones(draw, folder, draw.choice((*SUFFIXES, "heic", "HEIC", "eps")), data)


MAKERS = (
    damaged_bytes,
    damaged_bytes,
    any_mode,
    png_chunks,
    jpeg_segments,
    tiff_fields,
    wide_pixels,
    extreme_sizes,
    many_large_ones,
    bombs,
    not_pictures,
)


class Planted:
    """A pickle of it starts a program when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch pwned",)


def beside_sound_ones(draw: random.Random, folder: Path, suffix: str, data: bytes) -> Case:
    """A job in which a hostile picture stands beside sound ones, in a folder, tar or table."""
    name = f"hostile.{suffix}"
    place = draw.choice(("content", "content", "style", "tar", "table"))
    sound.write_images(folder / "content", "ab")
    (folder / "style.png").write_bytes(sound.image_bytes("png", "RGB", 9))
    changes: dict[str, Any] = {}
    if place == "content":
        (folder / "content" / name).write_bytes(data)
    elif place == "style":
        (folder / "styles").mkdir()
        (folder / "style.png").rename(folder / "styles" / "s.png")
        (folder / "styles" / name).write_bytes(data)
        changes = {"inputs__style": "styles"}
    elif place == "tar":
        images = {one.name: one.read_bytes() for one in sorted((folder / "content").iterdir())}
        (folder / "s.tar").write_bytes(sound.tar_bytes({**images, name: data}))
        changes = {"inputs__content": "s.tar"}
    else:
        (folder / name).write_bytes(data)
        rows = [f"content/{one}.png,style.png" for one in "ab"] + [f"{name},style.png"]
        (folder / "t.csv").write_text("\n".join(["content,style", *rows, ""]))
        changes = {"inputs": {"table": "t.csv"}}
    sound.write_job(folder, sound.job(**changes))
    told = f"{name} of {len(data)} bytes as {place}"
    return Case(told=told, sound=2, **run_command(draw))


def hostile_png(draw: random.Random) -> bytes:
    """A PNG: its header, palette, metadata and pixels are each sometimes wrong."""
    depth, colour = draw.choice(((8, 2), (8, 6), (8, 0), (16, 0), (16, 6), (1, 0), (4, 3), (2, 3)))
    side = 96
    if draw.random() < 0.3:
        depth, colour = draw.choice((0, 1, 3, 8, 16, 32, 255)), draw.randrange(8)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    row = 1 + (side * channels * max(depth, 1) + 7) // 8
    rows = b"".join(bytes([draw.randrange(5)]) + draw.randbytes(row - 1) for _ in range(side))
    width = side if draw.random() < 0.8 else draw.choice((0, 1, side * 2, 2**31, 2**32 - 1))
    interlace = draw.choice((0, 0, 0, 1, 2))
    header = struct.pack(">2I5B", width, side, depth, colour, 0, 0, interlace)
    pixels = zlib.compress(rows)
    chunks = [_chunk(b"IHDR", header if draw.random() < 0.9 else header[: draw.randrange(13)])]
    if colour == 3:
        chunks.append(_chunk(b"PLTE", draw.randbytes(draw.choice((0, 3, 48, 768, 769)))))
    chunks += [_metadata_chunk(draw) for _ in range(draw.choice((0, 1, 2, 5)))]
    for piece in draw.choice(([pixels], [b"", pixels, b""], [pixels[:99], pixels[99:]], [])):
        chunks.append(_chunk(b"IDAT", piece))
    chunks += [_metadata_chunk(draw) for _ in range(draw.choice((0, 1)))]
    if draw.random() < 0.9:
        chunks.append(_chunk(b"IEND", b""))
    if draw.random() < 0.2:
        draw.shuffle(chunks)
    return PNG_SIGNATURE + b"".join(chunks)


def _metadata_chunk(draw: random.Random) -> bytes:
    odd = words.text(draw).encode("utf-8", "surrogatepass")
    packed = zlib.compress(odd)
    kind, data = draw.choice(
        (
            *(
                (b"tEXt", b"k\0" + odd),
                (b"zTXt", b"k\0\0" + packed),
                (b"zTXt", b"k\0\x09" + packed),
            ),
            *((b"iTXt", b"k\0\x01\0en\0k\0" + packed), (b"iTXt", odd), (b"tEXt", b"x" * 100_000)),
            *(
                (b"iCCP", b"p\0\0" + packed),
                (b"iCCP", b"p\0\0" + zlib.compress(bytes(128))),
                (b"iCCP", b""),
            ),
            *((b"tRNS", draw.randbytes(draw.choice((0, 1, 2, 6, 256, 300)))), (b"gAMA", bytes(4))),
            *(
                (b"gAMA", b"\xff" * 4),
                (b"cHRM", bytes(32)),
                (b"sRGB", b"\xff"),
                (b"pHYs", bytes(9)),
            ),
            *((b"pHYs", b"\0"), (b"sBIT", draw.randbytes(3)), (b"bKGD", draw.randbytes(6))),
            *(
                (b"tIME", bytes(7)),
                (b"hIST", bytes(3)),
                (b"eXIf", odd),
                (b"eXIf", hostile_exif(draw)),
            ),
            *((b"acTL", struct.pack(">2I", 2**31, 0)), (b"acTL", struct.pack(">2I", 0, 1))),
            *((b"fcTL", struct.pack(">5I2H2B", 0, 2**31, 1, 5, 5, 0, 0, 9, 9)), (b"fdAT", b"\0")),
            *((b"\0\0\0\0", b"x"), (b"IEND", b""), (b"IHDR", bytes(13)), (b"PLTE", bytes(5))),
        )
    )
    return _chunk(kind, data, draw.random() < 0.9)


def _chunk(kind: bytes, data: bytes, sound_checksum: bool = True) -> bytes:
    checksum = zlib.crc32(kind + data) ^ (not sound_checksum)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def flat_png(draw: random.Random, width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of one colour, of which no more than a row is ever in memory.

    Args:
        draw: the source of chance, for the colour.
        width: pixels, as the header says.
        height: pixels, as the header says.
        rows: how many are there; all unless given. Of very large pictures there are none.
    """
    rows = height if rows is None else rows
    if width * rows > 10**9:
        rows = 0
    squeeze = zlib.compressobj(1)
    row = b"\0" + bytes([draw.randrange(256)]) * width if rows else b""
    body = b"".join(_squeezed(squeeze, row, rows)) + squeeze.flush()
    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return PNG_SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _squeezed(squeeze: Any, row: bytes, rows: int) -> Iterator[bytes]:
    for _ in range(rows):
        yield squeeze.compress(row)


def hostile_jpeg(draw: random.Random) -> bytes:
    """A sound JPEG with odd segments behind its first two bytes."""
    data = sound.image_bytes("jpg", draw.choice(("RGB", "L", "CMYK")), draw.randrange(4))
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF>"
    xmp += b"<rdf:Description tiff:Orientation='%s'/></rdf:RDF></x:xmpmeta>"
    odd = words.text(draw).encode("utf-8", "surrogatepass")[:60_000]
    segments = (
        *((0xE1, b"Exif\0\0" + hostile_exif(draw)), (0xE1, b"Exif\0\0" + hostile_exif(draw))),
        *((0xE1, b"Exif\0\0"), (0xE1, b"Exif\0\0II*\0"), (0xE1, b"Exif\0\0MM"), (0xE1, odd)),
        *((0xE1, xmp % b"6"), (0xE1, xmp % b"99"), (0xE1, xmp % odd[:99]), (0xE1, xmp[:-9])),
        *((0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(128)), (0xE2, b"ICC_PROFILE\0\0\xff" + odd)),
        *((0xE2, b"ICC_PROFILE\0"), (0xE2, b"MPF\0II*\0\x08\0\0\0" + draw.randbytes(40))),
        *((0xE2, b"MPF\0" + hostile_exif(draw)), (0xEE, b"Adobe"), (0xEE, b"Adobe\0d\0\0\0\0\xff")),
        *((0xED, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", 2**31) + odd),),
        *(
            (0xED, b"Photoshop 3.0\x008BIM"),
            (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02\0\0"),
        ),
        *((0xE0, b"JFIF\0"), (0xE0, b"JFIF\0\x01\x01\x09\0\0\0\0\xff\xff"), (0xFE, odd)),
        *((0xDD, b"\xff\xff"), (0xDB, b"\x1f"), (0xC4, b"\xff" * 20), (0xC2, bytes(20))),
    )
    for _ in range(draw.choice((1, 1, 2, 4, 40))):
        marker, body = draw.choice(segments)
        body = body[:65_533]
        length = struct.pack(">H", len(body) + 2 if draw.random() < 0.95 else draw.randrange(65536))
        data = data[:2] + bytes((0xFF, marker)) + length + body + data[2:]
    return data


def hostile_exif(draw: random.Random) -> bytes:
    """A TIFF directory as EXIF has it, with an orientation and other tags of odd types."""
    order = draw.choice("<>")
    entries: list[tuple[int, int, int, bytes]] = []
    orientation = draw.choice((0, 1, 3, 6, 8, 9, 255, 65535))
    entries.append((0x112, 3, 1, struct.pack(f"{order}HH", orientation, 0)))
    for _ in range(draw.choice((0, 1, 3, 30))):
        tag = draw.choice(
            (0x112, 0x8769, 0x8825, 0xA005, 0x927C, 0x9286, 0x10E, 0x11A, 0x201, 0x202)
        )
        tag = tag if draw.random() < 0.8 else draw.randrange(65536)
        kind = draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 99))
        count = draw.choice((0, 1, 2, 4, 8, 1000, 2**31, 2**32 - 1))
        content = draw.choice(
            (bytes(4), b"\xff" * 4, struct.pack(f"{order}I", 8), draw.randbytes(4))
        )
        entries.append((tag, kind, count, content))
    draw.shuffle(entries)
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    data += struct.pack(f"{order}H", len(entries))
    for tag, kind, count, content in entries:
        data += struct.pack(f"{order}HHI", tag, kind, count) + content
    data += struct.pack(f"{order}I", draw.choice((0, 8, 2**32 - 1)))
    return data + draw.randbytes(draw.choice((0, 40, 400)))


def hostile_tiff(draw: random.Random) -> bytes:
    """A TIFF of 64x64 pixels in one strip, a few of whose tags have other types and values."""
    order = draw.choice("<>")
    pixels = draw.randbytes(64 * 64 * draw.choice((1, 3, 4, 8)))
    tags: dict[int, tuple[int, Any]] = {
        256: (4, 64),
        257: (4, 64),
        258: (3, draw.choice((1, 2, 4, 8, 12, 16, 24, 32, 64))),
        259: (3, 1),
        262: (3, draw.choice((0, 1, 2, 3, 4, 5, 6, 8))),
        273: (4, 8),
        277: (3, draw.choice((1, 3, 4))),
        278: (4, 64),
        279: (4, len(pixels)),
        339: (3, draw.choice((1, 2, 3, 4, 5, 6))),
    }
    for _ in range(draw.choice((0, 1, 2, 4))):
        tag = draw.choice(
            (*tags, 266, 274, 282, 284, 296, 301, 317, 320, 322, 323, 324, 325, 330, 338, 34675)
        )
        tags[tag] = (draw.choice((1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 16)), draw.choice(words.NUMBERS))
    if draw.random() < 0.4:
        tags[259] = (3, draw.choice((2, 3, 4, 5, 6, 7, 8, 32773, 34712, 50000, 50001, 65535)))
    if draw.random() < 0.3:
        tags[34675] = (draw.choice((1, 2, 7)), 4)
    start = 8 + len(pixels)
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start) + pixels
    data += struct.pack(f"{order}H", len(tags))
    for tag in sorted(tags) if draw.random() < 0.9 else sorted(tags, reverse=True):
        kind, amount = tags[tag]
        whole = int(amount) % 2**32 if abs(amount) < 2**70 else 2**32 - 1
        short = kind == 3 and whole < 65536
        packed = struct.pack(f"{order}HH", whole, 0) if short else struct.pack(f"{order}I", whole)
        data += (
            struct.pack(f"{order}HHI", tag, kind, draw.choice((1, 1, 1, 1, 0, 2, 2**31))) + packed
        )
    return data + struct.pack(f"{order}I", draw.choice((0, 0, start, 4)))
