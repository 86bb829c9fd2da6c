"""What is compared: runs and entries of sweeps, and the cases that they have in common.

A case is one combination of inputs, prompts and variant. It is known by what its inputs hold, never
by how files are called, so that the same case in two runs is one case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from infra.store import Store, UriError, open_store
from manifests.commits import Commit, RunRecord
from manifests.errors import ManifestError, RunFolderError, nearest
from manifests.identity import digest, input_identity
from manifests.items import Item, Status
from manifests.job import Job
from manifests.sweep import MAX_LABEL, SweepEntry
from tasks.inputs.dated_output import follow_latest
from tasks.inputs.sources import resolve_uri
from tasks.results.pictures import Size, input_picture, result_picture
from tasks.runs.committed import Committed, Row, open_committed, read_part, rows_of
from tasks.runs.run_folder import READERS, find_run, recorded_job, store_of

CASE_DIGITS = 16

WHOLE = (1 << 30, 1 << 30)
"""Larger than every picture, so that it stays as it is."""

_NAMED = re.compile(r"([^/#=]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Reference:
    """A picture that a case was made from.

    Attributes:
        role: what it is for.
        key: its name within its source.
        picture: as the source has it now; None where it is gone or was changed.
    """

    role: str
    key: str
    picture: Image.Image | None


@dataclass(frozen=True)
class Entry:
    """A whole run without a sweep, or one entry of a sweep in a run.

    Attributes:
        name: unique among those that were asked for.
        task: of its items.
        rows: the final row that counts of each case, failed ones too; a pending case has none.
        items: every case as it was planned, in plan order.
        run_uri: the run folder.
        label: of the sweep's entry, or the name of an external one; empty where a run has neither.
        max_pixels: larger inputs are not decoded.
    """

    name: str
    task: str
    rows: Mapping[str, Row]
    items: Mapping[str, Item]
    run_uri: str
    label: str
    max_pixels: int
    store: Store
    commits: Mapping[str, Commit]

    @property
    def num_pending(self) -> int:
        """How many of its cases have not been tried yet."""
        return len(self.items) - len(self.rows)

    def is_ok(self, case: str) -> bool:
        """Whether it has a picture of a case."""
        return case in self.rows and self.rows[case]["status"] == Status.OK

    def picture(self, case: str, size: Size | None = None) -> Image.Image:
        """The result of a case.

        Args:
            case: one that is ok here.
            size: (width, height) in pixels; a larger picture is scaled down to fit into it.

        Raises:
            KeyError: it has no such case.
            RunFolderError: the case has no picture here, or its tar is damaged.
        """
        row = self.rows.get(case)
        if row is None or row["status"] != Status.OK:
            why = "it is pending" if row is None else f"it is {row['status']}"
            raise RunFolderError(
                f"{self.name} has no picture of {self.items[case].key} ({why}): compare cases that "
                "all entries have"
            )
        commit = self.commits[row["shard"]]
        return result_picture(self.store, commit, row["outputs"][0], size or WHOLE)

    def references(self, case: str, size: Size | None = None) -> list[Reference]:
        """The pictures that a case was made from, in order, read back from their sources.

        The picture that another program has made of them is none of these.

        Args:
            case: one that was planned here.
            size: (width, height) in pixels; larger pictures are scaled down to fit into it.

        Raises:
            KeyError: it has no such case.
        """
        return [
            Reference(
                one.role,
                one.key,
                input_picture(one, size or WHOLE, max_pixels=self.max_pixels),
            )
            for one in self.items[case].case_inputs
        ]


def read_entries(asked: Sequence[str], base: Path) -> list[Entry]:
    """The entries that are asked for, in that order; those of one sweep in the order of its job.

    Args:
        asked: each `RUN`, `RUN#LABEL` or `NAME=RUN#LABEL`. A run is a folder or S3 URI; a label is
            that of a sweep's entry, as it is written or as keys have it. A whole swept run stands
            for all its entries. What exists as it is written is a run, whatever signs it holds.
        base: the folder that relative paths start from.

    Returns:
        Entries with names of their own: the name that was given, else the label, else the run
        folder's name; where two would be called alike, `FOLDER#LABEL` or the whole URI.

    Raises:
        ManifestError: no such run, no such label, or the same name twice.
        RunFolderError: a run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    wanted = [_wanted(text, base) for text in asked]
    runs: dict[str, tuple[Job, list[Entry]]] = {}
    for one in wanted:
        if one.run_uri not in runs:
            runs[one.run_uri] = _entries_of_run(one.run_uri, *one.run)
    picked: list[tuple[str | None, Entry]] = []
    for one in wanted:
        job, of_run = runs[one.run_uri]
        picked += [(one.name, entry) for entry in _picked(one, job, of_run)]
    return _named(picked)


def common_cases(entries: Sequence[Entry]) -> list[str]:
    """The cases that are ok in every entry, in the order of the first entry's keys."""
    if not entries:
        return []
    first = entries[0]
    cases = (case for case in first.rows if all(entry.is_ok(case) for entry in entries))
    return sorted(cases, key=lambda case: first.items[case].key)


def case_of(item: Item) -> str:
    """The case that an item belongs to, in 16 hex digits."""
    inputs = [input_identity(one) for one in item.case_inputs]
    by_role = sorted(inputs, key=lambda pair: pair[0])  # several of a role keep their order
    return digest([by_role, item.prompt, item.negative_prompt, item.variant])[:CASE_DIGITS]


