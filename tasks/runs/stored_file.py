"""A stored object as a seekable file, for readers that need one."""

from __future__ import annotations

import io
from typing import Any

from infra.store import Store

_BLOCK = 8 << 20


def open_stored(store: Store, key: str, size: int) -> io.BufferedReader:
    """An object of that size in bytes, fetched in ranges as it is read."""
    return io.BufferedReader(_StoredFile(store, key, size), _BLOCK)


class _StoredFile(io.RawIOBase):
    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self._size, self._position = store, key, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._store.get_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
