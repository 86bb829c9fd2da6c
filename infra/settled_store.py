"""How is the first writer of a key known on a store that does not tell?

Such a store ignores `If-None-Match`, refuses it, or has no hard links. Here a writer looks whether
the key is free, writes, waits longer than others need from their look to their write, and looks
again: of writers at the same time the last one is the first. That is as sure as the wait is long,
so only one worker at a time may use such a store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from infra.objects import Link, Store, StoredObject

SETTLE_SECONDS = 1.0
"""Between a write and the look that decides."""


class SettledStore:
    """A store whose `put_if_absent` is settled by a second look; all else is the store's own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.uri = store.uri

    def put_if_absent(self, key: str, data: bytes) -> bool:
        if self._store.find(key) is None:
            self._store.put(key, data)
            time.sleep(SETTLE_SECONDS)
        return self._store.get(key) == data

    def put(self, key: str, data: bytes | Path) -> None:
        self._store.put(key, data)

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self._store.get_range(key, start, length)

    def list(
        self, prefix: str = "", *, max_depth: int | None = None, start_after: str = ""
    ) -> Iterator[StoredObject]:
        return self._store.list(prefix, max_depth=max_depth, start_after=start_after)

    def folders(self, prefix: str = "") -> Iterator[str]:
        return self._store.folders(prefix)

    def find(self, key: str) -> StoredObject | None:
        return self._store.find(key)

    def link(self, key: str) -> Link:
        return self._store.link(key)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def unfinished(self) -> Iterator[StoredObject]:
        return self._store.unfinished()

    def delete_unfinished(self, found: StoredObject) -> None:
        self._store.delete_unfinished(found)

    def now(self) -> datetime:
        return self._store.now()
