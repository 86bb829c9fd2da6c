"""Bytes that are damaged: turned, cut, doubled, overwritten, or made to lie about lengths."""

from __future__ import annotations

import random
import struct

_FORMATS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63)


def damaged(draw: random.Random, data: bytes) -> bytes:
    """The bytes with one to five kinds of damage, often near the beginning."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5))):
        data = draw.choice(_KINDS)(draw, data)
    return data


def _place(draw: random.Random, data: bytes) -> int:
    end = len(data) if draw.random() < 0.5 else min(len(data), 256)
    return draw.randrange(end) if end else 0


def _flip(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[_place(draw, changed)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _number(draw: random.Random, data: bytes) -> bytes:
    kind = draw.choice(_FORMATS)
    size = struct.calcsize(kind)
    number = struct.pack(kind, draw.choice(_NUMBERS) % 256**size)
    place = _place(draw, data)
    return data[:place] + number + data[place + size :]


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: _place(draw, data)]


def _dropped(draw: random.Random, data: bytes) -> bytes:
    place = _place(draw, data)
    return data[:place] + data[place + draw.choice((1, 4, 13, 500)) :]


def _inserted(draw: random.Random, data: bytes) -> bytes:
    place = _place(draw, data)
    return data[:place] + draw.randbytes(draw.choice((1, 4, 13, 500))) + data[place:]


def _doubled(draw: random.Random, data: bytes) -> bytes:
    start, length = _place(draw, data), draw.choice((4, 64, 512, 4096))
    return data[: start + length] + data[start : start + length] + data[start + length :]


def _overwritten(draw: random.Random, data: bytes) -> bytes:
    start, length = _place(draw, data), draw.choice((1, 4, 64, 512))
    filling = draw.choice((b"\0", b"\xff", b"\x80", b"A", b"\n"))
    return data[:start] + filling * length + data[start + length :]


def _continued(draw: random.Random, data: bytes) -> bytes:
    return data + draw.randbytes(draw.choice((1, 100, 5000)))


_KINDS = (_flip, _number, _cut, _dropped, _inserted, _doubled, _overwritten, _continued)
