"""What does a folder hold that a job could take? Told by names, and columns; no image is read.

Which folder is for which role is told by its name: `content`, `photos` or `images` hold contents,
`paintings` styles, `masks/source` source masks. What no name tells is left to the person, except
where one folder is left for one role.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from infra.store import StoreError, join_uri, local_path, open_store
from manifests.errors import JobError
from tasks.inputs.formats import has_image_suffix, is_hidden, is_shard, pictures_among
from tasks.inputs.run_outputs import run_folders_among
from tasks.inputs.tables import SUFFIXES, table_columns

MAX_LISTED = 100_000
"""Files that are looked at."""

MAX_DEPTH, MAX_FOLDER_DEPTH = 6, 2
"""Files of so many parts are counted, in folders of so many parts."""

ROLE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "content": ("content", "photo", "photograph", "image", "picture", "input"),
        "layout": ("layout", "sketch"),
        "style": ("style", "painting", "artwork", "art"),
        "texture": ("texture", "material"),
        "control": ("control", "depth", "canny", "edge"),
    }
)
"""What folders of a role are called, the surest word first; masks are told by two words."""

_MASK_WORDS = {
    "source_mask": ("source", "texture", "example"),
    "target_mask": ("target", "result", "new"),
}
_GUESSED = ("content", "layout", "style", "texture")
"""Roles that a folder may have whose name says nothing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder of images or of shards, or one file, as a job can name it.

    Attributes:
        path: relative to the folder that was looked at; `.` is that folder.
        glob: what is named below the path where not all of it is meant, such as `*`.
        num_images, num_shards: what it holds; a folder with images is not read for its shards.
        num_direct: images that lie in no folder below it.
    """

    path: str
    glob: str = ""
    num_images: int = 0
    num_shards: int = 0
    num_direct: int = 0

    @property
    def named(self) -> str:
        """How it is named, relative to the folder that was looked at."""
        if not self.glob:
            return self.path
        return self.glob if self.path == "." else f"{self.path}/{self.glob}"

    @property
    def is_file(self) -> bool:
        """Whether it is one picture."""
        return has_image_suffix(self.path)

    def overlaps(self, other: Place) -> bool:
        """Whether something may lie in both."""
        one, two = PurePosixPath(self.path), PurePosixPath(other.path)
        return one == two or (one in two.parents) or (two in one.parents)

    def __str__(self) -> str:
        """How much it holds, such as `12 images`."""
        number, noun = (
            (self.num_images, "image") if self.num_images else (self.num_shards, "tar of images")
        )
        plural = {"image": "images", "tar of images": "tars of images"}[noun]
        return f"1 {noun}" if number == 1 else f"{number:,} {plural}"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What lies in a folder.

    Attributes:
        uri: the folder, or S3 prefix.
        places: with images or shards, those with fewer parts first.
        prompt_files, tables: names of files that may hold prompts, and rows.
        is_partial: whether there is more than was looked at.
    """

    uri: str
    places: tuple[Place, ...]
    prompt_files: tuple[str, ...]
    tables: tuple[str, ...]
    is_partial: bool

    @cached_property
    def by_name(self) -> Mapping[str, Place]:
        """The places whose names tell a role."""
        named = {role: self._named_so(role) for role in (*ROLE_WORDS, *_MASK_WORDS)}
        return {role: place for role, place in named.items() if place is not None}

    @cached_property
    def columns(self) -> Mapping[str, set[str]]:
        """The columns of each table that can be read."""
        found: dict[str, set[str]] = {}
        for name in self.tables:
            with suppress(JobError, StoreError):
                found[name] = table_columns(join_uri(self.uri, name))
        return found

    def sources(self, roles: Sequence[str]) -> dict[str, Place]:
        """The places to take for these roles; roles for which nothing is found are left out."""
        found = {role: self.by_name[role] for role in roles if role in self.by_name}
        missing = [role for role in roles if role not in found]
        left = [place for place in self.places if self._is_free(place, found.values())]
        if len(missing) == 1 and missing[0] in _GUESSED and len(left) == 1:
            found[missing[0]] = left[0]
        return {role: found[role] for role in roles if role in found}

    def _is_free(self, place: Place, taken: Iterable[Place]) -> bool:
        """Whether a place at the top has no role by its name, and shares nothing with others."""
        if place.is_file or "/" in place.path or place in self.by_name.values():
            return False
        if place.path == ".":  # all that lies there by itself
            return True
        return not any(place.overlaps(other) for other in (*taken, *self.by_name.values()))

    def _named_so(self, role: str) -> Place | None:
        """The place whose name tells a role most surely, without what is another role's."""
        ranked = [
            (rank, place.path.count("/"), place.path, place)
            for place in self.places
            if (rank := _rank(role, place.path)) is not None
        ]
        for *_, place in sorted(ranked, key=lambda found: found[:3]):
            below = (one.path for one in self.places if one.path.startswith(f"{place.path}/"))
            if not any(_role_of(path) not in (None, role) for path in below):
                return place
            if place.num_direct:
                return replace(place, glob="*", num_images=place.num_direct)
        return None


