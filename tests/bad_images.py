"""Broken and unusual inputs, written on demand from one seeded picture.

`write_*` takes a folder and returns the path of the file it wrote there; the two tars take their
own path. `BROKEN` holds those whose pixels cannot or must not be had, `UNUSUAL` those that a
careful reader accepts. Nothing is read from disk, and the same call writes the same bytes.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 96, 128
BOMB_SIDE = 30_000
ORIENTATION_TAG, ROTATED_90_CW = 0x0112, 6  # EXIF; a viewer must turn the pixels clockwise

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_GREY, PNG_RGB = 0, 2  # PNG colour types

Writer = Callable[[Path], Path]


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """A smooth RGB picture (96, 128, 3), landscape, no two corners alike.

    Smooth, so that a JPEG of it stays within a few grey levels.
    """
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return np.array(smooth)


def alpha() -> NDArray[np.uint8]:
    """Transparency (96, 128): 0 at the left edge, 255 at the right one."""
    return np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))


def upright(seed: int = 0) -> NDArray[np.uint8]:
    """What `write_exif_rotated_jpeg` shows once its orientation is applied."""
    return picture(seed)


# ---------------------------------------------------------------------------- broken


def write_truncated_jpeg(folder: Path) -> Path:
    """A JPEG that ends in the middle of its pixels; its header and size read well."""
    data = _jpeg(picture())
    return _write(folder / "truncated.jpg", data[: len(data) // 2])


def write_empty_file(folder: Path) -> Path:
    """No bytes at all."""
    return _write(folder / "empty.jpg", b"")


def write_text_as_png(folder: Path) -> Path:
    """An error page saved under a picture's name."""
    return _write(folder / "text.png", b"<html><body>404 Not Found</body></html>\n")


def write_wrong_crc_png(folder: Path) -> Path:
    """A PNG whose header carries a false checksum; all else is whole."""
    data = bytearray(_png(picture()))
    data[len(PNG_SIGNATURE) + 8 + 13] ^= 0xFF  # behind IHDR's length, name and 13 bytes
    return _write(folder / "wrong_crc.png", bytes(data))


def write_damaged_png(folder: Path) -> Path:
    """A PNG with 64 bytes of its compressed pixels overwritten; its header and size read well."""
    data = bytearray(_png(picture()))
    middle = len(data) // 2
    data[middle : middle + 64] = b"\xff" * 64
    return _write(folder / "damaged.png", bytes(data))