@dataclass(frozen=True)
class _Wanted:
    """One entry, or all of a run, as somebody asked for it."""

    text: str
    name: str | None
    run_uri: str
    run: tuple[Store, RunRecord]
    label: str | None


def _wanted(text: str, base: Path) -> _Wanted:
    """The first reading of a text that leads to a run."""
    readings = list(_readings(text))
    for name, path, label in readings:
        if (found := _find(path, base)) is not None:
            run_uri, run = found
            return _Wanted(text, name, run_uri, run, label)
    path = next((path for name, path, _ in reversed(readings) if name), text.partition("#")[0])
    raise ManifestError(
        f"there is no run {path!r} (from {text!r}): name a run folder that 'stylefarm run' made, "
        "as RUN, RUN#LABEL or NAME=RUN#LABEL"
    )


def _readings(text: str) -> Iterator[tuple[str | None, str, str | None]]:
    """The (name, run, label) that a text may mean, the most literal first."""
    yield from ((None, *split) for split in _splits(text))
    if named := _NAMED.fullmatch(text):
        yield from ((named[1].strip(), *split) for split in _splits(named[2]))


def _splits(text: str) -> Iterator[tuple[str, str | None]]:
    """A text as a path alone, and as a path with a label after each `#`; the longest path first."""
    yield text, None
    for place in reversed([found.start() for found in re.finditer("#", text)]):
        yield text[:place], text[place + 1 :]


def _find(path: str, base: Path) -> tuple[str, tuple[Store, RunRecord]] | None:
    try:
        uri = follow_latest(resolve_uri(path, str(base.absolute())))
        store = open_store(uri)
    except UriError:
        return None
    run = find_run(store)
    return None if run is None else (uri, (store_of(run, store), run))


def _entries_of_run(uri: str, store: Store, run: RunRecord) -> tuple[Job, list[Entry]]:
    """The job of a run, and its entries in the order of the job's sweep."""
    job = recorded_job(run)
    committed = open_committed(store, run)
    with closing(committed.plan):
        items: dict[str, dict[str, Item]] = {column.label: {} for column in job.columns}
        for item in committed.plan.counting_items():
            items.setdefault(item.label, {})[case_of(item)] = item
        rows = {row["item_id"]: row for row in _counting_rows(committed)}
    return job, [
        Entry(
            name=_default_name(uri, label),
            task=next(iter(of_label.values())).task,
            rows={
                case: rows[item.item_id] for case, item in of_label.items() if item.item_id in rows
            },
            items=of_label,
            run_uri=uri,
            label=label,
            max_pixels=job.limits.max_pixels,
            store=store,
            commits=committed.live,
        )
        for label, of_label in items.items()
        if of_label
    ]


def _counting_rows(committed: Committed) -> Iterator[Row]:
    """The rows of a run that count; files are fetched side by side, and read one by one."""
    plan, live = committed.plan, committed.live
    with ThreadPoolExecutor(READERS) as pool:
        parts = pool.map(lambda commit: read_part(plan.store, commit), live.values())
        for (shard, commit), data in zip(live.items(), parts, strict=True):
            for row in rows_of(data, commit, plan.items(shard)):
                if committed.counts_in(row["item_id"], shard):
                    yield row


def _default_name(uri: str, label: str) -> str:
    return label or uri.rstrip("/").rpartition("/")[2]


def _picked(wanted: _Wanted, job: Job, entries: list[Entry]) -> list[Entry]:
    """The entries of a run that one text asks for."""
    if wanted.label is None:
        if wanted.name is not None and len(entries) > 1:
            raise ManifestError(
                f"{wanted.text!r} names {len(entries)} entries of a sweep alike: write "
                f"NAME=RUN#LABEL for each ({nearest('', [entry.label for entry in entries])})"
            )
        return entries
    labels = {entry.label: entry for entry in entries}
    by_suffix = {SweepEntry(label).suffix: entry for label, entry in labels.items() if label}
    found = labels.get(wanted.label) or by_suffix.get(wanted.label)
    if found is not None:
        return [found]
    if not any(labels):
        raise ManifestError(
            f"{wanted.run_uri} has no sweep, so it has no entry {wanted.label[:MAX_LABEL]!r}: "
            "leave the # and what follows it away"
        )
    raise ManifestError(
        f"{wanted.run_uri} has no entry {wanted.label[:MAX_LABEL]!r}; "
        f"{nearest(wanted.label[:MAX_LABEL], labels)}"
    )


def _named(picked: Sequence[tuple[str | None, Entry]]) -> list[Entry]:
    """The entries under names that tell them apart.

    Raises:
        ManifestError: two of them have the same name all the same.
    """
    names = [name or entry.name for name, entry in picked]
    for longer in (_with_folder, _with_uri):
        alike = _twice(names)
        names = [
            longer(entry) if known in alike and given is None else known
            for known, (given, entry) in zip(names, picked, strict=True)
        ]
    if alike := _twice(names):
        name = next(iter(alike))
        raise ManifestError(
            f"two entries are called {name[:MAX_LABEL]!r}: ask for each once, and give one of them "
            "another name, as NAME=RUN#LABEL"
        )
    return [replace(entry, name=name) for name, (_, entry) in zip(names, picked, strict=True)]


def _with_folder(entry: Entry) -> str:
    folder = _default_name(entry.run_uri, "")
    return f"{folder}#{entry.label}" if entry.label else folder


def _with_uri(entry: Entry) -> str:
    return f"{entry.run_uri}#{entry.label}" if entry.label else entry.run_uri


def _twice(names: Iterable[Any]) -> set[Any]:
    return {name for name, number in Counter(names).items() if number > 1}
