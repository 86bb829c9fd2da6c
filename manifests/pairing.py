"""Which inputs go together: zip by key, product, or a seeded random choice.

Invariant: the order in which images are listed changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product

from manifests.errors import JobError
from manifests.items import Input
from manifests.job import Pairing

Combination = tuple[Input, ...]
"""The inputs of one item, by role in the order of the roles."""


def pair(sources: Mapping[str, Sequence[Input]], pairing: Pairing) -> list[Combination]:
    """Every combination of inputs that the job asks for, in key order.

    Raises:
        JobError: a source is empty, a key stands twice in one source, or `zip` finds a key that
            another source lacks.
    """
    for role, inputs in sources.items():
        if not inputs:
            raise JobError(f"the {role} source holds no images: check its uri")
        _refuse_duplicates(role, inputs)
    ordered = {role: sorted(inputs, key=lambda one: one.key) for role, inputs in sources.items()}
    if pairing.mode == "zip":
        return _zip_by_key(ordered)
    if pairing.mode == "random":
        return _random(ordered, pairing)
    return list(product(*ordered.values()))


def _refuse_duplicates(role: str, inputs: Sequence[Input]) -> None:
    seen: dict[str, Input] = {}
    for one in inputs:
        if one.key in seen:
            raise JobError(
                f"{role}: the key {one.key!r} names two images, {seen[one.key].full_uri} and "
                f"{one.full_uri}: rename one"
            )
        seen[one.key] = one


def _zip_by_key(sources: Mapping[str, Sequence[Input]]) -> list[Combination]:
    by_key = {role: {one.key: one for one in inputs} for role, inputs in sources.items()}
    every_key = sorted({key for inputs in by_key.values() for key in inputs})
    for role, inputs in by_key.items():
        missing = [key for key in every_key if key not in inputs]
        if missing:
            shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
            raise JobError(
                f"pairing zip: {role} has no image for {len(missing)} key(s) of the other "
                f"sources: {shown}; add them, or use pairing product or random"
            )
    return [tuple(inputs[key] for inputs in by_key.values()) for key in every_key]


def _random(sources: Mapping[str, Sequence[Input]], pairing: Pairing) -> list[Combination]:
    if "content" not in sources or len(sources) != 2:
        raise JobError(
            "pairing random draws styles for contents; give a content and a style source"
        )
    references = next(inputs for role, inputs in sources.items() if role != "content")
    if pairing.styles_per_content > len(references):
        raise JobError(
            f"pairing random asks for {pairing.styles_per_content} styles per content, but there "
            f"are {len(references)}: lower styles_per_content"
        )
    return [
        _by_role(sources, content, reference)
        for content in sources["content"]
        for reference in _drawn(content, references, pairing)
    ]


def _drawn(content: Input, references: Sequence[Input], pairing: Pairing) -> list[Input]:
    """The references whose hash with the content comes first: adding one moves few draws."""
    drawn_for = hashlib.sha256(f"{pairing.seed}\0{content.key}\0".encode())

    def rank(reference: Input) -> bytes:
        total = drawn_for.copy()
        total.update(reference.key.encode())
        return total.digest()

    return sorted(references, key=rank)[: pairing.styles_per_content]


def _by_role(sources: Mapping[str, object], content: Input, reference: Input) -> Combination:
    return tuple(content if role == "content" else reference for role in sources)
