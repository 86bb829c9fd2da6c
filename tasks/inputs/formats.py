"""Which files are taken for pictures or shards, by their names; no bytes are looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
RARER_SUFFIXES = frozenset(
    (
        *(".apng", ".avifs", ".dib", ".j2c", ".j2k", ".jfi", ".jfif", ".jif", ".jp2", ".jpe"),
        *(".jpf", ".jpx", ".mpo", ".pbm", ".pgm", ".pnm", ".tga", ".heic", ".heif", ".hif"),
    )
)
"""Taken only where no file of the same name has one of `IMAGE_SUFFIXES`: these are often masks, or
second copies of a picture. HEIF is not decoded, but files with its suffixes are often JPEG inside.
"""

SHARD_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst"),
    *(".tzst", ".tar.lz4", ".tar.z", ".zip", ".7z", ".rar"),
)
"""Of tars, and of archives that are refused with the program that unpacks them."""


def pictures_among(names: Iterable[str]) -> set[str]:
    """Those of the names of a folder or tar that are taken for pictures; hidden ones are not."""
    shown = {name: PurePosixPath(name) for name in names if not is_hidden(name)}
    usual = {name for name, path in shown.items() if path.suffix.lower() in IMAGE_SUFFIXES}
    twins = {shown[name].with_suffix("") for name in usual}
    rarer = {
        name
        for name, path in shown.items()
        if path.suffix.lower() in RARER_SUFFIXES and path.with_suffix("") not in twins
    }
    return usual | rarer


def has_image_suffix(name: str) -> bool:
    """Whether a name ends like that of a picture."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES | RARER_SUFFIXES


def is_shard(name: str) -> bool:
    """Whether a name ends like that of a tar or another archive."""
    return name.lower().endswith(SHARD_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder above it begins with a dot, or is macOS's record of another."""
    parts = PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part[0] == "." and part != ".") for part in parts)
