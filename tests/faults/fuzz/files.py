"""What lies in a folder, to see afterwards what has changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

State = dict[str, list[object]]
"""By path below the folder: kind, size, time of the last change, and where a link points."""


def state_of(folder: Path) -> State:
    """Everything below a folder; links are not followed."""
    return dict(sorted(_entries(str(folder), "")))


def _entries(folder: str, below: str) -> Iterator[tuple[str, list[object]]]:
    for entry in os.scandir(os.path.join(folder, below)):  # noqa: PTH118 - names need not be text
        name = os.path.join(below, entry.name)  # noqa: PTH118
        found = entry.stat(follow_symlinks=False)
        target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115
        is_folder = stat.S_ISDIR(found.st_mode)
        changed = 0 if is_folder else found.st_mtime_ns
        yield name, [stat.S_IFMT(found.st_mode), 0 if is_folder else found.st_size, changed, target]
        if is_folder:
            yield from _entries(folder, name)


def changed_outside(before: State, after: State, may_write: tuple[str, ...]) -> list[str]:
    """The paths that came, went or changed, and lie below none of `may_write`."""
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return [
        name
        for name in changed
        if not any(name == one or name.startswith(f"{one}/") for one in may_write)
    ]
