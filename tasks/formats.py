"""Which files are taken for pictures, by their names."""

from __future__ import annotations

from pathlib import PurePosixPath

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def is_image(key: str) -> bool:
    """Whether a file or tar member of that name is a picture; hidden ones are not."""
    path = PurePosixPath(key)
    hidden = any(part.startswith(".") and part != "." for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden
