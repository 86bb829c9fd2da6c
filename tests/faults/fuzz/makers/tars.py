"""Tars: headers that lie about sizes, names of any bytes, PAX records, links, compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import struct
import tarfile
from pathlib import Path
from typing import Any

from tests.faults.fuzz import sound, words
from tests.faults.fuzz.cases import Case, run_command
from tests.faults.fuzz.damage import damaged

BLOCK = 512
ENDING = bytes(2 * BLOCK)


def damaged_bytes(draw: random.Random, folder: Path) -> Case:
    """A sound tar in any of the three formats, with damage."""
    kind = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    names = [draw.choice(("x", "é", "n" * 120, "d/" * 60 + "y")) + f"{n}.png" for n in range(3)]
    try:
        data = sound.tar_bytes({name: sound.image_bytes() for name in names}, format=kind)
    except ValueError:  # a name that USTAR does not hold
        data = sound.tar_bytes({"a.png": sound.image_bytes()})
    return _case(draw, folder, damaged(draw, data), "a damaged tar")


def header_fields(draw: random.Random, folder: Path) -> Case:
    """Sound members around one whose header has fields at their edges."""
    hostile = b"".join(_hostile_member(draw) for _ in range(draw.choice((1, 1, 2, 4))))
    first, last = _member("a.png", sound.image_bytes()), _member("b.png", sound.image_bytes(seed=1))
    parts = [first, hostile, last] if draw.random() < 0.6 else [hostile, first, last]
    ending = draw.choice((ENDING, ENDING, ENDING + bytes(8192), bytes(BLOCK), b"", bytes(100)))
    return _case(draw, folder, b"".join(parts) + ending, "odd header fields")


def long_names(draw: random.Random, folder: Path) -> Case:
    """GNU long names, and PAX headers with records of every wrong form."""
    if draw.random() < 0.4:
        body = draw.choice(
            (b"x" * 5000 + b".png\0", b"", b"\0", b"\xff" * 600, b"../" * 90 + b"s.png\0")
        )
        size = draw.choice((len(body), len(body), 0, 2**62, -1, 10**9, 2**33))
        odd = _member("././@LongLink", body, typeflag=draw.choice((b"L", b"K")), size=size)
    else:
        body = b"".join(_pax_record(draw) for _ in range(draw.choice((1, 2, 5))))
        size = draw.choice((len(body), len(body), len(body), 2**40, -1, 1))
        odd = _member("PaxHeader/x", body, typeflag=draw.choice((b"x", b"g", b"X")), size=size)
    named = _member("b.png", sound.image_bytes(seed=1))
    data = _member("a.png", sound.image_bytes()) + odd + named + ENDING
    return _case(draw, folder, data, "odd long names or PAX records")


def links(draw: random.Random, folder: Path) -> Case:
    """Links inside tars: to members, to themselves, to one another, and out of the tar."""
    targets = (
        "a.png",
        "./a.png",
        "gone.png",
        "l0.png",
        "l1.png",
        "../../secret.png",
        "/etc/passwd",
        "",
    )
    data = _member("a.png", sound.image_bytes())
    for number in range(draw.choice((1, 2, 5))):
        kind = draw.choice((b"1", b"2", b"2"))
        size = draw.choice((0, 0, 0, 512, 2**40))
        target = draw.choice(targets).encode()
        data += _member(f"l{number}.png", b"", typeflag=kind, size=size, linkname=target)
    return _case(draw, folder, data + _member("z.png", sound.image_bytes(seed=2)) + ENDING, "links")


def odd_members(draw: random.Random, folder: Path) -> Case:
    """Names that stand twice, folders named like pictures, devices, sparse and empty members."""
    data = _member("a.png", sound.image_bytes())
    for _ in range(draw.choice((1, 3))):
        name = draw.choice(
            ("a.png", "./a.png", "x.png", "d/", "x.png/", "é.png", ".x.png", "..", "A.PNG")
        )
        flag = draw.choice((b"0", b"\0", b"3", b"4", b"5", b"6", b"7", b"S", b"D", b"V", b"\xff"))
        data += _member(name, draw.choice((b"", sound.image_bytes(seed=1))), typeflag=flag)
    return _case(draw, folder, data + ENDING, "odd members")


def compressed(draw: random.Random, folder: Path) -> Case:
    """Compressed tars under either name, bombs among them."""
    data = sound.tar_bytes({"a.png": sound.image_bytes(), "b.png": sound.image_bytes(seed=1)})
    if draw.random() < 0.2:
        data = data[:-1024] + bytes(10**8)
    squeeze = draw.choice((gzip.compress, bz2.compress, lzma.compress))
    name = draw.choice(
        ("s.tar", "s.tar.gz", "s.tgz", "s.tar.bz2", "s.tar.xz", "s.tar.zst", "s.TAR")
    )
    squeezed = squeeze(data)
    squeezed = damaged(draw, squeezed) if draw.random() < 0.3 else squeezed
    return _case(draw, folder, squeezed, "a compressed tar", name)


def no_tars(draw: random.Random, folder: Path) -> Case:
    """Files that are called tars and are none."""
    data = draw.choice(
        (b"", bytes(511), bytes(BLOCK), ENDING, bytes(10240), b"x" * 5000, b"PK\x03\x04")
    )
    return _case(draw, folder, data, "no tar")


MAKERS = (
    damaged_bytes,
    header_fields,
    header_fields,
    long_names,
    links,
    odd_members,
    compressed,
    no_tars,
)


def _case(draw: random.Random, folder: Path, data: bytes, told: str, name: str = "s.tar") -> Case:
    sound.write_style_transfer(folder, "ab", inputs__content=["content", name])
    if draw.random() < 0.5:
        sound.write_job(folder, sound.job(inputs__content=name))
    (folder / name).write_bytes(data)
    return Case(told=told, **run_command(draw))


def _hostile_member(draw: random.Random) -> bytes:
    fields: dict[str, Any] = {
        "mode": draw.choice((b"0000644\0", b"\xff" * 8, b"abcdefgh", b"", b"-0000001")),
        "uid": draw.choice((b"0000000\0", b"\x80" + b"\xff" * 7, b"\xff" * 8, b"        ")),
        "mtime": draw.choice((b"00000000000\0", b"\xff" * 12, b"77777777777 ", b"99999999999\0")),
        "typeflag": draw.choice(
            (b"0", b"0", b"\0", b"5", b"7", b"L", b"x", b"S", bytes([draw.randrange(256)]))
        ),
        "magic": draw.choice((b"ustar\x0000", b"ustar  \0", bytes(8), b"\xff" * 8)),
        "prefix": draw.choice((b"", b"", b"p" * 155, b"../../..", b"\xff" * 155, b"\0x")),
    }
    size = draw.choice((0, 100, 100, -1, -512, -1024, 2**33, 2**62, 2**63 - 1, 2**64, 2**70, 2**88))
    raw_size = draw.choice(
        (
            None,
            None,
            b"abc",
            b"0x10",
            b"-1",
            b"\xff" * 12,
            b"           \0",
            b"1_0",
            b"777777777777",
        )
    )
    name = draw.choice(
        (b"x.png", b"x.png", b"", b"\xff\xfe.png", b"n" * 100, b"../x.png", b"/x.png", b"a\nb.png")
    )
    return _member(name, draw.randbytes(100), size=size, raw_size=raw_size, **fields)


def _pax_record(draw: random.Random) -> bytes:
    key = draw.choice(
        (
            *(
                b"path",
                b"linkpath",
                b"size",
                b"mtime",
                b"uid",
                b"hdrcharset",
                b"comment",
                b"",
                b"=",
            ),
            *(b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size", b"GNU.sparse.numblocks"),
            *(b"GNU.sparse.realsize", b"GNU.sparse.name", b"GNU.sparse.minor", b"SCHILY.xattr.x"),
        )
    )
    content = draw.choice(
        (
            *(
                b"../../secret.png",
                b"x.png",
                b"-1",
                b"99999999999999999999",
                b"abc",
                b"nan",
                b"inf",
            ),
            *(
                b"BINARY",
                b"\xff\xfe",
                b"",
                b"\0",
                b"1",
                b"0",
                b"1,2,3",
                b"1e400",
                b"a\nb",
                b"1" * 5000,
            ),
        )
    )
    if draw.random() < 0.1:
        content = words.text(draw).encode("utf-8", "surrogatepass")
    body = b" " + key + b"=" + content + b"\n"
    length = len(body) + 1
    while length != len(body) + len(str(length)):
        length += 1
    told = draw.choice(
        (str(length).encode(),) * 5 + (b"0", b"-5", b"99999999999", b"", b"1" * 5000, b"x")
    )
    return told + body


def _member(
    name: str | bytes,
    data: bytes,
    *,
    size: int | None = None,
    raw_size: bytes | None = None,
    typeflag: bytes = b"0",
    linkname: bytes = b"",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    mtime: bytes = b"00000000000\0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """A header with those very fields and the right checksum, and the data in whole blocks."""
    told = name.encode() if isinstance(name, str) else name
    amount = len(data) if size is None else size
    header = b"".join(
        (
            *(told[:100].ljust(100, b"\0"), mode[:8].ljust(8, b"\0"), uid[:8].ljust(8, b"\0")),
            *(b"0000000\0", (raw_size or _number(amount))[:12].ljust(12, b"\0")),
            *(
                mtime[:12].ljust(12, b"\0"),
                b" " * 8,
                typeflag[:1],
                linkname[:100].ljust(100, b"\0"),
            ),
            *(magic[:8].ljust(8, b"\0"), bytes(64), bytes(16), prefix[:155].ljust(155, b"\0")),
        )
    ).ljust(BLOCK, b"\0")
    checksum = f"{sum(header):06o}\0 ".encode()
    header = header[:148] + checksum + header[156:]
    return header + data + bytes(-len(data) % BLOCK)


def _number(amount: int) -> bytes:
    """A number as tars write it: octal, or binary where octal has no room."""
    if 0 <= amount < 8**11:
        return f"{amount:011o}\0".encode()
    first = b"\x80" if amount >= 0 else b"\xff"
    low = amount % 256**11
    return first + struct.pack(">3sQ", (low >> 64).to_bytes(3, "big"), low % 2**64)
