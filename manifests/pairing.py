"""Which inputs go together: zip by key, product, or a seeded random choice.

A source mask belongs to its texture: it is not paired, but joins the texture that has its key.
The order in which images are listed changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from manifests.errors import JobError
from manifests.items import REFERENCE_ROLES, Input
from manifests.job import Pairing
from manifests.limits import MAX_COMPARISONS, MAX_ITEMS

Places = npt.NDArray[np.int32]
"""Numbers of images within their sources."""

Combination = tuple[Input, ...]
"""The inputs of one item, by role in the order of the roles."""


def count_pairs(sources: Mapping[str, Sequence[Input]], pairing: Pairing) -> int:
    """How many combinations `pair` gives, without making them."""
    if pairing.mode == "zip":
        return max(map(len, sources.values()), default=0)
    if pairing.mode == "random":
        drawing = [inputs for role, inputs in sources.items() if role not in REFERENCE_ROLES]
        return len(drawing[0]) * pairing.styles_per_content if drawing else 0
    return prod(map(len, sources.values()))


def pair(
    sources: Mapping[str, Sequence[Input]],
    pairing: Pairing,
    numbers: Sequence[int] | None = None,
) -> list[Combination]:
    """Every combination of inputs that the job asks for, in key order.

    Args:
        sources: the images of each role, in any order.
        pairing: how they are combined.
        numbers: only the combinations in these places, from 0.

    Raises:
        JobError: as `pair_places` does.
    """
    ordered = in_key_order(sources)
    roles = list(ordered.values())
    rows: list[list[int]] = pair_places(ordered, pairing, numbers).tolist()
    return [
        tuple(inputs[place] for inputs, place in zip(roles, places, strict=True)) for places in rows
    ]


def in_key_order(sources: Mapping[str, Sequence[Input]]) -> dict[str, list[Input]]:
    """The images of each role, sorted by key.

    Raises:
        JobError: a source is empty, or a key stands twice in one source.
    """
    for role, inputs in sources.items():
        if not inputs:
            raise JobError(f"the {role} source holds no images: check its uri")
        _refuse_duplicates(role, inputs)
    return {role: sorted(inputs, key=lambda found: found.key) for role, inputs in sources.items()}


def pair_places(
    sources: Mapping[str, Sequence[Input]],
    pairing: Pairing,
    numbers: Sequence[int] | None = None,
) -> Places:
    """The combinations as places in the sources, which take little memory.

    Args:
        sources: the images of each role in key order, each key once.
        pairing: how they are combined.
        numbers: only the combinations in these places, from 0; a product does not build the others.

    Returns:
        A row for each combination and a column for each role.

    Raises:
        JobError: `zip` finds a key that another source lacks, or `random` would have to compare
            too many images.
    """
    if pairing.mode == "product":
        sizes = [len(inputs) for inputs in sources.values()]
        return _product_places(sizes, range(prod(sizes)) if numbers is None else numbers)
    places = _zip_by_key(sources) if pairing.mode == "zip" else _random(sources, pairing)
    return places if numbers is None else places[np.asarray(numbers, dtype=np.int64)]


def _product_places(sizes: Sequence[int], numbers: Sequence[int]) -> Places:
    """The last source changes fastest."""
    exact = np.int64 if prod(sizes) < 1 << 62 else object
    rest = np.array(numbers, dtype=exact)
    columns: list[Places] = []
    for size in reversed(sizes):
        columns.append((rest % size).astype(np.int32))
        rest //= size
    return np.stack(columns[::-1], axis=1)


def with_source_masks(
    combinations: Sequence[Combination], masks: Sequence[Input], order: Sequence[str]
) -> list[Combination]:
    """The combinations, each with the mask of its texture, which has the same key.

    Args:
        combinations: with a texture each.
        masks: of the textures.
        order: the roles in the order of an item's inputs.

    Raises:
        JobError: as `places_of_masks` does.
    """
    textures = [
        next(found for found in inputs if found.role == "texture") for inputs in combinations
    ]
    return [
        tuple(sorted((*inputs, masks[place]), key=lambda found: order.index(found.role)))
        for inputs, place in zip(combinations, places_of_masks(textures, masks), strict=True)
    ]


def places_of_masks(textures: Iterable[Input], masks: Sequence[Input]) -> list[int]:
    """For each texture the place of its mask, which has the same key.

    Raises:
        JobError: a texture has no mask, or a key stands twice.
    """
    _refuse_duplicates("source_mask", masks)
    places = {mask.key: place for place, mask in enumerate(masks)}
    keys = [texture.key for texture in textures]
    if missing := sorted(set(keys) - places.keys()):
        raise JobError(
            f"source_mask: no mask for {len(missing)} texture(s): {_first_of(missing)}; name each "
            "mask like its texture"
        )
    return [places[key] for key in keys]


def _first_of(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:5])) + (", …" if len(keys) > 5 else "")


def _refuse_duplicates(role: str, inputs: Sequence[Input]) -> None:
    seen: dict[str, Input] = {}
    for found in inputs:
        if found.key in seen:
            raise JobError(
                f"{role}: the key {found.key!r} names two images, {seen[found.key].full_uri} and "
                f"{found.full_uri}: rename one of them"
            )
        seen[found.key] = found


def _zip_by_key(sources: Mapping[str, Sequence[Input]]) -> Places:
    by_key = {
        role: {found.key: place for place, found in enumerate(inputs)}
        for role, inputs in sources.items()
    }
    every_key = sorted({key for inputs in by_key.values() for key in inputs})
    for role, inputs in by_key.items():
        missing = [key for key in every_key if key not in inputs]
        if missing:
            raise JobError(
                f"pairing zip: {role} has no image for {len(missing)} key(s) of the other "
                f"sources: {_first_of(missing)}; add them, or use pairing product or random"
            )
    columns = [[places[key] for key in every_key] for places in by_key.values()]
    return np.array(columns, dtype=np.int32).T


def _random(sources: Mapping[str, Sequence[Input]], pairing: Pairing) -> Places:
    others = [role for role in sources if role not in REFERENCE_ROLES]
    if len(sources) != 2 or len(others) != 1:
        raise JobError(
            "pairing random draws styles for contents; give a content and a style source (or a "
            f"layout, target_mask or control with a texture or style); got {', '.join(sources)}"
        )
    (drawing,) = others
    references = next(inputs for role, inputs in sources.items() if role != drawing)
    if pairing.styles_per_content > len(references):
        raise JobError(
            f"pairing random asks for {pairing.styles_per_content} styles per content, but there "
            f"are {len(references)}: lower styles_per_content"
        )
    if len(sources[drawing]) * len(references) > MAX_COMPARISONS:
        raise JobError(
            f"pairing random would compare {len(sources[drawing]):,} images with "
            f"{len(references):,} references, at most {MAX_COMPARISONS:,} comparisons are made: "
            "name fewer, or draw the pairs into a table"
        )
    if len(sources[drawing]) * pairing.styles_per_content > MAX_ITEMS:
        raise JobError(
            f"pairing random would make more than {MAX_ITEMS:,} pairs: lower styles_per_content, "
            "or name fewer images"
        )
    drawn = [_drawn(content, references, pairing) for content in sources[drawing]]
    each = pairing.styles_per_content
    contents = np.repeat(np.arange(len(drawn), dtype=np.int32), each)
    styles = np.array(drawn, dtype=np.int32).reshape(-1)
    return np.stack([contents if role == drawing else styles for role in sources], axis=1)


def _drawn(content: Input, references: Sequence[Input], pairing: Pairing) -> list[int]:
    """The references whose hash with the content comes first: a new reference changes few draws."""
    drawn_for = hashlib.sha256(f"{pairing.seed}\0{content.key}\0".encode())

    def rank(place: int) -> bytes:
        total = drawn_for.copy()
        total.update(references[place].key.encode())
        return total.digest()

    return sorted(range(len(references)), key=rank)[: pairing.styles_per_content]
