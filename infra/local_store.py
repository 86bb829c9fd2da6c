"""A folder as a store: a file is either whole under its name, or not there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import IO

from infra.objects import (
    AccessDenied,
    Link,
    ObjectNotFound,
    ObjectUnreadable,
    StoreBusy,
    StoredObject,
    StoreError,
    StoreUnreachable,
    Unsupported,
    check_key,
    check_range,
    quoted,
)

NUM_TRIES = 4  # to write a key that others create and delete at the same time
MAX_FOLDER_LINKS = 10_000  # followed in one listing: links between folders multiply
LAST_SECOND = 253_402_300_799  # of the year 9999; a file may claim to be from a later one
TEMPORARY = ".stylefarm-{}.tmp"


class LocalStore:
    """A folder. A write goes to a temporary file in the same folder, which is then renamed."""

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path).absolute()
        self.uri = str(self._root)

    def put(self, key: str, data: bytes | Path) -> None:
        path = self._path(key)
        with self._written(path, data) as temporary:
            temporary.replace(path)
            _sync_folder(path.parent)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._written(path, data) as temporary:
            for _ in range(NUM_TRIES):
                with contextlib.suppress(FileExistsError):
                    _link(temporary, path)
                    _sync_folder(path.parent)
                    return True
                with contextlib.suppress(ObjectNotFound):  # deleted meanwhile: link again
                    is_ours = self.get(key) == data
                    _sync_folder(path.parent)  # its writer may have died before it did so
                    return is_ours
        raise StoreBusy(f"{path} comes and goes while it is written: try again")

    def get(self, key: str) -> bytes:
        return self._read(key, 0, -1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self._read(key, start, length)

    def list(
        self, prefix: str = "", *, max_depth: int | None = None, start_after: str = ""
    ) -> Iterator[StoredObject]:
        with _local_errors(self._root):
            for found in _walk(self._root, prefix, max_depth):
                if found.key > start_after:
                    yield found

    def folders(self, prefix: str = "") -> Iterator[str]:
        with _local_errors(self._root):
            for key, _ in _entries(self._root, ""):
                if key.startswith(prefix) and key.endswith("/"):
                    yield key.removesuffix("/")

    def find(self, key: str) -> StoredObject | None:
        path = self._path(key)
        try:
            return None if path.is_dir() else _stored(path, key)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                return None
            raise _unreadable(error, path) from None

    def link(self, key: str) -> Link:
        return Link(url=self._path(key).as_uri())

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors(path):
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
                _remove_if_empty(path.parent, self._root)

    def unfinished(self) -> Iterator[StoredObject]:
        for folder, _, names in os.walk(self._root):
            for name in sorted(names):
                if fnmatch(name, TEMPORARY.format("*")) and _is_left(path := Path(folder) / name):
                    with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                        yield _stored(path, path.relative_to(self._root).as_posix())

    def delete_unfinished(self, found: StoredObject) -> None:
        path = self._path(found.key)
        with _local_errors(path), _locked(path) as is_ours:
            if is_ours:
                path.unlink(missing_ok=True)
                _remove_if_empty(path.parent, self._root)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _read(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        try:
            kind = path.stat().st_mode
            if stat.S_ISDIR(kind):
                raise FileNotFoundError
            if not stat.S_ISREG(kind):  # opening a pipe would wait for its writer
                message = f"{path} is a device, a pipe or a socket: give a regular file"
                raise ObjectUnreadable(message)
            with path.open("rb") as file:  # another one by now, where it was written meanwhile
                file.seek(start)
                left = max(0, os.fstat(file.fileno()).st_size - start)
                return file.read(left if length < 0 else min(length, left))
        except FileNotFoundError:
            raise _not_found(path) from None
        except OSError as error:
            raise _unreadable(error, path) from None

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes | Path) -> Iterator[Path]:
        """Give a file with these bytes, on disk, in the folder of `path`; it is gone afterwards."""
        temporary = path.with_name(TEMPORARY.format(uuid.uuid4().hex))
        with contextlib.ExitStack() as stack:
            source = data.open("rb") if isinstance(data, Path) else BytesIO(data)
            stack.enter_context(source)
            stack.enter_context(_local_errors(path))
            if path.is_dir():
                raise IsADirectoryError
            stack.callback(temporary.unlink, missing_ok=True)
            file = stack.enter_context(_new_file(temporary))
            shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            yield temporary


def _walk(root: Path, prefix: str, max_depth: int | None) -> Iterator[StoredObject]:
    """Yield the files below a folder in the order of their keys, as far as the prefix leads.

    A link to a folder is followed unless it leads back to a folder above itself.
    """
    num_links = 0
    open_folders = [(_identity(root), _entries(root, ""))]  # from the root down to this one
    above = {open_folders[0][0]}
    while open_folders:
        identity, entries = open_folders[-1]
        key, entry = next(entries, ("", None))
        if entry is None:
            above.discard(identity)
            open_folders.pop()
        elif not key.endswith("/"):
            if key.startswith(prefix) and not fnmatch(entry.name, TEMPORARY.format("*")):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    yield _stored(Path(entry), key)
        elif (key.startswith(prefix) or prefix.startswith(key)) and (
            max_depth is None or key.count("/") < max_depth
        ):
            num_links += entry.is_symlink()
            if num_links > MAX_FOLDER_LINKS:
                message = f"{root} holds more than {MAX_FOLDER_LINKS} links to folders"
                raise StoreError(f"{message}: give a folder with fewer")
            identity = _identity(Path(entry))
            if identity not in above:
                above.add(identity)
                open_folders.append((identity, _entries(Path(entry), key)))


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is under all of its names."""
    try:
        found = folder.stat()
    except FileNotFoundError:  # its listing will say so
        return (0, 0)
    return found.st_dev, found.st_ino


