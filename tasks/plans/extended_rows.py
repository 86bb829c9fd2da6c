"""Which combinations of inputs does a run have when its sources have grown?

As planning pairs them, but what is known stays as it was: old contents keep the references that
were drawn for them, and what `zip` joined is not missed where one of its images is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests.errors import JobError
from manifests.items import REFERENCE_ROLES, Input
from manifests.limits import MAX_ITEMS
from manifests.pairing import Combination, count_pairs, pair, with_source_masks
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.tables import TableRow
from tasks.plans.known_items import KnownItems

Images = Mapping[str, Sequence[Input]]


@dataclass(frozen=True)
class ExtendedRow:
    """A combination of inputs, and what it stands in for.

    Attributes:
        row: the inputs as they are listed now.
        stands_for: the inputs of the planned items that it replaces, where those have other names.
    """

    row: TableRow
    stands_for: Combination | None = None


def extended_rows(
    resolved: ResolvedJob, images: Images, known: KnownItems
) -> Iterator[ExtendedRow]:
    """Every combination of the images of a job's sources.

    Args:
        resolved: the job.
        images: those of each role; for random draws, what they are drawn for has its sha256.
        known: the items of the run.

    Raises:
        JobError: the images cannot be paired.
    """
    listed = resolved.inputs
    masks = images.get("source_mask")
    paired = {role: found for role, found in images.items() if role != "source_mask"}
    combinations = list(_combinations(resolved, paired, known))
    if masks is not None:
        order = list(listed.files)
        whole = with_source_masks([one for one, _ in combinations], masks, order)
        olds = [old and _with_planned_mask(old, known, order) for _, old in combinations]
        combinations = list(zip(whole, olds, strict=True))
    for inputs, stands_for in combinations:
        for prompt in listed.prompts or [None]:
            row = TableRow(inputs, "", "{}", prompt=prompt, negative_prompt=listed.negative_prompt)
            yield ExtendedRow(row, stands_for)


def _with_planned_mask(inputs: Combination, known: KnownItems, order: Sequence[str]) -> Combination:
    """Planned inputs with the mask that their texture had."""
    textures = (found.key for found in inputs if found.role == "texture")
    masks = [known.inputs["source_mask", key] for key in textures]
    return tuple(sorted((*inputs, *masks), key=lambda found: order.index(found.role)))


def _combinations(
    resolved: ResolvedJob, images: Images, known: KnownItems
) -> Iterator[tuple[Combination, Combination | None]]:
    pairing = resolved.job.pairing
    if pairing.mode == "random":
        yield from _drawn_again(resolved, images, known)
        return
    if pairing.mode == "zip":
        images = _without_halves(images, known)
    elif (number := count_pairs(images, pairing)) > MAX_ITEMS:
        raise JobError(
            f"the job asks for {number:,} combinations of inputs, and an extension looks at "
            f"{MAX_ITEMS:,} at most: split it into several jobs"
        )
    if all(images.values()):
        yield from ((inputs, None) for inputs in pair(images, pairing))


def _without_halves(images: Images, known: KnownItems) -> dict[str, list[Input]]:
    """The images without those of planned keys that another source has no longer."""
    keys = [{image.key for image in found} for found in images.values()]
    planned = {name for _, name in known.inputs}
    halves = planned & (set().union(*keys) - set.intersection(*keys))
    return {
        role: [image for image in found if image.key not in halves]
        for role, found in images.items()
    }


def _drawn_again(
    resolved: ResolvedJob, images: Images, known: KnownItems
) -> Iterator[tuple[Combination, Combination | None]]:
    """Old contents with the references that they have, new ones with newly drawn ones."""
    pairing = resolved.job.pairing
    drawing = next((role for role in images if role not in REFERENCE_ROLES), "")
    old = [image for image in images.get(drawing, ()) if known.drawn.get(image.key)]
    new = [image for image in images.get(drawing, ()) if not known.drawn.get(image.key)]
    if new or not drawing:
        sources = {role: new if role == drawing else found for role, found in images.items()}
        yield from ((inputs, None) for inputs in pair(sources, pairing))
    references = {
        image.key: image for role, found in images.items() if role != drawing for image in found
    }
    for content in old:
        planned = known.inputs[drawing, content.key]
        drawn = list(known.drawn[content.key])
        for key in drawn:
            if key in references:
                yield _by_role(images, drawing, content, references[key]), None
        if content.sha256 == planned.sha256:
            continue
        gone = [key for key in drawn if key not in references]
        free = [image for key, image in references.items() if key not in drawn]
        for key, image in zip(gone, _ranked(content, free, pairing.seed), strict=False):
            (role,) = (role for role in images if role != drawing)
            stood = _by_role(images, drawing, planned, known.inputs[role, key])
            yield _by_role(images, drawing, content, image), stood


def _ranked(content: Input, references: Sequence[Input], seed: int) -> list[Input]:
    """References in the order in which planning draws them for a content."""

    def rank(reference: Input) -> bytes:
        return hashlib.sha256(f"{seed}\0{content.key}\0{reference.key}".encode()).digest()

    return sorted(references, key=rank)


def _by_role(images: Images, drawing: str, content: Input, reference: Input) -> Combination:
    return tuple(content if role == drawing else reference for role in images)
