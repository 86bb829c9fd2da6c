"""Temporary folders of shards that are rendered here, and shards that wait here for their store.

All of a user's lie in one folder that nobody else can read. What is in use has its lock held, so
what a killed process left behind is known, and removed by the next one, whatever its run. A kept
shard (`tasks.work.offer`) is no leftover: it stays until it is committed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tasks.runs.faults import ScratchFull

logger = logging.getLogger(__name__)

_WORK = "work-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that exists as long as the block.

    Raises:
        ScratchFull: it cannot be made.
    """
    with scratch_errors(), _cleaned_home() as home:
        path = Path(tempfile.mkdtemp(prefix=_WORK, dir=home))
        lock = _try_lock(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def scratch_file() -> IO[bytes]:
    """A new temporary file with a name, which goes when it is closed.

    Raises:
        ScratchFull: it cannot be made.
    """
    with scratch_errors(), _cleaned_home() as home:
        file = tempfile.NamedTemporaryFile(prefix=_WORK, dir=home)  # noqa: SIM115 - the caller's
        fcntl.flock(file, fcntl.LOCK_EX)
        return file


def find_leftovers() -> list[Path]:
    """What processes that are gone left behind on this machine, folders and files.

    Raises:
        ScratchFull: the place of all scratch is somebody else's.
    """
    if not (found := find_scratch(_WORK)):
        return []
    with scratch_errors(), _locked(scratch_home() / "lock"):
        return [path for path in found if not _is_in_use(path)]


def find_scratch(prefix: str) -> list[Path]:
    """What lies in the place of all scratch under names that begin so; nothing is made.

    Raises:
        ScratchFull: the place is somebody else's.
    """
    if not _home_path().exists():
        return []
    with scratch_errors():
        return sorted(scratch_home().glob(f"{prefix}*"))


def remove_leftovers() -> None:
    """Removes what `find_leftovers` finds.

    Raises:
        ScratchFull: the place of all scratch is somebody else's.
    """
    with scratch_errors(), _cleaned_home():
        pass


def scratch_home() -> Path:
    """The folder of all of this user's scratch on this machine; only the user can open it.

    Raises:
        ScratchFull: it cannot be made, or is somebody else's.
        OSError: the disk refuses.
    """
    home = _home_path()
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ScratchFull(f"{home} is not a folder that this user alone can open")
    return home


@contextmanager
def in_use(path: Path) -> Iterator[bool]:
    """Holds the lock of a folder or file inside the block; False where it is gone or another's."""
    lock = _try_lock(path)
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


def _home_path() -> Path:
    return Path(tempfile.gettempdir()) / f"stylefarm-{os.getuid()}"


@contextmanager
def _cleaned_home() -> Iterator[Path]:
    """The folder of all scratch without leftovers; what is made in the block has a lock at its end.

    Nobody takes for a leftover what is being made.
    """
    home = scratch_home()
    with _locked(home / "lock"):
        for path in home.glob(f"{_WORK}*"):
            with in_use(path) as is_mine:
                if is_mine:
                    logger.info("removing %s, which a process that is gone left behind", path)
                    _remove(path)
        yield home


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_in_use(path: Path) -> bool:
    with in_use(path) as is_mine:
        return not is_mine


def _try_lock(path: Path) -> int | None:
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
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


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
