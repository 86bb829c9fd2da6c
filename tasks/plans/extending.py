"""What is new in the sources of a run, planned as a generation: `stylefarm extend`.

What is planned stays as it is: an extension only adds items, and those that replace an item of the
same name whose inputs have changed. Files that some generation listed as they are now are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from manifests.errors import JobError
from manifests.generations import Generation
from manifests.items import Input, Item
from manifests.job import external_role
from manifests.source_table import write_sources
from tasks.inputs.listed_sources import listed_sources
from tasks.inputs.resolving import ResolvedJob, Variation
from tasks.inputs.sources import images_in
from tasks.inputs.tables import TableRow
from tasks.plans.combinations import limited
from tasks.plans.extended_rows import ExtendedRow, extended_rows
from tasks.plans.given_pictures import Given, given_pictures
from tasks.plans.growing import add_generation
from tasks.plans.items import key_stem, make_item, sample_key
from tasks.plans.known_items import JOINING_ROLES, KnownItems, Name, contents_of
from tasks.plans.planning import PreparedRun, open_prepared
from tasks.plans.preflight import inspect_inputs
from tasks.plans.source_changes import newest_listing

MAX_NAMES = 5
"""Inputs that a sentence names."""

OnInspected = Callable[[Input], None]


@dataclass(frozen=True)
class Extension:
    """What an extension plans.

    Attributes:
        generation: None where nothing was to be written.
        num_items: new ones, those that replace included.
        num_replacing: of these, the ones that replace an item.
        problems: the items among them that cannot be rendered.
        sentences: what else is worth knowing.
    """

    generation: Generation | None
    num_items: int
    num_replacing: int
    problems: tuple[Item, ...]
    sentences: tuple[str, ...]


def extend(
    resolved: ResolvedJob,
    on_inspected: OnInspected = lambda item_input: None,
    *,
    dry_run: bool = False,
) -> Extension | None:
    """Plans what the sources of a run hold now and no generation has planned.

    Args:
        resolved: the job of the run, with its sources listed.
        on_inspected: told each input that was read.
        dry_run: nothing is written.

    Returns:
        What was planned; None where nothing is new.

    Raises:
        FingerprintMismatch: the run folder belongs to another job.
        JobError: there is no run, or what is new cannot be planned.
        RunFolderError: the run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    while True:
        prepared = open_prepared(resolved)
        if prepared is None:
            raise JobError(
                f"{resolved.output_uri!r} holds no run to extend: plan one with 'stylefarm run'"
            )
        found = _NewItems(resolved, prepared, on_inspected)
        items = found.items()
        if not items:
            return None if not found.kept else Extension(None, 0, 0, (), found.sentences())
        planned = Extension(
            generation=None,
            num_items=len(items),
            num_replacing=sum(item.replaces is not None for item in items),
            problems=tuple(item for item in items if item.problem),
            sentences=found.sentences(),
        )
        if dry_run:
            return planned
        generation = add_generation(
            prepared.plan.store,
            prepared.run,
            items,
            number=len(prepared.plan.generations) + 1,
            kind="extend",
            compute=resolved.job.compute,
            reason=f"{len(items)} new items, {planned.num_replacing} of them replace others",
            sources=write_sources(listed_sources(resolved.inputs)),
        )
        if generation is not None:
            return replace(planned, generation=generation)


