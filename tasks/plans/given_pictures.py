"""Which pictures have other programs made of the cases of a job, and which are missing?

A case is a combination of inputs with a variant. What is missing is an input too, with its problem,
so that its item is planned and fails alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from manifests.items import Input, slug
from tasks.inputs.external import CaseNames, matched
from tasks.inputs.resolving import ResolvedJob
from tasks.inputs.tables import TableRow
from tasks.plans.items import base_identity, key_stem, sample_key, unswept

ALONE = ("content", "layout", "texture")
"""Roles of which one picture may name a case alone."""

Given = Mapping[str, Sequence[Input]]
"""By the name of a program, its picture of every case: of each row each variant, in order."""


def given_pictures(
    resolved: ResolvedJob, rows: Iterable[TableRow], images: Mapping[str, Sequence[Input]]
) -> Given:
    """The pictures of all cases, not inspected yet.

    Args:
        resolved: the job.
        rows: the combinations of inputs, inspected.
        images: what the source of each program holds.

    Raises:
        JobError: a source holds no pictures at all.
    """
    if not images:
        return {}
    cases = [
        case_names(resolved, row, variant)
        for row in rows
        for variant in range(resolved.job.variants)
    ]
    external = resolved.inputs.external
    return {name: matched(external[name], found, cases) for name, found in images.items()}


def case_names(resolved: ResolvedJob, row: TableRow, variant: int) -> CaseNames:
    """What the picture of a case may be called.

    Its own names are the key that its item has without a sweep, with the digits of its id and
    without them, and a table's key as it is written there.
    """

    def numbered(name: str) -> str:
        return f"{name}-{variant}" if variant else name

    names = [slug(item_input.key) for item_input in row.inputs]
    stem = key_stem(row, names, unswept(resolved))
    key = sample_key(row, stem, variant, base_identity(resolved, row, variant))
    written = [numbered(row.key)] if row.key else []
    alone = [one.key for one in row.inputs if one.role in ALONE]
    loose = [numbered(name) for key in alone for name in (key, slug(key))]
    own = dict.fromkeys([numbered(stem), *written, key])
    return CaseNames(tuple(own), tuple(dict.fromkeys(loose)))
