"""Temporary folders of shards that are rendered here, and shards that wait here for their store.

All of a user's lie in one folder that nobody else can read. A folder is in use as long as its lock
is held, so what a killed process left behind is known, and removed by the next one. A kept shard
(`tasks/offer.py`) is no leftover: it stays until it is committed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tasks.faults import ScratchFull

logger = logging.getLogger(__name__)

_WORK = "work-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that exists as long as the block.

    Raises:
        ScratchFull: it cannot be made.
    """
    with scratch_errors():
        home = scratch_home()
        with _locked(home / "lock"):
            _remove_leftovers(home)
            path = Path(tempfile.mkdtemp(prefix=_WORK, dir=home))
            lock = _try_lock(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def scratch_home() -> Path:
    """The folder of all of this user's scratch on this machine; only the user can open it.

    Raises:
        ScratchFull: it cannot be made, or is somebody else's.
        OSError: the disk refuses.
    """
    home = Path(tempfile.gettempdir()) / f"stylefarm-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ScratchFull(f"{home} is not a folder that this user alone can open")
    return home


@contextmanager
def in_use(folder: Path) -> Iterator[bool]:
    """Holds a folder's lock inside the block; False where it is gone or another process has it."""
    lock = _try_lock(folder)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Tells in one sentence what keeps the temporary folder from being written inside the block."""
    try:
        yield
    except OSError as error:
        place = error.filename or tempfile.gettempdir()
        raise ScratchFull(f"{place} cannot be written ({error.strerror})") from error


def _remove_leftovers(home: Path) -> None:
    """Removes the working folders of processes that are gone."""
    for path in home.glob(f"{_WORK}*"):
        with in_use(path) as is_mine:
            if is_mine:
                logger.info("removing %s, which a process that is gone left behind", path)
                shutil.rmtree(path, ignore_errors=True)


def _try_lock(folder: Path) -> int | None:
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        os.close(number)
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock that is held for moments only."""
    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)
