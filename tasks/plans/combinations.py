"""Which combinations of inputs does a job make items of?

A combination is a few numbers of images, so that a million combinations take little memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt

from manifests.errors import JobError
from manifests.identity import canonical_json
from manifests.items import Input
from manifests.limits import MAX_ITEMS
from manifests.pairing import count_pairs, in_key_order, pair_places, places_of_masks
from tasks.inputs.passed_over import PassedOver
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.sources import images_in
from tasks.inputs.tables import TableRow

Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Combinations:
    """Inputs that go together, in the order of the job.

    Attributes:
        images: every image that is used, once.
        numbers: the images of all combinations, one combination after the other.
        starts: where in `numbers` a combination starts; one more than there are combinations.
        rows: what there is besides images; their own inputs are not looked at.
        row_numbers: of each combination in `rows`.
    """

    images: Sequence[Input]
    numbers: Numbers
    starts: npt.NDArray[np.int64]
    rows: Sequence[TableRow]
    row_numbers: Numbers

    def __len__(self) -> int:
        return len(self.row_numbers)

    def image_numbers(self, place: int) -> list[int]:
        """The images of the combination in one place, as numbers in `images`."""
        return self.numbers[self.starts[place] : self.starts[place + 1]].tolist()

    def row(self, place: int) -> TableRow:
        """The combination in one place, as if a table had named it."""
        inputs = tuple(self.images[number] for number in self.image_numbers(place))
        return replace(self.rows[self.row_numbers[place]], inputs=inputs)

    def each_row(self) -> Iterator[TableRow]:
        """All combinations in order, as if a table had named them."""
        return map(self.row, range(len(self)))

    def picked(self, places: Sequence[int]) -> Combinations:
        """The combinations in some places, and the images that they use."""
        chosen = np.asarray(places, dtype=np.int64)
        sizes = np.diff(self.starts)[chosen]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        steps = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
        used = self.numbers[np.repeat(self.starts[chosen], sizes) + steps]
        distinct, numbers = np.unique(used, return_inverse=True)
        return replace(
            self,
            images=[self.images[number] for number in distinct.tolist()],
            numbers=numbers.astype(np.int32),
            starts=starts,
            row_numbers=self.row_numbers[chosen],
        )


def list_combinations(resolved: ResolvedJob) -> Combinations:
    """The combinations that become items: the table's rows, or pairs of the sources.

    Raises:
        JobError: a source is empty, its images cannot be paired, or there are too many.
    """
    found = _of_table(resolved) if resolved.inputs.table else _of_sources(resolved)
    most = _most_combinations(resolved)
    places: Sequence[int] = range(len(found))
    if most is not None and len(found) > most:
        places = sorted(sorted(places, key=lambda place: sample_rank(found.row(place)))[:most])
    return found.picked(places)


def listed_images(resolved: ResolvedJob) -> dict[str, list[Input]]:
    """The images of every source by role, a source mask's too.

    Raises:
        JobError: a source holds no images, or one of its tars is damaged.
    """
    listed = resolved.inputs
    images = {
        role: [image for file in files for image in images_in(file, listed.passed_over[role])]
        for role, files in listed.files.items()
    }
    _refuse_empty_sources(images, listed.passed_over)
    return images


def sample_rank(row: TableRow) -> bytes:
    """The combinations with the lowest ranks are those that `limits.max_items` keeps."""
    names = [[item_input.role, item_input.key] for item_input in row.inputs]
    words = [row.prompt] if row.prompt is not None else []
    return hashlib.sha256(canonical_json([names, row.key, *words]).encode()).digest()


def limited(rows: list[TableRow], most: int | None) -> list[TableRow]:
    """So many rows at most, picked by `sample_rank` and kept in order: a fair sample."""
    if most is None or len(rows) <= most:
        return rows
    picked = set(sorted(range(len(rows)), key=lambda number: sample_rank(rows[number]))[:most])
    return [row for number, row in enumerate(rows) if number in picked]


def _of_table(resolved: ResolvedJob) -> Combinations:
    table = resolved.inputs.table
    _planned_numbers(resolved, len(table))
    images: dict[Input, int] = {}
    numbers = [images.setdefault(one, len(images)) for row in table for one in row.inputs]
    sizes = [len(row.inputs) for row in table]
    return Combinations(
        images=list(images),
        numbers=np.array(numbers, dtype=np.int32),
        starts=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        rows=table,
        row_numbers=np.arange(len(table), dtype=np.int32),
    )


def _of_sources(resolved: ResolvedJob) -> Combinations:
    listed = resolved.inputs
    images = listed_images(resolved)
    masks = images.pop("source_mask", None)
    prompts = listed.prompts or [None]
    pairing = resolved.job.pairing
    numbers = _planned_numbers(resolved, count_pairs(images, pairing) * len(prompts))
    ordered = in_key_order(images)
    places = pair_places(ordered, pairing, [number // len(prompts) for number in numbers])
    columns = dict(zip(ordered, places.T, strict=True))
    if masks is not None:
        ordered["source_mask"] = masks
        columns["source_mask"] = _of_masks(ordered["texture"], columns["texture"], masks)
    first = np.cumsum([0, *map(len, ordered.values())])
    offsets = dict(zip(ordered, first.tolist(), strict=False))
    flat = np.stack([columns[role] + offsets[role] for role in listed.files], axis=1)
    return Combinations(
        images=[image for of_role in ordered.values() for image in of_role],
        numbers=flat.reshape(-1).astype(np.int32),
        starts=np.arange(len(flat) + 1, dtype=np.int64) * len(columns),
        rows=[TableRow((), "", "{}", prompt, listed.negative_prompt) for prompt in prompts],
        row_numbers=np.array([number % len(prompts) for number in numbers], dtype=np.int32),
    )


def _of_masks(textures: Sequence[Input], used: Numbers, masks: Sequence[Input]) -> Numbers:
    """For each texture that is used, by its number, the number of its mask."""
    distinct, inverse = np.unique(used, return_inverse=True)
    places = places_of_masks([textures[number] for number in distinct.tolist()], masks)
    return np.array(places, dtype=np.int32)[inverse]


def _refuse_empty_sources(
    images: Mapping[str, Sequence[Input]], passed_over: Mapping[str, PassedOver]
) -> None:
    for role, found in images.items():
        if not found and passed_over[role]:
            raise JobError(
                f"the {role} source holds no images: check its uri ({passed_over[role]})"
            )


def _planned_numbers(resolved: ResolvedJob, num_rows: int) -> Sequence[int]:
    """The places of the rows that are looked at: all, or a sample of more than a run can hold.

    Raises:
        JobError: they would become more items than a run may have.
    """
    most = _most_combinations(resolved)
    planned = num_rows if most is None else min(num_rows, most)
    num_items = planned * resolved.job.variants * len(resolved.variations)
    if num_items > MAX_ITEMS:
        raise JobError(
            f"the job asks for {num_items:,} items ({planned:,} combinations of inputs), a run has "
            f"at most {MAX_ITEMS:,}: set limits.max_items, or split it into several jobs"
        )
    return range(num_rows) if num_rows <= MAX_ITEMS else _sample_of(num_rows, planned)


def _sample_of(num_rows: int, num_picked: int) -> list[int]:
    """So many different numbers below `num_rows`, the same ones every time, in order."""
    picked: set[int] = set()
    for attempt in count():
        if len(picked) == num_picked:
            break
        hashed = hashlib.sha256(f"row {attempt}".encode()).digest()
        picked.add(int.from_bytes(hashed, "big") % num_rows)
    return sorted(picked)


def _most_combinations(resolved: ResolvedJob) -> int | None:
    """So many combinations at most; the items of each stay together."""
    most = resolved.job.limits.max_items
    if most is None:
        return None
    return max(1, most // (resolved.job.variants * len(resolved.variations)))
