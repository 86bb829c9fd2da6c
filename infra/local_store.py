"""A folder as a store: a file appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

from infra.objects import (
    AccessDenied,
    ObjectNotFound,
    StoreBusy,
    StoredObject,
    StoreError,
    StoreUnreachable,
    Unsupported,
    check_key,
    check_range,
)

NUM_TRIES = 4  # at a name that others keep taking and leaving
TEMPORARY = ".stylefarm-{}.tmp"


class LocalStore:
    """A folder; a write reaches the disk under a temporary name beside its own, then takes it."""

    def __init__(self, path: str | Path) -> None:
        self._root = Path(path).expanduser().absolute()
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
                    return self.get(key) == data
        raise StoreBusy(f"{path} comes and goes while it is written: try again")

    def get(self, key: str) -> bytes:
        return self._read(key, 0, -1)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self._read(key, start, length)

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        with _local_errors(self._root):
            yield from _walk(self._root, "", prefix, (self._root.resolve(),))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _local_errors(path):
            if path.is_file():
                path.unlink(missing_ok=True)

    def delete_unfinished(self, older_than: timedelta) -> int:
        num_deleted = 0
        with _local_errors(self._root):
            for path in self._root.rglob(TEMPORARY.format("*")):
                with contextlib.suppress(FileNotFoundError):  # its writer has just finished
                    if path.stat().st_mtime <= time.time() - older_than.total_seconds():
                        path.unlink()
                        num_deleted += 1
        return num_deleted

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _read(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        with _local_errors(path):
            if not path.is_file():
                raise FileNotFoundError
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)

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
            _make_folder(path.parent)
            stack.callback(temporary.unlink, missing_ok=True)
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary


def _walk(folder: Path, name: str, prefix: str, above: tuple[Path, ...]) -> Iterator[StoredObject]:
    """Yield the files below a folder in the order of their keys, as far as the prefix leads."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file: give the folder that holds it") from None
    keys = {name + entry.name + "/" * entry.is_dir(): entry for entry in entries}
    for key, entry in sorted(keys.items()):  # "a-b" before "a/c": a folder sorts with its slash
        if key.endswith("/"):
            real = Path(entry).resolve()
            if real not in above and (key.startswith(prefix) or prefix.startswith(key)):
                yield from _walk(Path(entry), key, prefix, (*above, real))
        elif key.startswith(prefix) and not fnmatch(entry.name, TEMPORARY.format("*")):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a link to nowhere
                found = entry.stat()
                yield StoredObject(
                    key=key,
                    size=found.st_size,
                    etag=f"{found.st_mtime_ns:x}-{found.st_size:x}",
                    modified=datetime.fromtimestamp(found.st_mtime, UTC),
                )


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it so that they outlast a power cut."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


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
        raise ObjectNotFound(f"nothing is stored at {path}: check the name") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        message = f"{path} cannot be written, a file or folder is in its way: choose another name"
        raise StoreError(message) from None
    except OSError as error:
        raise _from_os_error(error, path) from None


def _from_os_error(error: OSError, path: Path) -> StoreError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDenied(f"no permission for {error.filename or path}: check its owner and mode")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no room for {path}: free some, or choose another folder")
    if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
        return StoreUnreachable(f"{path} does not answer ({error.strerror}): check the mount")
    return StoreError(f"{path} cannot be used, choose another place: {error.strerror}")
