"""Which members a tar has, from its headers alone; nothing that a header says is trusted.

A tar is a sequence of members, each a header block and its data, in blocks of 512 bytes; two blocks
of zeros end it. Four formats are read: V7, ustar, pax (a member with records comes before the one
that they describe) and GNU (a member with a long name comes before the one that has it). Python's
own reader loops for ever or fails on some headers (CVE-2024-6232, CVE-2025-8194). Here every number
is checked against the size of the file, and every name and record against a limit, before it is
used.

Reference: POSIX.1-2017, pax, "Extended Description"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

BLOCK = 512
MAX_MEMBERS = 1_000_000
MAX_NAME_BYTES = 1 << 17
MAX_RECORDS_BYTES = 16 << 20
"""All pax records of a member. macOS stores icons in them, so they can be large."""

_OCTAL = re.compile(rb" *([0-7]*) *(?:\0.*)?", re.DOTALL)
_LONG_NAMES = {b"L": "path", b"K": "linkpath"}
_RECORDS = (b"x", b"X")
_SHARED_RECORDS = b"g"
_USED_RECORDS = ("path", "linkpath", "size")
_SPARSE_RECORDS = "GNU.sparse."


class TarDamaged(ValueError):
    """The bytes are no whole tar.

    Attributes:
        reason: what is wrong, as part of a sentence.
        member: the name of the member that is cut off; empty where it is none.
    """

    def __init__(self, reason: str, member: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.member = member


class Kind(StrEnum):
    """What a member is."""

    FILE = "file"
    SPARSE = "sparse file"
    HARD_LINK = "hard link"
    SYMBOLIC_LINK = "symbolic link"
    FOLDER = "folder"
    OTHER = "device, pipe or unknown member"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.SPARSE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMBOLIC_LINK,
    b"5": Kind.FOLDER,
}
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


@dataclass(frozen=True, slots=True)
class TarMember:
    r"""One member of a tar.

    Attributes:
        name: as stored; bytes that are not UTF-8 become escapes such as `\xe9`.
        offset, size: where its data lies in the tar, in bytes.
        target: what a link names.
    """

    name: str
    kind: Kind
    offset: int
    size: int
    target: str = ""


def read_members(file: BinaryIO, num_bytes: int) -> Iterator[TarMember]:
    """Yield the members of a tar in order; afterwards the file's position is the tar's end.

    Args:
        file: seekable; only headers are read.
        num_bytes: the size of the file.

    Raises:
        TarDamaged: a header is wrong, or the tar ends before its two blocks of zeros.
    """
    offset = 0
    records: dict[str, bytes] = {}  # of the next member
    for _ in range(MAX_MEMBERS):
        block = _read(file, offset, BLOCK)
        offset += BLOCK
        if not any(block):
            if records or any(_read(file, offset, BLOCK)):
                raise TarDamaged("it does not end with two blocks of zeros")
            return
        header = _parse_header(block)
        if header.flag in _LONG_NAMES:
            name = _read_data(file, offset, header.size, num_bytes, MAX_NAME_BYTES)
            records.setdefault(_LONG_NAMES[header.flag], name.partition(b"\0")[0])
        elif header.flag in _RECORDS:
            data = _read_data(file, offset, header.size, num_bytes, MAX_RECORDS_BYTES)
            for key, value in _parse_records(data).items():
                records.setdefault(key, value)
        elif header.flag == _SHARED_RECORDS:
            data = _read_data(file, offset, header.size, num_bytes, MAX_RECORDS_BYTES)
            if _parse_records(data):
                raise TarDamaged("it gives all of its members one name or size")
        else:
            if block[482] and header.flag == b"S":
                offset = _end_of_sparse_map(file, offset)
            member = _member(header, records, offset)
            _check_within(member.size, offset, num_bytes, member.name)
            yield member
            offset += _whole_blocks(member.size)
            records = {}
            continue
        offset += _whole_blocks(header.size)
    raise TarDamaged(f"it has more than {MAX_MEMBERS:,} members")


def another_follows(file: BinaryIO) -> bool:
    """Whether another tar follows the end of a tar, which is the file's position.

    Zeros may lie between them; at most a megabyte of zeros is read.
    """
    for _ in range((1 << 20) // BLOCK):
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            return False
        if any(block):
            return _has_checksum(block)
    return False


@dataclass(frozen=True, slots=True)
class _Header:
    flag: bytes
    name: bytes
    target: bytes
    size: int


def _parse_header(block: bytes) -> _Header:
    if not _has_checksum(block):
        raise TarDamaged("a header's checksum is wrong")
    name = _text(block[:100])
    prefix = _text(block[345:500])
    if prefix and block[257:263] == b"ustar\0":  # GNU keeps times there, V7 has no prefix
        name = prefix + b"/" + name
    size = _number(block[124:136])
    if size < 0:
        raise TarDamaged(f"a member has the size {size}")
    return _Header(block[156:157], name, _text(block[157:257]), size)


def _has_checksum(block: bytes) -> bool:
    """Whether a header's checksum is the sum of its bytes, with the checksum's own as spaces.

    Some old programs summed signed bytes.
    """
    field = block[148:156]
    unsigned = sum(block) - sum(field) + 8 * ord(" ")
    try:
        expected = _number(field)
    except TarDamaged:
        return False
    if expected == unsigned:
        return True
    negative = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
    return expected == unsigned - 256 * negative


def _number(field: bytes) -> int:
    """A number in octal digits or, where the first bit is set, in base 256 (two's complement)."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        number = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return number - (1 << bits) if field[0] & 0x40 else number
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise TarDamaged("a header's number is not octal")
    return int(octal[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _parse_records(data: bytes) -> dict[str, bytes]:
    """The records that are used here; a record is `length key=value`, and length is its own.

    Raises:
        TarDamaged: a line's length is not that of the line.
    """
    records: dict[str, bytes] = {}
    start = 0
    while start < len(data) and data[start]:
        space = data.find(b" ", start, start + 12)
        length = data[start:space] if space > start else b""
        end = start + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or data[end - 1 : end] != b"\n" or not equals:
            raise TarDamaged("a pax record's length is wrong")
        name = key.decode(errors="backslashreplace")
        if name in _USED_RECORDS or name.startswith(_SPARSE_RECORDS):
            records[name] = value
        start = end
    return records


def _member(header: _Header, records: Mapping[str, bytes], offset: int) -> TarMember:
    is_folder = header.flag == b"\0" and header.name.endswith(b"/")  # as V7 writes folders
    kind = Kind.FOLDER if is_folder else _KINDS.get(header.flag, Kind.OTHER)
    if kind == Kind.FILE and any(name.startswith(_SPARSE_RECORDS) for name in records):
        kind = Kind.SPARSE
    name = records.get("GNU.sparse.name") or records.get("path") or header.name
    if len(name) > MAX_NAME_BYTES:
        raise TarDamaged(f"a member's name has {len(name):,} bytes")
    size = header.size
    if digits := records.get("size"):
        if not digits.isdigit() or len(digits) > 20:
            raise TarDamaged("a pax record gives a size that is no number")
        size = int(digits)
    has_data = header.flag not in _WITHOUT_DATA and not is_folder
    target = records.get("linkpath") or header.target
    return TarMember(
        name=name.decode(errors="backslashreplace").rstrip("/"),
        kind=kind,
        offset=offset,
        size=size if has_data else 0,
        target=target.decode(errors="backslashreplace"),
    )


def _end_of_sparse_map(file: BinaryIO, offset: int) -> int:
    """Where the data of a sparse file begins, after the blocks that continue its map of holes."""
    while True:
        block = _read(file, offset, BLOCK)
        offset += BLOCK
        if not block[504]:
            return offset


def _read_data(file: BinaryIO, offset: int, size: int, num_bytes: int, most: int) -> bytes:
    _check_within(size, offset, num_bytes)
    if size > most:
        raise TarDamaged(f"a name or its records have {size:,} bytes; {most:,} at most are read")
    return _read(file, offset, size)


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise TarDamaged("it ends before its two blocks of zeros")
    return data


def _check_within(size: int, offset: int, num_bytes: int, member: str = "") -> None:
    left = max(0, num_bytes - offset)
    if size > left:
        raise TarDamaged(f"a member has {size:,} bytes, but {left:,} are left", member)


def _whole_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
