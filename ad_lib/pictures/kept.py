"""Which values have been computed already?

Invariant: the values take no more bytes than agreed, and two threads never compute the same one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar


class Sized(Protocol):
    """Something that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        ...


Value = TypeVar("Value", bound=Sized)


class Kept:
    """Values by key; the least recently used ones are removed. Threads may share it.

    Args:
        capacity: bytes that all values may take together.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: OrderedDict[Hashable, Future[Any]] = OrderedDict()
        self._changing = threading.Lock()

    @property
    def nbytes(self) -> int:
        """What is held now."""
        with self._changing:
            return sum(self._sizes().values())

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of a key, computed where it is not known; who asks meanwhile waits for it."""
        with self._changing:
            is_new = key not in self._held
            future = self._held.setdefault(key, Future())
            self._held.move_to_end(key)
        if is_new:
            self._fill(key, future, compute)
        return future.result()

    def _fill(self, key: Hashable, future: Future[Any], compute: Callable[[], Any]) -> None:
        try:
            future.set_result(compute())
        except BaseException as error:
            with self._changing:
                self._held.pop(key, None)
            future.set_exception(error)
        else:
            self._forget()

    def _forget(self) -> None:
        with self._changing:
            sizes = self._sizes()
            total = sum(sizes.values())
            for key, size in sizes.items():
                if total <= self.capacity:
                    return
                del self._held[key]
                total -= size

    def _sizes(self) -> dict[Hashable, int]:
        """The bytes of each computed value, the least recently used first."""
        return {key: held.result().nbytes for key, held in self._held.items() if held.done()}
