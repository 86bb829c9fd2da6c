"""Which store a URI means, and whether a store can carry commits; `objects` says what a store is.

A URI is a local path, `file:///path`, or `s3://bucket/prefix`.
"""

from __future__ import annotations

import os
import re
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import unquote

from infra.local_store import LocalStore
from infra.objects import (
    AccessDenied,
    BucketNotFound,
    Link,
    ObjectNotFound,
    ObjectUnreadable,
    Store,
    StoreBusy,
    StoredObject,
    StoreError,
    StoreUnreachable,
    Unsupported,
    UriError,
    quoted,
)
from infra.settled_store import SettledStore

__all__ = [
    "AccessDenied",
    "BucketNotFound",
    "Link",
    "LocalStore",
    "ObjectNotFound",
    "ObjectUnreadable",
    "SettledStore",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreUnreachable",
    "StoredObject",
    "Unsupported",
    "UriError",
    "honours_put_if_absent",
    "join_uri",
    "local_path",
    "open_store",
    "quoted",
    "read_uri",
    "split_uri",
    "store_and_key",
]

MAX_OBJECT_BYTES = 1 << 30
"""The most that is read as one object: a picture, a table, or a file of prompts."""

_OTHER_PLACE = re.compile(
    r"(?i)[a-z][a-z0-9+.-]*://|(?:file|https?|s3|gs|hf|pipe|data):|[a-z]:[\\/]"
)
"""How a URI of another scheme begins, or a path of Windows."""


def open_store(uri: str) -> Store:
    """Open a local path, a `file://` URL or an `s3://bucket/prefix`; nothing is read yet.

    Raises:
        UriError: it is none of these.
    """
    path = local_path(uri)
    return LocalStore(path) if path is not None else _open_s3(uri)


def read_uri(uri: str, *, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
    """Return the bytes of one object by its full path or URI.

    Raises:
        UriError: no store can hold it.
        ObjectNotFound: it is not there.
        ObjectUnreadable: it is there and cannot be read, or is larger than `max_bytes`.
        StoreError: the store refuses or does not answer.
    """
    store, key = store_and_key(uri)
    data = store.get_range(key, 0, max_bytes + 1)
    if len(data) > max_bytes:
        raise ObjectUnreadable(f"{uri} is larger than the {max_bytes >> 20} MiB that are read")
    return data


def store_and_key(uri: str) -> tuple[Store, str]:
    """Open the store of one object; return it with the object's key there.

    On S3 the store is the whole bucket, as a key of someone else may hold `//`.

    Raises:
        UriError: it names a store, or no store can hold it.
    """
    folder, name = split_uri(uri)
    if local_path(uri) is not None:
        return LocalStore(folder), name
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return _open_s3(f"s3://{bucket}"), key


def join_uri(parent: str, key: str) -> str:
    """Return the full URI of a key in the store at `parent`."""
    path = local_path(parent)
    return f"{(parent if path is None else path).rstrip('/')}/{key}"


def split_uri(uri: str) -> tuple[str, str]:
    """Split an object's URI into the store that holds it and its key there.

    Raises:
        UriError: it names a store, or no store can hold it.
    """
    path = local_path(uri)
    parent, slash, name = (uri if path is None else path).rpartition("/")
    if not name or parent == "s3:/":
        raise UriError(f"an object's URI ends with the object's name; got {quoted(uri)}")
    return parent or ("/" if slash else "."), name


def local_path(uri: str) -> str | None:
    """Return the local path that a URI means, `~` expanded, or None where it is on S3.

    Raises:
        UriError: it is empty, has another scheme, or is text that no path can be.
    """
    if uri.startswith("file://"):
        path = unquote(uri.removeprefix("file://").removeprefix("localhost"))
        if not path.startswith("/"):
            raise _not_ours(uri)
    elif not uri.startswith("s3://") and (not uri or _OTHER_PLACE.match(uri)):
        raise _not_ours(uri)
    else:
        path = uri
    if "\0" in path:
        raise UriError(f"{quoted(uri)} holds a NUL character, which no path can: correct it")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UriError(
            f"{quoted(uri)} is not text that UTF-8 can hold: rename the file or folder"
        ) from None
    if uri.startswith("s3://"):
        return None
    return _with_home(path) if path.startswith("~") else path


def _with_home(path: str) -> str:
    expanded = os.path.expanduser(path)  # noqa: PTH111 - Path's says nothing of the user
    if expanded.startswith("~"):
        raise UriError(
            f"no home folder is known for {quoted(path)}: write the whole path, or ./~… for a name "
            "that begins so"
        )
    return expanded


def _not_ours(uri: str) -> UriError:
    return UriError(f"a URI is a local path, file:///path or s3://bucket/prefix; got {quoted(uri)}")


def _open_s3(uri: str) -> Store:
    from infra.s3_store import S3Store  # boto3 takes a quarter of a second to import

    return S3Store(uri)


def honours_put_if_absent(store: Store, *, num_writers: int = 4, num_rounds: int = 3) -> bool:
    """Whether the store can carry a commit: of writers at the same time, and one later, one wins.

    False proves that it cannot; a store that cannot may still pass by luck. Each round writes one
    object under a key of its own and deletes it again.
    """
    with ThreadPoolExecutor(num_writers) as pool:
        return all(_has_one_winner(store, pool, num_writers) for _ in range(num_rounds))


def _has_one_winner(store: Store, pool: ThreadPoolExecutor, num_writers: int) -> bool:
    key = f"probe-{uuid.uuid4().hex}"
    writers = [b"writer %d" % n for n in range(num_writers)]
    try:
        writes = [pool.submit(store.put_if_absent, key, data) for data in writers]
        wait(writes)
        winners = [data for data, write in zip(writers, writes, strict=True) if write.result()]
        return not store.put_if_absent(key, b"too late") and winners == [store.get(key)]
    except (Unsupported, ObjectNotFound):  # lacks it, or somebody deletes what is written
        return False
    finally:
        store.delete(key)