def _entries(folder: Path, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Give what a folder holds by key, in order; the key of a folder ends with a slash."""
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except FileNotFoundError:
        return iter(())
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file: give the folder that holds it") from None
    keys = {name + entry.name + "/" * _is_folder(entry): entry for entry in entries}
    return iter(sorted(keys.items()))  # "a-b" before "a/c": a folder sorts with its slash


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it says what is wrong
        return False


def _stored(path: Path, key: str) -> StoredObject:
    try:
        found = path.stat()
    except OSError:
        found = path.lstat()
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return StoredObject(
        key=key,
        size=size,
        etag=f"{found.st_mtime_ns:x}-{size:x}",
        modified=datetime.fromtimestamp(min(found.st_mtime, LAST_SECOND), UTC),
    )


def _new_file(path: Path) -> IO[bytes]:
    """Open a new temporary file, locked as long as it is open: its writer is seen to be alive."""
    for _ in range(NUM_TRIES):
        _make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):  # the folder was empty and has just gone
            file = path.open("xb")
            with contextlib.suppress(OSError):  # a filesystem without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else it was taken for a dead writer's just now
                return file
            file.close()
    raise StoreBusy(f"{path.parent} comes and goes while it is written to: try again")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a temporary file's lock; False where its writer is alive or done, or nobody can tell."""
    number = _try_lock(path)
    try:
        yield number is not None
    finally:
        if number is not None:
            os.close(number)


def _try_lock(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number
        os.close(number)
    return None


def _is_left(temporary: Path) -> bool:
    with _locked(temporary) as is_ours:
        return is_ours


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync them, so that they survive a power cut."""
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _remove_if_empty(folder: Path, root: Path) -> None:
    """Remove a folder inside one of the store's folders once nothing is left in it, as on S3."""
    if root in folder.parent.parents:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        message = f"{target} needs a filesystem with hard links: choose another folder"
        raise Unsupported(message) from None


@contextlib.contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise _not_found(path) from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        message = f"{path} cannot be written, a file or folder is in its way: choose another name"
        raise StoreError(message) from None
    except OSError as error:
        raise _from_os_error(error, path) from None


def _not_found(path: Path) -> ObjectNotFound:
    try:
        target = path.readlink()
    except OSError:
        return ObjectNotFound(f"{path} is not there: check the name")
    return ObjectNotFound(f"{path} is a link to {target}, which is not there: restore or remove it")


def _unreadable(error: OSError, path: Path) -> StoreError:
    """Tell what keeps one file from being read, apart from faults of the disk or the mount."""
    if isinstance(error, PermissionError):
        return ObjectUnreadable(f"no permission to read {path}: check its owner and mode")
    if isinstance(error, NotADirectoryError):
        return ObjectNotFound(f"{path} leads through a file: check the path")
    if error.errno in (errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EINVAL):
        name = quoted(str(path))
        return ObjectUnreadable(f"{name} cannot be read ({error.strerror}): correct its name")
    return _from_os_error(error, path)


def _from_os_error(error: OSError, path: Path) -> StoreError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDenied(f"no permission for {error.filename or path}: check its owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no room for {path}: free some, or choose another folder")
    if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        return StoreUnreachable(f"{path} does not answer ({error.strerror}): check the mount")
    return StoreError(f"{path} cannot be used, choose another place: {error.strerror}")