def write_decompression_bomb(folder: Path) -> Path:
    """A black 30000x30000 PNG of about 100 kB; as RGB it would fill 2.7 GB."""
    row = b"\0" * (1 + (BOMB_SIDE + 7) // 8)  # filter byte, then one bit a pixel
    rows = (row for _ in range(BOMB_SIDE))
    data = _raw_png(BOMB_SIDE, BOMB_SIDE, rows, bit_depth=1, color_type=PNG_GREY)
    return _write(folder / "bomb.png", data)


def write_eps_as_jpg(folder: Path) -> Path:
    """A PostScript program under a picture's name; a reader that runs it has lost."""
    return _write(
        folder / "photo.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n0 setgray\nshowpage\n",
    )


def write_heic(folder: Path) -> Path:
    """What phones save: the first box of a HEIC file, and zeros."""
    return _write(folder / "phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


def write_32_bit_tiff(folder: Path) -> Path:
    """Whole numbers up to a million; nothing says which is white."""
    numbers = picture()[..., 0].astype(np.int32) * 4000
    return _save(folder / "grey32.tif", Image.fromarray(numbers))


def write_12_bits_in_16_png(folder: Path) -> Path:
    """Numbers up to 4080 of 65535: as they stand, the picture would be nearly black."""
    return _save(folder / "grey12.png", Image.fromarray(picture()[..., 0].astype(np.uint16) * 16))


# ---------------------------------------------------------------------------- unusual


def write_cmyk_jpeg(folder: Path) -> Path:
    """Four ink channels, as print shops send them."""
    return _save(folder / "cmyk.jpg", Image.fromarray(picture()).convert("CMYK"))


def write_grey_png(folder: Path) -> Path:
    """One channel of 8 bits."""
    return _save(folder / "grey.png", Image.fromarray(picture()).convert("L"))


def write_grey16_png(folder: Path) -> Path:
    """One channel of 16 bits: the red channel times 257, so 255 becomes 65535."""
    rows = _rows(picture()[..., :1].astype(">u2") * 257)
    data = _raw_png(WIDTH, HEIGHT, rows, bit_depth=16, color_type=PNG_GREY)
    return _write(folder / "grey16.png", data)


def write_rgb16_png(folder: Path) -> Path:
    """Three channels of 16 bits: the picture times 257."""
    rows = _rows(picture().astype(">u2") * 257)
    data = _raw_png(WIDTH, HEIGHT, rows, bit_depth=16, color_type=PNG_RGB)
    return _write(folder / "rgb16.png", data)


def write_palette_png(folder: Path) -> Path:
    """64 colours, opaque."""
    return _save(folder / "palette.png", Image.fromarray(picture()).quantize(64))


def write_transparent_palette_png(folder: Path) -> Path:
    """64 colours, half of them clear."""
    image = Image.fromarray(picture()).quantize(64)
    return _save(folder / "palette_clear.png", image, transparency=bytes([0] * 32 + [255] * 32))


def write_la_png(folder: Path) -> Path:
    """Grey with `alpha()`."""
    image = Image.fromarray(picture()).convert("L")
    image.putalpha(Image.fromarray(alpha()))
    return _save(folder / "la.png", image)


def write_rgba_png(folder: Path) -> Path:
    """The picture with `alpha()`."""
    return _save(folder / "rgba.png", Image.fromarray(np.dstack([picture(), alpha()])))


def write_exif_rotated_jpeg(folder: Path) -> Path:
    """A portrait JPEG that asks to be shown as the landscape `upright()` (EXIF orientation 6)."""
    stored = Image.fromarray(upright()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = ROTATED_90_CW
    return _save(folder / "rotated.jpg", stored, quality=95, subsampling=0, exif=exif)


def write_odd_exif_jpeg(folder: Path) -> Path:
    """The same, rotated, whose other EXIF tags point beyond the end or are of impossible types."""
    tags = [(0x010F, 2, 4_000_000_000, 4_000_000_000), (0x0110, 99, 1, 7)]
    tags += [(ORIENTATION_TAG, 3, 1, ROTATED_90_CW), (0x8769, 4, 1, 0xFFFF_FFF0)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 900) + entries  # of 900 tags 4 are there
    stored = Image.fromarray(upright()).transpose(Image.Transpose.ROTATE_90)
    return _save(folder / "odd_exif.jpg", stored, quality=95, subsampling=0, exif=exif)


def write_much_metadata_png(folder: Path) -> Path:
    """Texts of megabytes, a chunk whose checksum is false, and one that is too short."""
    text = zlib.compress(b"x" * (5 << 20))
    extra = [(b"zTXt", b"a\0\0" + text), (b"iTXt", b"b\0\1\0\0\0" + text), (b"gAMA", b"")]
    chunks = b"".join(map(_chunk, *zip(*extra, strict=True))) + _chunk(b"tIME", b"?")[:-1] + b"!"
    data = _png(picture())
    return _write(folder / "metadata.png", data[:33] + chunks + data[33:])


def write_icc_jpeg(folder: Path) -> Path:
    """An RGB JPEG that names Adobe RGB's primaries and gamma: not sRGB."""
    return _save(folder / "icc.jpg", Image.fromarray(picture()), quality=95, icc_profile=_icc())


def write_png_as_jpg(folder: Path) -> Path:
    """PNG bytes under a .jpg name."""
    return _write(folder / "png_inside.jpg", _png(picture()))


def write_without_extension(folder: Path) -> Path:
    """PNG bytes under a name with no extension."""
    return _write(folder / "no_extension", _png(picture()))


def write_animated_gif(folder: Path) -> Path:
    """Three frames; the first is the picture, in 256 colours."""
    frames = [Image.fromarray(picture(seed)).quantize(256) for seed in range(3)]
    path = folder / "animated.gif"
    return _save(path, frames[0], save_all=True, append_images=frames[1:], duration=100)


def write_one_pixel(folder: Path) -> Path:
    """1x1, too small for any network."""
    return _write(folder / "one_pixel.png", _png(picture()[:1, :1]))


BROKEN: tuple[Writer, ...] = (
    write_truncated_jpeg,
    write_empty_file,
    write_text_as_png,
    write_wrong_crc_png,
    write_damaged_png,
    write_decompression_bomb,
    write_eps_as_jpg,
    write_heic,
    write_32_bit_tiff,
    write_12_bits_in_16_png,
)
UNSUPPORTED: tuple[Writer, ...] = (
    write_decompression_bomb,
    write_eps_as_jpg,
    write_heic,
    write_32_bit_tiff,
    write_12_bits_in_16_png,
)
"""Those of `BROKEN` that are sound, and refused for what they are."""

UNUSUAL: tuple[Writer, ...] = (
    write_cmyk_jpeg,
    write_grey_png,
    write_grey16_png,
    write_rgb16_png,
    write_palette_png,
    write_transparent_palette_png,
    write_la_png,
    write_rgba_png,
    write_exif_rotated_jpeg,
    write_odd_exif_jpeg,
    write_much_metadata_png,
    write_icc_jpeg,
    write_png_as_jpg,
    write_without_extension,
    write_animated_gif,
    write_one_pixel,
)


# ---------------------------------------------------------------------------- tars


def write_corrupt_member_tar(path: Path) -> Path:
    """Three samples, the middle one's JPEG damaged; every tar header and size is right."""
    samples = _samples()
    image = samples["000001.jpg"]
    samples["000001.jpg"] = image[:20] + bytes(len(image) - 20)  # still begins like a JPEG
    return _write(path, _tar(samples))


def write_truncated_tar(path: Path) -> Path:
    """The same three samples, undamaged, cut in the middle of the middle one's JPEG."""
    data = _tar(_samples())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        member = tar.getmember("000001.jpg")
    return _write(path, data[: member.offset_data + member.size // 2])


def _samples() -> dict[str, bytes]:
    samples = {}
    for seed in range(3):
        samples[f"{seed:06d}.jpg"] = _jpeg(picture(seed))
        samples[f"{seed:06d}.json"] = json.dumps({"seed": seed}).encode()
    return samples


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


# ---------------------------------------------------------------------------- bytes


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _save(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """PNG scan lines, each behind filter byte 0; `pixels` must be big-endian."""
    return (b"\0" + row.astype(">u2").tobytes() for row in pixels)


def _raw_png(
    width: int, height: int, rows: Iterable[bytes], *, bit_depth: int, color_type: int
) -> bytes:
    """A PNG from filtered scan lines, for the depths that Pillow does not write."""
    deflate = zlib.compressobj(level=6)
    pixels = b"".join(map(deflate.compress, rows)) + deflate.flush()
    header = struct.pack(">2I5B", width, height, bit_depth, color_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def _icc() -> bytes:
    """An ICC v2 display profile with Adobe RGB (1998)'s primaries (D50) and gamma 2.2."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))

    name = b"Wide gamut test profile\0"
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    description += bytes(-len(description) % 4)
    tags = {
        b"desc": description,
        b"cprt": b"text\0\0\0\0CC0\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": gamma,
        b"gTRC": gamma,
        b"bTRC": gamma,
    }
    table, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, data in tags.items():
        table += key + struct.pack(">2I", offset + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s", offset + len(body), b"\0" * 4, 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    header += struct.pack(">6H", 2025, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)  # the D50 white point
    return header.ljust(128, b"\0") + table + body
