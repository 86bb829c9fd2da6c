"""How are the items of a job told apart, ordered and written, a million of them, holding none?

An item is a number: its combination, its variation and its variant follow from it. What else it is
takes a few bytes in arrays, and its row of the plan is made when it is written. An item of these
columns is in every field what `tasks.plans.items.make_item` makes.
"""

# pyright: standard
# pyarrow ships no types, so strict checking would see nothing but unknowns here.
from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manifests.errors import JobError
from manifests.items import slug
from manifests.plan import shard_name, shard_numbers
from manifests.plan_rules import MAX_FAILED_SIDE
from manifests.plan_table import INPUT_FIELDS, PLAN_SCHEMA, ROWS_PER_GROUP, input_row
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.tables import TableRow
from tasks.plans.combinations import Combinations
from tasks.plans.given_numbers import NOT_GIVEN, GivenNumbers
from tasks.plans.given_pictures import Given
from tasks.plans.item_ids import ID_BYTES, ItemIds, seed_bytes
from tasks.plans.item_looks import NO_PROBLEM, UNSWEPT, ItemLooks
from tasks.plans.items import is_unswept, key_stem, sample_key

SEED_BYTES = 8

Integers = npt.NDArray[np.int64]


class Parts(NamedTuple):
    """What an item is made of, by number."""

    place: int
    variation: int
    variant: int


