"""How a URI becomes a store, and whether it can carry commits; `objects` says what it is."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from urllib.parse import unquote

from infra.local_store import LocalStore
from infra.objects import (
    AccessDenied,
    BucketNotFound,
    ObjectNotFound,
    Store,
    StoreBusy,
    StoredObject,
    StoreError,
    StoreUnreachable,
    Unsupported,
)
from infra.s3_store import S3Settings, S3Store

__all__ = [
    "AccessDenied",
    "BucketNotFound",
    "LocalStore",
    "ObjectNotFound",
    "S3Settings",
    "S3Store",
    "Store",
    "StoreBusy",
    "StoreError",
    "StoreUnreachable",
    "StoredObject",
    "Unsupported",
    "honours_put_if_absent",
    "join_uri",
    "open_store",
    "read_uri",
    "split_uri",
]


def open_store(uri: str) -> Store:
    """Open a local path, a `file://` URL or an `s3://bucket/prefix`; nothing is touched yet."""
    return S3Store(uri) if uri.startswith("s3://") else LocalStore(_local_path(uri))


def read_uri(uri: str) -> bytes:
    """Return the bytes of one object by its full path or URI."""
    parent, name = split_uri(uri)
    if uri.startswith("s3://"):  # from the bucket down: a stranger's key may hold "//"
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return S3Store(f"s3://{bucket}").get(key)
    return LocalStore(parent).get(name)


def join_uri(parent: str, key: str) -> str:
    """Return the full URI of a key in the store at `parent`."""
    return f"{_local_path(parent).rstrip('/')}/{key}"


def split_uri(uri: str) -> tuple[str, str]:
    """Split an object's URI into the store that holds it and its key there."""
    parent, slash, name = _local_path(uri).rpartition("/")
    if not name or parent == "s3:/":
        raise ValueError(f"an object's URI ends with the object's name; got {uri!r}")
    return parent or ("/" if slash else "."), name


def _local_path(uri: str) -> str:
    """Return a `file://` URL's path; anything else that is local, or on S3, as it is."""
    scheme, separator, rest = uri.partition("://")
    path = unquote(rest.removeprefix("localhost"))
    if not uri or (separator and scheme != "s3" and not (scheme == "file" and path[:1] == "/")):
        raise ValueError(f"a URI is a local path, file:///path or s3://bucket/prefix; got {uri!r}")
    return path if scheme == "file" and separator else uri


def honours_put_if_absent(store: Store, *, num_writers: int = 4, num_rounds: int = 3) -> bool:
    """Whether the store can carry a commit: of writers at the same time, and one later, one wins.

    A probe can only convict: a store may pass by luck, and none fails by accident. Each round
    writes one object under a key of its own and deletes it again.
    """
    with ThreadPoolExecutor(num_writers) as pool:
        return all(_has_one_winner(store, pool, num_writers) for _ in range(num_rounds))


def _has_one_winner(store: Store, pool: ThreadPoolExecutor, num_writers: int) -> bool:
    key = f"probe-{uuid.uuid4().hex}"
    writers = [b"writer %d" % n for n in range(num_writers)]
    try:
        told = [pool.submit(store.put_if_absent, key, data) for data in writers]
        wait(told)
        winners = [data for data, won in zip(writers, told, strict=True) if won.result()]
        return not store.put_if_absent(key, b"too late") and winners == [store.get(key)]
    except Unsupported:
        return False
    finally:
        store.delete(key)
