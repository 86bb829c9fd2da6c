"""Which of many named files are there, in few requests?

A local file is asked for by itself. On S3 the files of a bucket are found in its listing: of `n`
names it costs no more requests than there are names, and no more than the listing has pages.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from infra.store import (
    Store,
    StoredObject,
    StoreError,
    UriError,
    local_path,
    open_store,
    store_and_key,
)

FEW = 16
"""So many files of one bucket are asked for one by one; a page of a listing is a larger answer."""

PAGE = 1000
"""Objects in one answer of a listing on S3."""


@dataclass(frozen=True)
class NamedFiles:
    """What a look at many names found; other names are asked for one by one.

    Attributes:
        objects: by URI, what is stored under it; None where nothing is.
        folders: by URI without an object, whether other objects lie below it.
    """

    objects: Mapping[str, StoredObject | None]
    folders: Mapping[str, bool]

    def find(self, uri: str) -> StoredObject | None:
        """What is stored under a URI, or None."""
        return self.objects[uri] if uri in self.objects else _find(uri)

    def is_folder(self, uri: str) -> bool:
        """Whether something lies below a URI."""
        return self.folders[uri] if uri in self.folders else _is_folder(uri)


def look_up(uris: Iterable[str]) -> NamedFiles:
    """Looks for many files at once.

    Raises:
        StoreError: a store refuses or does not answer.
    """
    objects: dict[str, StoredObject | None] = {}
    folders: dict[str, bool] = {}
    for store, keys in _by_store(uris):
        objects |= _objects(store, keys)
        missing = {uri: f"{key}/" for uri, key in keys.items() if objects[uri] is None}
        if _is_remote(store) and len(missing) >= FEW:
            firsts = _firsts(store, missing.values())
            folders |= {
                uri: bool((first := firsts[key]) and first.key.startswith(key))
                for uri, key in missing.items()
            }
    return NamedFiles(objects, folders)


def known_objects(uris: Iterable[str]) -> dict[str, StoredObject]:
    """What is stored under those URIs that can be looked up; a store that refuses knows none.

    Raises:
        StoreError: a store does not answer.
    """
    known: dict[str, StoredObject] = {}
    for store, keys in _by_store(uris):
        try:
            found = _objects(store, keys)
        except StoreError as error:
            if error.transient:
                raise
            continue  # whoever reads a file of it hears why
        known |= {uri: one for uri, one in found.items() if one is not None}
    return known


def _by_store(uris: Iterable[str]) -> Iterable[tuple[Store, dict[str, str]]]:
    """The stores of the URIs, each with the keys that are asked for, by URI."""
    stores: dict[str, Store] = {}
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    for uri in dict.fromkeys(uris):
        try:
            store, key = store_and_key(uri)
        except UriError:  # a bucket, or what ends with a slash
            continue
        stores.setdefault(store.uri, store)
        keys[store.uri][uri] = key
    return ((stores[name], of_store) for name, of_store in keys.items())


def _objects(store: Store, keys: Mapping[str, str]) -> dict[str, StoredObject | None]:
    if not _is_remote(store) or len(keys) < FEW:
        return {uri: store.find(key) for uri, key in keys.items()}
    firsts = _firsts(store, keys.values())
    return {
        uri: first if (first := firsts[key]) and first.key == key else None
        for uri, key in keys.items()
    }


def _firsts(store: Store, keys: Iterable[str]) -> dict[str, StoredObject | None]:
    """For each key the first object at or after it, in the order of a listing.

    The listing is read on from key to key; where a page holds none, the next one begins at the key.
    """
    ordered = sorted(set(keys), key=str.encode)
    firsts: dict[str, StoredObject | None] = dict.fromkeys(ordered)
    prefix = os.path.commonprefix(ordered)  # noqa: RUF071 - of keys, letter by letter
    done = 0
    while done < len(ordered):
        num_passed = 0
        for found in store.list(prefix, start_after=_just_before(ordered[done])):
            place = found.key.encode()
            num_passed += 1
            while done < len(ordered) and ordered[done].encode() <= place:
                firsts[ordered[done]] = found
                done += 1
                num_passed = 0
            if done == len(ordered) or num_passed == PAGE:
                break
        else:
            break  # nothing is stored after the last of them
    return firsts


def _just_before(key: str) -> str:
    """A text that sorts before the key, and after every object that does."""
    last = ord(key[-1]) - 1
    return f"{key[:-1]}{chr(last if not 0xD800 <= last < 0xE000 else 0xD7FF)}\U0010ffff"


def _is_remote(store: Store) -> bool:
    return local_path(store.uri) is None


def _find(uri: str) -> StoredObject | None:
    try:
        store, key = store_and_key(uri)
    except UriError:  # a bucket, or what ends with a slash
        return None
    return store.find(key)


def _is_folder(uri: str) -> bool:
    path = local_path(uri)
    if path is not None:
        return os.path.isdir(path)  # noqa: PTH112 - Path's fails on long names
    return any(True for _ in open_store(uri).list())