def contents_of(uri: str) -> Contents:
    """What a folder or an S3 prefix holds.

    Raises:
        JobError: there is no such folder, or it is a run folder.
        StoreError: the store refuses or does not answer.
    """
    store = open_store(uri)
    path = local_path(uri)
    if path is not None and not Path(path).is_dir():
        raise JobError(f"there is no folder {uri}: check the path")
    listed = list(islice(store.list(max_depth=MAX_DEPTH), MAX_LISTED + 1))
    keys = [one.key for one in listed[:MAX_LISTED] if _is_text(one.key)]
    if path is None and not keys:
        raise JobError(f"nothing lies below {uri}: check the bucket and the prefix")
    runs = run_folders_among(keys)
    if "" in runs:
        raise JobError(f"{uri} is a run folder: name the folder of what goes into a job")
    written = tuple(runs)
    inputs = [
        key for key in keys if not is_hidden(key) and not (written and key.startswith(written))
    ]
    top = [key for key in inputs if "/" not in key]
    return Contents(
        uri=uri.rstrip("/"),
        places=tuple(_places(inputs)),
        prompt_files=tuple(key for key in top if _is_prompt_file(key)),
        tables=tuple(key for key in top if PurePosixPath(key).suffix.lower() in SUFFIXES),
        is_partial=len(listed) > MAX_LISTED,
    )


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_prompt_file(key: str) -> bool:
    return key.lower().endswith(".txt") and "prompt" in key.lower()


def _places(keys: Sequence[str]) -> Iterator[Place]:
    """The folders of images or shards, those of fewer parts first, then files by themselves."""
    below: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        if has_image_suffix(key) or is_shard(key):
            folders = key.split("/")[:-1]
            for depth in range(1, min(len(folders), MAX_FOLDER_DEPTH) + 1):
                below["/".join(folders[:depth])].append(key)
    by_itself = [key for key in keys if "/" not in key]
    yield from _top(by_itself, has_folders=bool(below))
    for path in sorted(below, key=lambda path: (path.count("/"), path)):
        images = pictures_among(below[path])
        if images:
            direct = sum(key.rpartition("/")[0] == path for key in images)
            yield Place(path=path, num_images=len(images), num_direct=direct)
        else:
            yield Place(path=path, num_shards=len(below[path]))


def _top(keys: Sequence[str], *, has_folders: bool) -> Iterator[Place]:
    """What lies in the folder itself: its images, those that are named by a role, and its tars."""
    images = sorted(pictures_among(keys))
    single = [image for image in images if _role_of(PurePosixPath(image).stem)]
    others = [image for image in images if image not in single]
    if others:
        glob = "*" if has_folders or single else ""
        yield Place(path=".", glob=glob, num_images=len(others))
    yield from (Place(path=image, num_images=1) for image in single)
    shards: defaultdict[str, int] = defaultdict(int)
    for key in keys:
        if is_shard(key):
            shards[re.sub(r"[0-9]+(?=\.)", "*", key)] += 1
    for glob, number in sorted(shards.items()):
        yield Place(path=glob, num_shards=number)


def _role_of(path: str) -> str | None:
    """The role that a name tells, if any."""
    roles = (*_MASK_WORDS, *ROLE_WORDS)
    return next((role for role in roles if _rank(role, path) is not None), None)


def _rank(role: str, path: str) -> int | None:
    """How surely a path names a role, 0 is most; None where it does not."""
    parts = PurePosixPath(path).parts
    last = _words(parts[-1]) if parts else []
    if role in _MASK_WORDS:
        words = {word for part in parts for word in _words(part)}
        return 0 if "mask" in words and not words.isdisjoint(_MASK_WORDS[role]) else None
    if "mask" in last:
        return None
    return next((n for n, word in enumerate(ROLE_WORDS[role]) if word in last), None)


def _words(name: str) -> list[str]:
    """The words of a name, in lower case, without a plural's s."""
    stem = re.split(r"\.", name)[0] if has_image_suffix(name) or is_shard(name) else name
    return [word.removesuffix("s") for word in re.findall(r"[a-z]+", stem.lower())]
