"""Which inputs go together: zip by key, product, or a seeded random choice.

A source mask belongs to its texture: it is not paired, but joins the texture that has its key.
The order in which images are listed changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from math import prod

from manifests.errors import JobError
from manifests.items import REFERENCE_ROLES, Input
from manifests.job import Pairing
from manifests.limits import MAX_COMPARISONS, MAX_ITEMS

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
    numbers: Iterable[int] | None = None,
) -> list[Combination]:
    """Every combination of inputs that the job asks for, in key order.

    Args:
        sources: the images of each role, in any order.
        pairing: how they are combined.
        numbers: only the combinations in these places, from 0; a product does not build the others.

    Raises:
        JobError: a source is empty, a key stands twice in one source, `zip` finds a key that
            another source lacks, or `random` would have to compare too many images.
    """
    for role, inputs in sources.items():
        if not inputs:
            raise JobError(f"the {role} source holds no images: check its uri")
        _refuse_duplicates(role, inputs)
    ordered = {
        role: sorted(inputs, key=lambda found: found.key) for role, inputs in sources.items()
    }
    if pairing.mode == "product":
        places = range(count_pairs(sources, pairing)) if numbers is None else numbers
        return [_combination(list(ordered.values()), place) for place in places]
    pairs = _zip_by_key(ordered) if pairing.mode == "zip" else _random(ordered, pairing)
    return pairs if numbers is None else [pairs[number] for number in numbers]


def _combination(sources: Sequence[Sequence[Input]], number: int) -> Combination:
    """The combination in one place of the product; the last source changes fastest."""
    chosen: list[Input] = []
    for inputs in reversed(sources):
        number, place = divmod(number, len(inputs))
        chosen.append(inputs[place])
    return tuple(reversed(chosen))


def with_source_masks(
    combinations: Sequence[Combination], masks: Sequence[Input], order: Sequence[str]
) -> list[Combination]:
    """The combinations, each with the mask of its texture, which has the same key.

    Args:
        combinations: with a texture each.
        masks: of the textures.
        order: the roles in the order of an item's inputs.

    Raises:
        JobError: a texture has no mask, or a key stands twice.
    """
    _refuse_duplicates("source_mask", masks)
    by_key = {mask.key: mask for mask in masks}
    textures = {found.key for inputs in combinations for found in inputs if found.role == "texture"}
    if missing := sorted(textures - by_key.keys()):
        raise JobError(
            f"source_mask: no mask for {len(missing)} texture(s): {_first_of(missing)}; name each "
            "mask like its texture"
        )

    def completed(inputs: Combination) -> Combination:
        mask = next(by_key[found.key] for found in inputs if found.role == "texture")
        return tuple(sorted((*inputs, mask), key=lambda found: order.index(found.role)))

    return [completed(inputs) for inputs in combinations]


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


def _zip_by_key(sources: Mapping[str, Sequence[Input]]) -> list[Combination]:
    by_key = {role: {found.key: found for found in inputs} for role, inputs in sources.items()}
    every_key = sorted({key for inputs in by_key.values() for key in inputs})
    for role, inputs in by_key.items():
        missing = [key for key in every_key if key not in inputs]
        if missing:
            raise JobError(
                f"pairing zip: {role} has no image for {len(missing)} key(s) of the other "
                f"sources: {_first_of(missing)}; add them, or use pairing product or random"
            )
    return [tuple(inputs[key] for inputs in by_key.values()) for key in every_key]


def _random(sources: Mapping[str, Sequence[Input]], pairing: Pairing) -> list[Combination]:
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
    return [
        _by_role(sources, content, reference)
        for content in sources[drawing]
        for reference in _drawn(content, references, pairing)
    ]


def _drawn(content: Input, references: Sequence[Input], pairing: Pairing) -> list[Input]:
    """The references whose hash with the content comes first: a new reference changes few draws."""
    drawn_for = hashlib.sha256(f"{pairing.seed}\0{content.key}\0".encode())

    def rank(reference: Input) -> bytes:
        total = drawn_for.copy()
        total.update(reference.key.encode())
        return total.digest()

    return sorted(references, key=rank)[: pairing.styles_per_content]


def _by_role(sources: Mapping[str, object], content: Input, reference: Input) -> Combination:
    return tuple(reference if role in REFERENCE_ROLES else content for role in sources)