class ItemColumns:
    """The items of a job by number: each variation and variant of each combination, in that order.

    Raises:
        JobError: not one item can be rendered, or two would have the same key.
    """

    def __init__(self, resolved: ResolvedJob, combinations: Combinations, given: Given) -> None:
        self._combinations = combinations
        self._given = GivenNumbers(resolved, combinations, given)
        self._variations = resolved.variations
        self._num_variants = resolved.job.variants
        self._are_unswept = [is_unswept(resolved, one) for one in resolved.variations]
        self._looks = ItemLooks(resolved, combinations, self._given)
        self._ids = ItemIds(resolved, self._given.images)
        self._names = [slug(image.key) for image in combinations.images]
        self._id_bytes, self._seed_bytes = bytearray(), bytearray()
        self._key_hashes = array("q")
        self._number_items()
        self._ranks = self._twin_ranks()
        self._tell_twins_apart()
        self._refuse_equal_keys()
        self._looks.refuse_only_problems()

    def tables(self, *, shard_seconds: float, shard_items: int) -> Iterator[pa.Table]:
        """The rows of the plan in plan order, in tables of whole shards."""
        order = self._plan_order()
        costs = self._looks.costs(order // self._num_variants)
        numbers = shard_numbers(costs, shard_seconds=shard_seconds, shard_items=shard_items)
        shards = np.fromiter(numbers, dtype=np.int64, count=len(order))
        common = _CommonColumns(self._combinations, self._looks, self._given)
        for start, stop in pairwise(_cuts(shards)):
            yield self._table(order[start:stop], shards[start:stop], common)

    def _number_items(self) -> None:
        for place in range(len(self._combinations)):
            numbers, row = self._combinations.image_numbers(place), self._row(place)
            self._looks.add(place, numbers, row)
            head = self._ids.head(numbers, row)
            for variation in range(len(self._variations)):
                stem = self._stem(numbers, row, variation)
                for variant in range(self._num_variants):
                    parts = Parts(place, variation, variant)
                    identity, base = self._identity(head, numbers, row, parts, variant)
                    self._id_bytes += identity
                    self._seed_bytes += seed_bytes(base)
                    self._key_hashes.append(hash(sample_key(row, stem, variant, identity.hex())))

    def _identity(
        self, head: bytes, numbers: list[int], row: TableRow, parts: Parts, ranked: int
    ) -> tuple[bytes, str]:
        """An item's id, and the id that its seed follows from: the one that it has unswept.

        Args:
            head: of the combination.
            numbers: of its images.
            row: what it has besides images.
            parts: of the item.
            ranked: its variant with the rank of twins in it.
        """
        shapes = self._looks.shapes
        base_shape = shapes[self._looks.shape_number(UNSWEPT, numbers)]
        base = self._ids.identity(head, base_shape, row, ranked)
        if self._are_unswept[parts.variation]:
            return base, base.hex()
        shape = shapes[self._looks.shape_number(parts.variation, numbers)]
        if given := self._given.of(*parts):
            head = self._ids.head([*numbers, *given], row, shape.label)
        noise_of = base.hex()
        return self._ids.identity(head, shape, row, ranked, noise_of), noise_of

    def _twin_ranks(self) -> Integers:
        """How many items before each have the same bytes, under other names.

        What another program has made of an item has the rank of the item.
        """
        high, low = self._id_columns()
        order = np.lexsort((low, high))  # items of one id stay in their order
        differs = (np.diff(high[order]) != 0) | (np.diff(low[order]) != 0)
        first = np.flatnonzero(np.concatenate([[True], differs]))
        sizes = np.diff([*first.tolist(), len(order)])
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - np.repeat(first, sizes)
        of_cases = ranks.reshape(len(self._combinations), len(self._variations), -1)
        of_cases[:, self._given.variations] = of_cases[:, :1]
        return ranks

    def _tell_twins_apart(self) -> None:
        for item in np.flatnonzero(self._ranks).tolist():
            parts = self._parts(item)
            numbers, row = self._combinations.image_numbers(parts.place), self._row(parts.place)
            head = self._ids.head(numbers, row)
            ranked = parts.variant + int(self._ranks[item]) * self._num_variants
            identity, base = self._identity(head, numbers, row, parts, ranked)
            self._id_bytes[ID_BYTES * item : ID_BYTES * (item + 1)] = identity
            self._seed_bytes[SEED_BYTES * item : SEED_BYTES * (item + 1)] = seed_bytes(base)
            self._key_hashes[item] = hash(self._key(item, identity.hex()))

    def _refuse_equal_keys(self) -> None:
        hashes = np.frombuffer(self._key_hashes, dtype=np.int64)
        different, counts = np.unique(hashes, return_counts=True)
        if len(different) == len(hashes):
            return
        of_key: dict[str, TableRow] = {}
        for item in np.flatnonzero(np.isin(hashes, different[counts > 1])).tolist():
            key, row = self._key(item, self._hex_id(item)), self._row(self._parts(item).place)
            if key in of_key:
                raise JobError(
                    f"inputs.table: two rows would be stored under the key {key!r} "
                    f"({of_key[key].key!r} and {row.key!r}): make the keys differ in "
                    "letters, digits, '_' or '-'"
                )
            of_key[key] = row

    def _plan_order(self) -> Integers:
        high, low = self._id_columns()
        looks = np.arange(len(high)) // self._num_variants
        sizes, references = self._looks.plan_ranks(looks)
        return np.lexsort((low, high, references, sizes))

    def _table(self, items: Integers, shards: Integers, common: _CommonColumns) -> pa.Table:
        listed = items.tolist()
        ids = [self._hex_id(item) for item in listed]
        variants = items % self._num_variants + self._ranks[items] * self._num_variants
        looks = items // self._num_variants
        seeds = np.frombuffer(self._seed_bytes, dtype=">u8")[items]
        columns: dict[str, Any] = {
            "item_id": ids,
            "key": list(map(self._key, listed, ids)),
            "shard": [shard_name(0, number) for number in shards.tolist()],
            "seed": seeds.astype(np.uint64),
            "variant": variants.astype(np.int32),
            "replaces": pa.nulls(len(listed), pa.string()),
            "first_retry": np.zeros(len(listed), dtype=np.int32),
            **common.of_looks(looks),
            **common.of_problems(items),
            **common.of_places(looks // len(self._variations)),
            "inputs": common.inputs(looks // len(self._variations), self._given.of_items(items)),
        }
        return pa.table([columns[name] for name in PLAN_SCHEMA.names], schema=PLAN_SCHEMA)

    def _parts(self, item: int) -> Parts:
        look, variant = divmod(item, self._num_variants)
        place, variation = divmod(look, len(self._variations))
        return Parts(place, variation, variant)

    def _row(self, place: int) -> TableRow:
        return self._combinations.rows[self._combinations.row_numbers[place]]

    def _key(self, item: int, identity: str) -> str:
        place, variation, variant = self._parts(item)
        row = self._row(place)
        stem = self._stem(self._combinations.image_numbers(place), row, variation)
        return sample_key(row, stem, variant, identity)

    def _stem(self, numbers: list[int], row: TableRow, variation: int) -> str:
        names = [self._names[number] for number in numbers]
        return key_stem(row, names, self._variations[variation])

    def _hex_id(self, item: int) -> str:
        return self._id_bytes[ID_BYTES * item : ID_BYTES * (item + 1)].hex()

    def _id_columns(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Both halves of all ids; they order ids as their hex digits do."""
        halves = np.frombuffer(self._id_bytes, dtype=">u8").reshape(-1, 2).astype(np.uint64)
        return halves[:, 0], halves[:, 1]


class _CommonColumns:
    """The columns of which many items have the same values, as tables that rows are taken from."""

    def __init__(self, combinations: Combinations, looks: ItemLooks, given: GivenNumbers) -> None:
        self._combinations = combinations
        self._shape_numbers = np.frombuffer(looks.shape_numbers, dtype=np.int32)
        self._problem_numbers = np.frombuffer(looks.problem_numbers, dtype=np.int32)
        self._images = pa.array(map(input_row, given.images), pa.struct(INPUT_FIELDS))
        self._shapes = _table_of(
            {
                "task": [shape.task for shape in looks.shapes],
                "label": [shape.label for shape in looks.shapes],
                "params": [shape.params for shape in looks.shapes],
                "width": [min(shape.width, MAX_FAILED_SIDE) for shape in looks.shapes],
                "height": [min(shape.height, MAX_FAILED_SIDE) for shape in looks.shapes],
                "cost_seconds": [shape.cost_seconds for shape in looks.shapes],
            }
        )
        self._problems = _table_of(
            {
                "error_class": [problem.error_class.value for problem in looks.problems],
                "error_message": [problem.message for problem in looks.problems],
            }
        )
        self._words = _table_of(
            {
                "prompt": [row.prompt for row in combinations.rows],
                "negative_prompt": [row.negative_prompt for row in combinations.rows],
                "user": [row.user for row in combinations.rows],
            }
        )

    def of_looks(self, looks: Integers) -> dict[str, Any]:
        """The columns that follow from combination and variation."""
        return _columns(self._shapes.take(pa.array(self._shape_numbers[looks])))

    def of_problems(self, items: Integers) -> dict[str, Any]:
        """The columns that say what is wrong with items."""
        numbers = self._problem_numbers[items]
        return _columns(self._problems.take(pa.array(numbers, mask=numbers == NO_PROBLEM)))

    def of_places(self, places: Integers) -> dict[str, Any]:
        """The columns that follow from the combination."""
        return _columns(self._words.take(pa.array(self._combinations.row_numbers[places])))

    def inputs(self, places: Integers, given: Integers) -> pa.ListArray:
        """The images of combinations, each with the picture that was given, or `NOT_GIVEN`."""
        starts = self._combinations.starts[places]
        sizes = self._combinations.starts[places + 1] - starts
        is_given = given != NOT_GIVEN
        offsets = np.concatenate([[0], np.cumsum(sizes + is_given)])
        steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        numbers = np.empty(offsets[-1], dtype=np.int32)
        numbers[np.repeat(offsets[:-1], sizes) + steps] = self._combinations.numbers[
            np.repeat(starts, sizes) + steps
        ]
        numbers[offsets[1:][is_given] - 1] = given[is_given]
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), self._images.take(pa.array(numbers))
        )


def _table_of(columns: dict[str, Any]) -> pa.Table:
    schema = pa.schema([PLAN_SCHEMA.field(name).with_nullable(True) for name in columns])
    return pa.table(columns, schema=schema)


def _columns(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _cuts(shards: Integers) -> list[int]:
    """Where tables of whole shards start and end, each of `ROWS_PER_GROUP` rows or more."""
    starts = [*(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= ROWS_PER_GROUP or start == len(shards):
            cuts.append(start)
    return cuts
