"""What a store of bytes is: keys under one URI, in a local folder or under a prefix on S3.

The one invariant: under a key there is nothing, or the whole bytes of one writer. Commits rest on
`put_if_absent`: of all writers of a key, the one whose bytes are stored gets True, all others get
False, even where an answer of the server was lost. An object cannot say who wrote it, so equal
bytes count as ours; therefore a commit carries the id of its attempt.

Every error is one sentence that names the place and the way out. `transient` says whether the same
call can succeed later:

    StoreError
    ├── UriError (also a ValueError)  a URI or path that no store can hold
    ├── ObjectNotFound                nothing is stored under this key
    ├── ObjectUnreadable              it is there, but this one object cannot be read
    ├── BucketNotFound
    ├── AccessDenied                  no credentials, refused credentials, or too few rights
    ├── Unsupported                   the store lacks what we need, such as conditional writes
    ├── StoreBusy                     transient: it answers, but refuses, after all retries
    └── StoreUnreachable              transient: it does not answer, or the connection breaks

A key that could leave its folder is a ValueError; a source file that does not exist is an ordinary
FileNotFoundError.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


class StoreError(Exception):
    """A store did not do what was asked; see the module for the kinds."""

    transient = False


class UriError(StoreError, ValueError):
    """A URI or path that no store can hold; the message names it and says what is possible."""


class ObjectNotFound(StoreError):
    """Nothing is stored under this key."""


class ObjectUnreadable(StoreError):
    """This one object cannot be read: it is no regular file, too large, or locked away."""


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
    """A conditional write was refused. Only raised and caught inside the stores."""


class BeyondEnd(StoreError):
    """A range begins after the object's end. Only raised and caught inside the stores."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One line of a listing.

    Attributes:
        key: relative to the store.
        size: bytes; 0 for what has none, such as a link whose target is missing.
        etag: changes when the bytes change.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link to one object, for a browser.

    Attributes:
        url: `https://…` with a signature that lets whoever has it read this object, or `file://…`.
        expires: until when it works at most; None where it does not expire.
        is_sure: whether it works until then; else it is signed with temporary credentials whose own
            end is not known, and ends with them.
    """

    url: str
    expires: datetime | None = None
    is_sure: bool = True


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

    def list(
        self, prefix: str = "", *, max_depth: int | None = None, start_after: str = ""
    ) -> Iterator[StoredObject]:
        """Yield all objects whose key begins with the prefix, in the order of their keys' UTF-8.

        A local link whose target is missing, a device or a pipe is listed too; reading it fails.

        Args:
            prefix: the beginning of the keys.
            max_depth: leave out keys of more parts than this; `a/b.png` has two parts.
            start_after: leave out keys that sort before this one, and this one.
        """
        ...

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of the folders at the top of the store that begin with the prefix."""
        ...

    def find(self, key: str) -> StoredObject | None:
        """Return what a listing says of this key, or None where nothing is stored under it."""
        ...

    def link(self, key: str) -> Link:
        """Return a link that a browser shows; as long-lived as can be. Nothing is looked up."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is absent is fine."""
        ...

    def unfinished(self) -> Iterator[StoredObject]:
        """Yield the writes that are not finished, which no listing shows.

        Locally these are the temporary files of writers that are gone. S3 cannot tell whether a
        writer is gone: there a key is what an upload would become, and `etag` is the upload's.
        """
        ...

    def delete_unfinished(self, found: StoredObject) -> None:
        """Remove an unfinished write; its writer, if it is alive, begins again."""
        ...

    def now(self) -> datetime:
        """Return the time by the clock that `StoredObject.modified` is told by, rounded up."""
        ...


def check_key(key: str) -> None:
    """Raise ValueError for a key that could leave its store."""
    if any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        message = "a key is a relative path without empty, '.' or '..' parts"
        raise ValueError(f"{message}; got {quoted(key)}")


def check_range(start: int, length: int) -> None:
    """Raise ValueError for a range that no object can have."""
    if start < 0 or length < 0:
        raise ValueError(f"start and length count bytes from 0; got {start} and {length}")


def quoted(text: str) -> str:
    """Return the text in quotes, with escapes for control characters; a long one is shortened.

    What stands before the `@` of a URI, and in its query, may be a password: it is left out.
    """
    return _QUOTING.repr(_QUERY.sub(r"\1***", _USER.sub("***", text)))


_USER = re.compile(r"(?<=://)[^/\s@:]*(?::(?![0-9]{1,5}/)\S{0,300})?(?=@)")
_QUERY = re.compile(r"(://[^\s?]*\?)\S+")


_QUOTING = reprlib.Repr()
_QUOTING.maxstring = 300
