"""Which results of another program compete in a study, out of a folder of pictures?

`tasks.inputs.external` says which picture belongs to which case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ad_lib.errors import ImageError
from ad_lib.pictures.decoding import decoded_image
from infra.store import StoreError
from manifests.errors import ManifestError, RunFolderError
from manifests.items import Input, Item, slug
from manifests.job import Source
from manifests.sweep import SweepEntry
from tasks.inputs.external import CaseNames, list_external, matched
from tasks.inputs.sources import read_input
from tasks.results.entries import Entry

ALONE = ("content", "layout", "texture")
"""Roles of which one picture may name a case alone, as in jobs."""

_DIGITS = re.compile(r"-[0-9a-f]{10}$")
"""The digits of an item's id, with which most sample keys end."""


@dataclass(frozen=True)
class OutsideEntry:
    """What another program has made of the cases of an entry of ours.

    Attributes:
        pictures: by case; those that are missing are not there.
        max_pixels: larger pictures are not decoded.
    """

    name: str
    pictures: Mapping[str, Input]
    max_pixels: int

    def is_ok(self, case: str) -> bool:
        """Whether it has a picture of a case."""
        return case in self.pictures

    def picture(self, case: str, size: tuple[int, int]) -> Image.Image:
        """The picture of a case that is ok; a larger one than `size` is scaled down to fit into it.

        Raises:
            RunFolderError: it cannot be read.
        """
        found = self.pictures[case]
        try:
            with decoded_image(read_input(found), max_pixels=self.max_pixels) as picture:
                picture.thumbnail(size, Image.Resampling.LANCZOS)
                return picture
        except (StoreError, ImageError) as error:
            raise RunFolderError(f"{found.full_uri} cannot be shown: {error}") from None


def read_outside(text: str, base: Path, ours: Sequence[Entry]) -> list[tuple[str, OutsideEntry]]:
    """A folder of pictures as a competitor of those entries whose cases it has pictures of.

    Args:
        text: `NAME=FOLDER`.
        base: the folder that a relative path starts from.
        ours: the entries that it may compete with.

    Returns:
        Each with its task.

    Raises:
        ManifestError: it is not written so, or the folder has none of these pictures.
        StoreError: the store refuses or does not answer.
    """
    name, equals, folder = (part.strip() for part in text.partition("="))
    if not (name and equals and folder):
        raise ManifestError(f"--external takes NAME=FOLDER, such as StyTR2=pictures; got {text!r}")
    external = list_external(name, Source(uri=(folder,)), str(base.absolute()))
    images = external.images()
    entries: list[tuple[str, OutsideEntry]] = []
    problem = ""
    for entry in ours:
        names = [case_names(item) for item in entry.items.values()]
        found = dict(zip(entry.items, matched(external, images, names), strict=True))
        problem = problem or next(
            (str(one.problem.message) for one in found.values() if one.problem), ""
        )
        usable = {case: picture for case, picture in found.items() if picture.problem is None}
        if usable:
            entries.append((entry.task, OutsideEntry(name, usable, entry.max_pixels)))
    if not entries:
        raise ManifestError(f"{name!r} has no picture of any case: {problem}")
    return entries


def case_names(item: Item) -> CaseNames:
    """What the picture of an item's case may be called.

    Its own names are the item's key, as it is, without the digits of its id, and without the suffix
    of its entry.
    """
    own = [item.key]
    own += [_DIGITS.sub("", key) for key in own]
    if item.label:
        suffix = f"-{SweepEntry(item.label).suffix}"
        own += [key.removesuffix(suffix) for key in own if key.endswith(suffix)]
    alone = [one.key for one in item.inputs if one.role in ALONE]
    variant = f"-{item.variant}" if item.variant else ""
    loose = [f"{key}{variant}" for name in alone for key in (name, slug(name))]
    return CaseNames(tuple(dict.fromkeys(own)), tuple(dict.fromkeys(loose)))
