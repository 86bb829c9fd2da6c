"""What do the items of a combination look like, in each variation: which shape, which problem?

A job has few shapes and few problems; a combination has their numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from manifests.errors import JobError
from manifests.items import Problem
from manifests.plan import bucket_of, references_of
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.tables import TableRow
from tasks.plans.combinations import Combinations
from tasks.plans.given_numbers import GivenNumbers
from tasks.plans.items import Shape, problem_of, shape_of, shaping_place, unswept
from tasks.runs.requests import is_stretched

UNSWEPT = -1
"""The number of the variation that is the job without its sweep."""

NO_PROBLEM = -1

Integers = npt.NDArray[np.int64]
T = TypeVar("T", bound=Hashable)


class ItemLooks:
    """Shapes and problems of all combinations, which are added in their order.

    Attributes:
        shapes, problems: each different one once.
        shape_numbers: of the combinations in each variation, in `shapes`.
        problem_numbers: of each item, in `problems`, or `NO_PROBLEM`.
    """

    def __init__(
        self, resolved: ResolvedJob, combinations: Combinations, given: GivenNumbers
    ) -> None:
        images = given.images
        self.shapes: list[Shape] = []
        self.problems: list[Problem] = []
        self.shape_numbers = array("i")
        self.problem_numbers = array("i")
        self._resolved = resolved
        self._combinations = combinations
        self._given = given
        self._variations = [*resolved.variations, unswept(resolved)]
        self._roles = [image.role for image in images]
        self._are_sound = [
            [
                image.problem is None and not is_stretched(image, variation.settings)
                for image in images
            ]
            for variation in resolved.variations
        ]
        self._references = [references_of([image]) for image in images]
        self._reference_numbers = array("i")
        self._different_references: dict[tuple[str, ...], int] = {}
        self._different_shapes: dict[Shape, int] = {}
        self._different_problems: dict[Problem, int] = {}
        self._shape_of_image: dict[tuple[int, int | None], int] = {}
        self._fitting: set[Hashable] = set()

    def add(self, place: int, numbers: Sequence[int], row: TableRow) -> None:
        """Looks at the next combination.

        Args:
            place: of the combination.
            numbers: of its images.
            row: what it has besides images.
        """
        references = tuple(text for number in numbers for text in self._references[number])
        self._reference_numbers.append(_number(self._different_references, references))
        for variation in range(len(self._resolved.variations)):
            shape = self.shape_number(variation, numbers)
            self.shape_numbers.append(shape)
            for variant in range(self._resolved.job.variants):
                whole = (*numbers, *self._given.of(place, variation, variant))
                self.problem_numbers.append(self._problem_number(variation, shape, whole, row))

    def shape_number(self, variation: int, numbers: Sequence[int]) -> int:
        """The shape that images have in a variation, or `UNSWEPT`."""
        shaping = _shaping_place(tuple(self._roles[number] for number in numbers))
        image = None if shaping is None else numbers[shaping]
        found = self._shape_of_image.get((variation, image))
        if found is None:
            inputs = [] if image is None else [self._combinations.images[image]]
            shape = shape_of(self._resolved, self._variations[variation], inputs)
            found = _number(self._different_shapes, shape, self.shapes)
            self._shape_of_image[variation, image] = found
        return found

    def refuse_only_problems(self) -> None:
        """Refuses a job of which not one item can be rendered.

        Raises:
            JobError: each problem, once.
        """
        if NO_PROBLEM not in self.problem_numbers:
            lines = dict.fromkeys(problem.message for problem in self.problems)
            raise JobError("no item can be rendered, and nothing was written:\n" + "\n".join(lines))

    def costs(self, looks: Integers) -> Iterator[tuple[int, float]]:
        """The bucket, as a number, and the seconds of each look.

        Args:
            looks: combinations in variations, by number.
        """
        buckets: dict[tuple[str, str, int], int] = {}
        known = [
            (_number(buckets, bucket_of(one.task, one.params, one.width, one.height)), one)
            for one in self.shapes
        ]
        costs = [(bucket, shape.cost_seconds) for bucket, shape in known]
        return (costs[number] for number in self._shapes_of(looks).tolist())

    def plan_ranks(self, looks: Integers) -> tuple[Integers, Integers]:
        """The places of looks in the order of buckets and sizes, and in that of references."""
        orders = [
            (bucket_of(one.task, one.params, one.width, one.height), one.width, one.height)
            for one in self.shapes
        ]
        sizes = _ranks(orders)[self._shapes_of(looks)]
        numbers = np.frombuffer(self._reference_numbers, dtype=np.int32)
        references = _ranks(list(self._different_references))[numbers]
        return sizes, references[looks // len(self._resolved.variations)]

    def _shapes_of(self, looks: Integers) -> Integers:
        return np.frombuffer(self.shape_numbers, dtype=np.int32)[looks].astype(np.int64)

    def _problem_number(
        self, variation: int, shape: int, numbers: Sequence[int], row: TableRow
    ) -> int:
        """The problem of an item; sound images of one shape and the same roles fit or do not."""
        are_sound = self._are_sound[variation]
        roles = tuple(self._roles[number] for number in numbers)
        has_prompt = bool(row.prompt and row.prompt.strip())
        kind = (shape, roles, has_prompt, row.negative_prompt)
        is_sound = row.problem is None and all([are_sound[number] for number in numbers])
        if is_sound and kind in self._fitting:
            return NO_PROBLEM
        images = tuple(self._given.images[number] for number in numbers)
        problem = problem_of(replace(row, inputs=images), self.shapes[shape])
        if problem is not None:
            return _number(self._different_problems, problem, self.problems)
        if "source_mask" not in roles:  # a mask must have the size of its texture
            self._fitting.add(kind)
        return NO_PROBLEM


@lru_cache(maxsize=1024)
def _shaping_place(roles: tuple[str, ...]) -> int | None:
    return shaping_place(roles)


def _number(known: dict[T, int], value: T, every: list[T] | None = None) -> int:
    """The number of a value among the different ones, which it joins where it is new."""
    found = known.setdefault(value, len(known))
    if every is not None and found == len(every):
        every.append(value)
    return found


def _ranks(values: Sequence[object]) -> Integers:
    """The place of each value in their order; equal values have one place."""
    places = {value: place for place, value in enumerate(sorted(set(values)))}  # type: ignore
    return np.array([places[value] for value in values], dtype=np.int64)
