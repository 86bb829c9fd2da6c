"""Temporary folders of the shards that this process renders; none is left behind when it stops.

This is a plain imported module because a global in a module of tasks is reset by task runners.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_in_use: set[Path] = set()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that exists as long as the block."""
    folder = TemporaryDirectory(prefix="stylefarm-")
    path = Path(folder.name)
    _in_use.add(path)
    try:
        with folder:
            yield path
    finally:
        _in_use.discard(path)


def is_scratch_in_use() -> bool:
    """Whether a shard is being rendered or committed."""
    return bool(_in_use)


def remove_scratch() -> None:
    """Removes all folders that are still in use; only for a process that is about to end."""
    for path in list(_in_use):
        shutil.rmtree(path, ignore_errors=True)
