"""What a run has planned already, as an extension must know it.

An item is known by the names of its inputs, its prompt, its column of a sweep and its variant, and
by the bytes of its inputs. What a picture of another program is called says nothing. Of items that
are replaced only the ids are known, so that none is used twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from manifests.errors import JobError
from manifests.items import EXTERNAL, REFERENCE_ROLES, Input, Item
from manifests.job import external_role
from tasks.runs.run_plan import RunPlan

Name = bytes
Contents = bytes
"""Hashes of what they stand for, as a run may have a million of each."""


JOINING_ROLES = (*REFERENCE_ROLES, "source_mask")
"""The roles that are drawn for the others by `random`: references, and the masks of those."""


@dataclass(frozen=True, slots=True)
class Known:
    """A planned item that counts."""

    item_id: str
    key: str
    contents: Contents


class KnownItems:
    """The items of a run.

    Attributes:
        inputs: by the role under which they are listed and name, as the newest generation has them.
        drawn: by the name of what references were drawn for, the names of those, in plan order.
        item_ids: of all items that were ever planned.
        keys: of the items that count.
    """

    def __init__(self, plan: RunPlan, *, is_table: bool, num_variants: int) -> None:
        """Reads all plans of a run.

        Args:
            plan: of the run.
            is_table: whether a table names the inputs, which are then known by their URIs.
            num_variants: of the job.
        """
        self.inputs: dict[tuple[str, str], Input] = {}
        self.drawn: dict[str, dict[str, None]] = defaultdict(dict)
        self.item_ids: set[str] = set()
        self.keys: dict[str, Known] = {}
        self._is_table = is_table
        self._num_variants = num_variants
        self._by_name: dict[Name, list[Known]] = defaultdict(list)
        self._taken: set[str] = set()
        self._ranks: Counter[Hashable] = Counter()
        for item in plan.iter_items():
            if item.item_id not in plan.contested.replaced and item.item_id not in self.item_ids:
                self._learn_counting(item)
            self.item_ids.add(item.item_id)
            self.inputs.update(((one.role, self.name_of(one)), one) for one in item.case_inputs)
            given = item.of_role(EXTERNAL)
            role = external_role(item.label)
            self.inputs.update(((role, self.name_of(one)), one) for one in given)

    def name_of(self, item_input: Input) -> str:
        """What an input is called: its key within its source, or the URI that a table names.

        Pictures of another program may share a key, so these are called by their URI as well.
        """
        is_given = item_input.role.startswith(EXTERNAL)
        return item_input.full_uri if self._is_table or is_given else item_input.key

    def name(self, inputs: Sequence[Input], prompt: str | None, label: str, variant: int) -> Name:
        """The name of an item; its rank among twins is no part of it."""
        named = [(item_input.role, self.name_of(item_input)) for item_input in inputs]
        return _hashed(*named, prompt, label, variant % self._num_variants)

    def take(self, name: Name, key: str | None, contents: Contents) -> Known | None:
        """An item that counts and has this key or name, once; rather one of these contents.

        Args:
            name: of the item.
            key: of a table's row; None where it has none of its own.
            contents: of the item.
        """
        of_key = [self.keys[key]] if key in self.keys else []
        among = self._by_name.get(name, []) if key is None else of_key
        left = [known for known in among if known.item_id not in self._taken]
        same = [known for known in left if known.contents == contents]
        found = next(iter([*same, *left]), None)
        if found is not None:
            self._taken.add(found.item_id)
        return found

    def num_of(self, name: Name, key: str | None) -> int:
        """How many items that count have this key or name."""
        return len(self._by_name.get(name, ())) if key is None else int(key in self.keys)

    def next_rank(self, contents: Contents, label: str, variant: int) -> int:
        """A rank that was not given to these contents before; an older item may have it."""
        place = (contents, label, variant)
        self._ranks[place] += 1
        return self._ranks[place] - 1

    def add(self, item: Item, replaced: Known | None) -> None:
        """Takes the id and the key of a new item, which no other item that counts may have.

        Raises:
            JobError: one has its key.
        """
        if replaced is not None:
            del self.keys[replaced.key]
        if item.key in self.keys:
            raise JobError(
                f"inputs.table: two rows would be stored under the key {item.key!r}: make the keys "
                "differ in letters, digits, '_' or '-'"
            )
        self.item_ids.add(item.item_id)
        self._taken.add(item.item_id)
        self.keys[item.key] = Known(item.item_id, item.key, b"")

    def _learn_counting(self, item: Item) -> None:
        contents = contents_of(item.inputs, item.prompt, item.negative_prompt)
        known = Known(item.item_id, item.key, contents)
        name = self.name(item.case_inputs, item.prompt, item.label, item.variant)
        self._by_name[name].append(known)
        self.keys[item.key] = known
        drawing = [one for one in item.case_inputs if one.role not in JOINING_ROLES]
        references = [one for one in item.inputs if one.role in REFERENCE_ROLES]
        if len(drawing) == len(references) == 1:
            self.drawn[drawing[0].key].setdefault(references[0].key)


def contents_of(
    inputs: Iterable[Input], prompt: str | None, negative_prompt: str | None
) -> Contents:
    """What an item is made of, whatever its inputs are called."""
    made_of = [(found.role, found.sha256 or f"uri:{found.full_uri}") for found in inputs]
    return _hashed(*made_of, prompt, negative_prompt)


def _hashed(*words: object) -> bytes:
    return hashlib.blake2b(repr(words).encode(), digest_size=16).digest()
