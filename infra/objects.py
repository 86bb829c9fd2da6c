"""How bytes get to where a run folder or an input lives: a local folder or a prefix on S3.

The one invariant: a key holds nothing, or one writer's bytes, whole. A commit rests on
`put_if_absent`: of all writers of a key, those whose bytes are stored hear True, all others False,
whatever became of the answers on the way. As an object cannot say who wrote it, equal bytes count
as ours; a commit therefore carries an id of its attempt.

Every error is one sentence that names the place and the way out, and `transient` says whether
trying later can help:

    StoreError
    ├── ObjectNotFound       nothing is stored under this key
    ├── BucketNotFound
    ├── AccessDenied         no credentials, refused ones, or too few rights
    ├── Unsupported          the store lacks something that we need, such as conditional writes
    ├── StoreBusy            transient: it answers, but not with what was asked, after all retries
    └── StoreUnreachable     transient: it does not answer, or breaks off

A key that could leave its folder is a ValueError; a source file that does not exist is an ordinary
FileNotFoundError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """A store did not do what was asked; see the module for the kinds."""

    transient = False


class ObjectNotFound(StoreError):
    """Nothing is stored under this key."""


class BucketNotFound(StoreError):
    """The bucket does not exist."""


class AccessDenied(StoreError):
    """Credentials are missing, refused, or not enough."""


class Unsupported(StoreError):
    """The store lacks something that we need."""


class StoreBusy(StoreError):
    """The store answers, but not with what was asked."""

    transient = True


class StoreUnreachable(StoreError):
    """The store does not answer, or breaks off."""

    transient = True


class AlreadyThere(StoreError):
    """A conditional write was refused; caught inside the stores."""


class BeyondEnd(StoreError):
    """A range begins where the object has ended; caught inside the stores."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One line of a listing; `key` is relative to the store, `etag` changes when the bytes do."""

    key: str
    size: int
    etag: str
    modified: datetime


class Store(Protocol):
    """Keys and bytes under one URI. Keys are relative paths with "/", on every store."""

    uri: str
    """"s3://bucket/prefix", or an absolute local path."""

    def put(self, key: str, data: bytes | Path) -> None:
        """Store bytes, or stream a local file, in place of what was there: whole or not at all."""
        ...

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store bytes unless the key is taken; True if and only if it then holds these bytes."""
        ...

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `get(key)[start : start + length]` without fetching the rest."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """Yield all objects whose key begins with the prefix, in the order of their keys' UTF-8."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is fine."""
        ...

    def delete_unfinished(self, older_than: timedelta) -> int:
        """Remove what killed writers left half-written, which no listing shows; return how many."""
        ...


def check_key(key: str) -> None:
    """Refuse a key that could leave its store."""
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise ValueError(f"a key is a relative path without empty, '.' or '..' parts; got {key!r}")


def check_range(start: int, length: int) -> None:
    """Refuse a range that no object could have."""
    if start < 0 or length < 0:
        raise ValueError(f"start and length count bytes from 0; got {start} and {length}")