class _NewItems:
    """The items that a run lacks.

    Attributes:
        kept: inputs that have changed and cannot be used, so that their old items stay.
    """

    def __init__(
        self, resolved: ResolvedJob, prepared: PreparedRun, on_inspected: OnInspected
    ) -> None:
        self.kept: dict[str, None] = {}
        self._resolved = resolved
        self._plan = prepared.plan
        self._on_inspected = on_inspected
        self._inspected: dict[Input, Input] = {}
        self._listing = newest_listing(prepared.plan.store, prepared.run)
        self._known = KnownItems(
            prepared.plan,
            is_table=bool(resolved.inputs.table),
            num_variants=resolved.job.variants,
        )

    def items(self) -> list[Item]:
        """The items to plan, without their shards."""
        if self._resolved.inputs.table:
            found = [ExtendedRow(self._recalled_row(row)) for row in self._resolved.inputs.table]
        else:
            found = list(extended_rows(self._resolved, self._images(), self._known))
        rows = self._inspected_rows(self._limited(found))
        given = self._given_pictures(rows)
        return [
            item
            for number, one in enumerate(rows)
            for variation, variant, picture in self._columns(number, given)
            if (item := self._item(one, variation, variant, picture)) is not None
        ]

    def sentences(self) -> tuple[str, ...]:
        """What is not planned, though it has changed."""
        if not self.kept:
            return ()
        names = list(self.kept)
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        return (
            f"{'; '.join(names[:MAX_NAMES])}{more}: what was planned with them before still counts",
        )

    def _images(self) -> dict[str, list[Input]]:
        """The images of each role; those whose bytes are known have their sha256.

        Old contents that have changed are read already: whether they did decides what is drawn.
        """
        inputs = self._resolved.inputs
        images = {
            role: [
                self._recalled(image, role, file.name, file.size, file.etag)
                for file in files
                for image in images_in(file, inputs.passed_over[role])
            ]
            for role, files in inputs.files.items()
        }
        if self._resolved.job.pairing.mode != "random":
            return images
        drawing = [
            image
            for role, found in images.items()
            for image in found
            if role not in JOINING_ROLES and self._known.drawn.get(image.key)
        ]
        read = dict(zip(drawing, self._inspect(drawing), strict=True))
        return {role: [read.get(one, one) for one in found] for role, found in images.items()}

    def _recalled_row(self, row: TableRow) -> TableRow:
        known = self._resolved.inputs.known
        found = [(image, known.get(image.uri)) for image in row.inputs]
        inputs = (
            self._recalled(image, image.role, image.uri, now and now.size, now and now.etag)
            for image, now in found
        )
        return replace(row, inputs=tuple(inputs))

    def _recalled(
        self, image: Input, role: str, name: str, size: int | None, etag: str | None
    ) -> Input:
        """An image with what a plan says of its bytes, if its file is as it was listed last.

        It has no width where it could not be used; what is wrong with it stands in no plan.
        """
        listed = self._listing.get((role, name))
        planned = self._known.inputs.get((role, self._known.name_of(image)))
        is_same = listed is not None and (listed.size, listed.etag) == (size, etag)
        if not is_same or planned is None or not planned.sha256:
            return image
        return replace(
            image,
            sha256=planned.sha256,
            num_bytes=planned.num_bytes,
            width=planned.width,
            height=planned.height,
        )

    def _inspect(self, images: Iterable[Input]) -> list[Input]:
        """The images with their bytes known; those that were not are read, each once."""
        listed = list(images)
        fresh = [one for one in listed if one.sha256 is None and one not in self._inspected]
        job = self._resolved.job
        self._inspected |= inspect_inputs(
            fresh,
            max_pixels=job.limits.max_pixels,
            num_threads=job.compute.io_threads,
            on_inspected=self._on_inspected,
        )
        return [self._inspected.get(one, one) for one in listed]

    def _limited(self, rows: list[ExtendedRow]) -> list[ExtendedRow]:
        """The rows that are looked at: the known ones, and as many new ones as the job allows."""
        seen: Counter[Name | str] = Counter()
        new: dict[int, TableRow] = {}
        for number, one in enumerate(rows):
            name, key = self._name(one.row, self._resolved.variations[0], 0)
            seen[key or name] += 1
            is_known = seen[key or name] <= self._known.num_of(name, key)
            if not is_known and one.stands_for is None:
                new[number] = one.row
        most = self._resolved.job.limits.max_items
        if most is None:
            return rows
        per_row = self._resolved.job.variants * len(self._resolved.variations)
        room = max(0, most - self._plan.contested.num_items) // per_row
        left = {id(row) for row in limited(list(new.values()), room)}
        return [
            one for number, one in enumerate(rows) if number not in new or id(new[number]) in left
        ]

    def _name(self, row: TableRow, variation: Variation, variant: int) -> tuple[Name, str | None]:
        """What an item of a row is known by: its name, or the key that the row itself has."""
        name = self._known.name(row.inputs, row.prompt, variation.label, variant)
        if not row.key:
            return name, None
        return name, sample_key(row, key_stem(row, (), variation), variant, "")

    def _inspected_rows(self, rows: list[ExtendedRow]) -> list[ExtendedRow]:
        self._inspect(found for one in rows for found in one.row.inputs)
        return [
            replace(one, row=replace(one.row, inputs=tuple(self._inspect(one.row.inputs))))
            for one in rows
        ]

    def _given_pictures(self, rows: list[ExtendedRow]) -> Given:
        """What other programs have made of the rows, as it is found now."""
        images: dict[str, list[Input]] = {}
        for name, external in self._resolved.inputs.external.items():
            images[name] = [
                self._recalled(image, external_role(name), file.name, file.size, file.etag)
                for file in external.files
                for image in images_in(file, external.passed_over)
            ]
        given = given_pictures(self._resolved, (one.row for one in rows), images)
        return {name: self._inspect(pictures) for name, pictures in given.items()}

    def _columns(self, number: int, given: Given) -> Iterator[tuple[Variation, int, Input | None]]:
        """Each variation and variant of a row, with the picture that was given of it, if any."""
        num_variants = self._resolved.job.variants
        for variation in self._resolved.variations:
            for variant in range(num_variants):
                case = number * num_variants + variant
                picture = given[variation.label][case] if variation.is_external else None
                yield variation, variant, picture

    def _item(
        self, one: ExtendedRow, variation: Variation, variant: int, given: Input | None
    ) -> Item | None:
        """The item to plan; None where it is planned, or where it would replace a better one."""
        row, known = one.row, self._known
        inputs = row.inputs if given is None else (*row.inputs, given)
        contents = contents_of(inputs, row.prompt, row.negative_prompt)
        name, key = self._name(row, variation, variant)
        found = known.take(name, key, contents)
        if found is not None and found.contents == contents:
            return None
        if found is None and one.stands_for is not None:
            name = known.name(one.stands_for, row.prompt, variation.label, variant)
            found = known.take(name, None, contents)
        given = given and self._explained(given)
        item = self._ranked_item(self._with_problems(row), given, variation, variant)
        if found is not None and item.problem is not None:
            self.kept[item.problem.message] = None
            return None
        known.add(item, found)
        return replace(item, replaces=found and found.item_id)

    def _with_problems(self, row: TableRow) -> TableRow:
        """The row, after its unusable inputs were read again for what is wrong with them."""
        return replace(row, inputs=tuple(map(self._explained, row.inputs)))

    def _explained(self, image: Input) -> Input:
        if image.width or image.problem:
            return image
        return self._inspect([replace(image, sha256=None)])[0]

    def _ranked_item(
        self, row: TableRow, given: Input | None, variation: Variation, variant: int
    ) -> Item:
        """The item, with a rank that makes it another one than all of the same contents."""
        contents = contents_of(row.inputs, row.prompt, row.negative_prompt)
        while True:
            rank = self._known.next_rank(contents, variation.label, variant)
            item = make_item(self._resolved, row, variation, variant, rank, given)
            if item.item_id not in self._known.item_ids:
                return item
