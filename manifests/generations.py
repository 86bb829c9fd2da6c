"""How a run grows: each generation is one more frozen plan beside the first, which never changes.

Generation 0 is `run.json`; the others are records of their own, numbered without gaps, each written
once by whoever is first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from manifests.commits import PlanReference, RunRecord, ShardName
from manifests.errors import NewerVersion, RunFolderError
from manifests.records import Count, Record, Sha256, Words, read_record

GENERATION_SCHEMA_VERSION = 1

MAX_GENERATIONS = 9999
"""The number stands in names of shards with four digits, so that they sort."""

WAY_OUT = "restore it, or choose another run folder"

_NAME = re.compile(r"generations/([0-9]{4})\.json")

Kind = Literal["extend", "retry", "repair"]


class Generation(PlanReference):
    """`generations/<n>.json`: a frozen plan that was added to a run.

    Attributes:
        number: from 1; the generation's shards have it in their names.
        kind: whether it plans new items, failed ones again, or those of lost shards.
        fingerprint: of the run.
        reason: why it was made, for people.
        changes: what changes pixels in it, by name, such as `{"dtype": "float32"}`.
        superseded: committed shards that no longer count.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = GENERATION_SCHEMA_VERSION
    number: Annotated[Count, Field(ge=1, le=MAX_GENERATIONS)]
    kind: Kind
    fingerprint: Sha256
    reason: Words = ""
    changes: dict[Words, Any] = Field(default_factory=dict[str, Any])
    superseded: tuple[ShardName, ...] = ()
    created_by: Words
    created_at: Words
    versions: dict[Words, Words] = Field(default_factory=dict[str, str])

    @model_validator(mode="after")
    def _knows_its_changes(self) -> Generation:
        if unknown := self.changes.keys() - CHANGES.keys():
            raise ValueError(f"it changes {sorted(unknown)[0][:80]!r}, which this version does not")
        for name, value in self.changes.items():
            if value not in CHANGES[name]:
                raise ValueError(f"it changes {name} to {str(value)[:80]!r}")
        return self


CHANGES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16", "float16"),
    "device_type": ("cpu", "cuda", "mps"),
}
"""What a generation may change, and to which values; a worker obeys all of them."""


class _AnyVersion(Record):
    schema_version: Any = None


def generation_name(number: int) -> str:
    """Where a generation's record lies in the run folder."""
    return f"generations/{number:04d}.json"


def number_of(name: str) -> int | None:
    """The number of the generation that a file of a run folder records; None for other files."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found and int(found[1]) else None


def read_generation(data: bytes, number: int, run: RunRecord) -> Generation:
    """The generation that a record describes.

    Raises:
        RunFolderError: it is damaged, of another run, or of a later version of stylefarm.
    """
    name = generation_name(number)
    version = read_record(_AnyVersion, data, name, way_out=WAY_OUT).schema_version
    if isinstance(version, int) and version > GENERATION_SCHEMA_VERSION:
        raise NewerVersion(
            f"{name} was made by a newer stylefarm (its schema_version is {version}, this one "
            f"reads {GENERATION_SCHEMA_VERSION}): update stylefarm, or choose another run folder"
        )
    generation = read_record(Generation, data, name, way_out=WAY_OUT)
    if generation.number != number:
        raise RunFolderError(f"{name} is the record of generation {generation.number}: {WAY_OUT}")
    if generation.fingerprint != run.fingerprint:
        raise RunFolderError(f"{name} belongs to another run: {WAY_OUT}")
    return generation


def refuse_gaps(numbers: Sequence[int]) -> None:
    """Refuses generations that are not 1, 2, 3, …: one that is missing hides items.

    Raises:
        RunFolderError: one is missing.
    """
    missing = next((n for n, found in enumerate(sorted(numbers), start=1) if n != found), None)
    if missing is not None:
        raise RunFolderError(f"{generation_name(missing)} is missing: {WAY_OUT}")
