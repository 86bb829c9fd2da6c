"""What in a run folder, and in this machine's scratch, does nobody need any more? `stylefarm gc`.

What is deleted can be named by nobody who is at work, however young it is: age only spares more.
Objects are listed before the records that could name them are read, as whoever names an object has
stored it before:

* a commit never changes, so what another attempt stored for its shard stays unnamed;
* a shard that no plan has gets no commit, as its generation would be there before its files; where
  `verify` has moved its commit away, its files stay, as nobody knows where they are from;
* a plan could be named at the very moment: it is put back where that has happened
  (`tasks/plans/growing.py` does the same from the other side);
* only a publisher of the present state can make the index name its final rows, and these stay.

What is not ours by its name stays, and so does all of a shard that is still to be rendered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from infra.store import ObjectNotFound, Store, StoredObject, local_path
from manifests.commits import RunRecord, commit_name
from manifests.counting import superseded_shards
from manifests.errors import RunFolderError
from manifests.generations import WAY_OUT as RESTORE_IT
from manifests.generations import Generation, generation_name, number_of
from manifests.plan import SHARD_PATTERN, generation_of, plan_name
from tasks.keeping.repairing import FOREIGN
from tasks.results.publisher import CLAIM_NAME
from tasks.runs.committed import current_index, find_index
from tasks.runs.run_folder import (
    SIGN,
    find_commit,
    find_generations,
    open_run,
    refuse_linked_folders,
)
from tasks.runs.run_plan import RunPlan, open_plan
from tasks.runs.scratch import find_leftovers, remove_leftovers, scratch_file
from tasks.work.holding import LEASE_SECONDS
from tasks.work.offer import kept_of_lost_runs, kept_shards, remove_kept

PIECE_BYTES = 16 << 20
NUM_THREADS = 16
BATCH = 1000
"""Shards that are looked at, and objects that are deleted, at a time."""

_DATA = re.compile(rf"data/({SHARD_PATTERN})-[0-9a-f]{{12}}\.(?:tar|parquet)")
_PLAN = re.compile(r"plan/(?:plan|[0-9a-f]{12})\.parquet|sources/[0-9a-f]{12}\.parquet")
_ROWS = re.compile(r"(metadata/[0-9a-f]{12}/)part-[0-9]{5}\.parquet")
_ATTEMPT = re.compile(rf"attempts/({SHARD_PATTERN})/[0-9]{{1,9}}\.json")
_COMMIT = re.compile(rf"commits/({SHARD_PATTERN})\.json")
_PROBE = re.compile(r"probe-[0-9a-f]{32}")
_SIGN = re.compile(rf"{SIGN}[0-9a-f]{{32}}")

KINDS = {
    "data": "files of shards that no commit names",
    "plans": "plans and lists of sources that no generation names",
    "metadata": "final rows that the index does not name",
    "attempts": "attempts at shards of a complete run that were committed at the first",
    "probes": "objects of the test of a store, or of a node",
    "claims": "claims of publishers, which save double work alone",
    "unfinished": "uploads and temporary files of writers that are gone",
    "scratch": "files of processes that are gone, on this machine",
    "kept": "shards kept on this machine that are committed, or whose run is gone",
}
"""What is collected, in words."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that nobody needs.

    Attributes:
        kind: one of `KINDS`.
        name: relative to the run folder, or the full path of a file of this machine.
        num_bytes: its size, as far as it is told.
        modified: when it was written last, by the clock of where it lies.
        remove: deletes it; safe to repeat.
    """

    kind: str
    name: str
    num_bytes: int
    modified: datetime
    remove: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was found.

    Attributes:
        garbage: what was deleted, or would be.
        num_younger: things that nobody needs either, and that are too young.
        not_ours: objects in the folders of a run that a run does not write.
        sentences: what else is worth knowing.
    """

    garbage: tuple[Garbage, ...]
    num_younger: int
    not_ours: tuple[str, ...]
    sentences: tuple[str, ...]


def collect(run_uri: str, *, older_than: timedelta, delete: bool) -> Collected:
    """Finds what nobody needs in a run folder and in this machine's scratch, and deletes it.

    Args:
        run_uri: the run folder.
        older_than: what was written later is left, by the clock of the store; zero leaves nothing.
            Scratch of processes that are gone goes at any age.
        delete: else nothing is written.

    Raises:
        RunFolderError: there is no run, or a record is damaged, so that nobody knows what it needs.
        StoreError: a store refuses or does not answer.
    """
    store, run = open_run(run_uri)
    refuse_linked_folders(store, "metadata")
    finder = _Finder(store, run)
    found = list(finder.garbage())
    until = store.now() - older_than
    old = [one for one in found if not older_than or one.kind == "scratch" or one.modified <= until]
    if delete:
        for _ in _each(lambda one: one.remove(), old):
            pass
    return Collected(
        garbage=tuple(old),
        num_younger=len(found) - len(old),
        not_ours=tuple(finder.not_ours),
        sentences=tuple(finder.sentences),
    )


@dataclass
class _Finder:
    """Looks through a run folder once.

    Attributes:
        not_ours, sentences: see `Collected`; filled on the way.
    """

    store: Store
    run: RunRecord
    not_ours: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)

    def garbage(self) -> Iterator[Garbage]:
        """Everything that nobody needs, of every age."""
        committed = {name[1] for _, name in self._ours("commits/", _COMMIT)}
        self._refuse_lost_generations(committed)
        yield from self._plans()
        rows = self._groups("metadata/", _ROWS)
        plan = open_plan(self.store, self.run)
        unplanned: list[Garbage] = []
        for shard, garbage in self._data(plan):
            if shard in plan.every_shard:
                yield garbage
            else:
                unplanned.append(garbage)
        plan = plan.refreshed()
        yield from (one for one in unplanned if _shard_of(one.name) not in plan.every_shard)
        yield from self._rows(rows)
        yield from self._attempts(plan, committed)
        yield from self._at_the_top()
        yield from self._unfinished(plan)
        yield from self._kept(plan)
        yield from _scratch()

    def _refuse_lost_generations(self, committed: Set[str]) -> None:
        """Refuses a run that lacks the record of a generation: its plan would seem to be nobody's.

        Raises:
            RunFolderError: the index names it, or a commit whose plan is here.
        """
        index = find_index(self.store, self.run)
        known = len(find_generations(self.store, self.run))
        lost = {one.number for one in (index.generations if index else ()) if one.number > known}
        lost |= {
            generation_of(shard)
            for shard in committed
            if generation_of(shard) > known and self._has_plan_of(shard)
        }
        if lost:
            raise RunFolderError(
                f"{generation_name(min(lost))} is missing, and the run has shards of it: "
                f"{RESTORE_IT}"
            )

    def _has_plan_of(self, shard: str) -> bool:
        with suppress(RunFolderError):
            commit = find_commit(self.store, shard)
            return commit is not None and self.store.find(plan_name(commit.plan_digest)) is not None
        return False

    def _plans(self) -> Iterator[Garbage]:
        lying = [*self._ours("plan/", _PLAN), *self._ours("sources/", _PLAN)]
        named = _named_plans(self.run, find_generations(self.store, self.run))
        for found, _ in lying:
            if found.key not in named:
                yield self._of("plans", found, lambda key=found.key: self._remove_plan(key))

    def _remove_plan(self, name: str) -> None:
        """Deletes a plan, and puts it back where a generation has named it meanwhile."""
        with scratch_file() as copy:
            for start in range(0, 1 << 40, PIECE_BYTES):
                try:
                    piece = self.store.get_range(name, start, PIECE_BYTES)
                except ObjectNotFound:  # somebody else has deleted it
                    return
                copy.write(piece)
                if len(piece) < PIECE_BYTES:
                    break
            copy.flush()
            self.store.delete(name)
            if name in _named_plans(self.run, find_generations(self.store, self.run)):
                self.store.put(name, Path(copy.name))

    def _data(self, plan: RunPlan) -> Iterator[tuple[str, Garbage]]:
        """The files of shards that their commits do not name, each with its shard."""
        superseded = superseded_shards(plan.generations)

        def unnamed(group: tuple[str, list[StoredObject]]) -> list[StoredObject]:
            shard, files = group
            return self._unnamed(shard, files, shard in plan.every_shard, shard in superseded)

        listed = self._ours("data/", _DATA)
        groups = (
            (shard, [found for found, _ in files])
            for shard, files in groupby(listed, key=lambda one: one[1][1])
        )
        for found in _each(unnamed, groups):
            for file in found:
                yield _shard_of(file.key), self._of("data", file)

    def _unnamed(
        self, shard: str, files: list[StoredObject], is_planned: bool, is_superseded: bool
    ) -> list[StoredObject]:
        """The files of a shard that nothing needs."""
        try:
            commit = find_commit(self.store, shard)
        except RunFolderError as error:
            if is_superseded:  # it does not count, whatever it names
                return files
            self.sentences.append(f"the files of shard {shard} stay: {error}")
            return []
        if commit is None:
            moved_away = self.store.find(f"{FOREIGN}{commit_name(shard)}")
            return [] if is_planned or moved_away else files
        named = {file.name for file in commit.files}
        return [file for file in files if file.key not in named]

    def _rows(self, groups: dict[str, list[StoredObject]]) -> Iterator[Garbage]:
        """The final rows of earlier states of the run."""
        index = find_index(self.store, self.run)
        needed = {_ROWS.fullmatch(file.name) for file in (index.metadata if index else ())}
        folders = {name[1] for name in needed if name}
        if groups.keys() <= folders:
            return
        try:
            folders.add(current_index(self.store, self.run).metadata_folder)
        except RunFolderError as error:
            self.sentences.append(f"metadata/ stays: {error}")
            return
        for folder, files in groups.items():
            if folder not in folders:
                refuse_linked_folders(self.store, folder.rstrip("/"))
                yield from self._together("metadata", files)

    def _attempts(self, plan: RunPlan, committed: Set[str]) -> Iterator[Garbage]:
        """The only attempts at shards of a complete run, but for those that may be written to.

        Where there were more, some came to nothing: they alone say what the run spent on them.
        """
        for found in self.store.list("generations/"):
            self.not_ours += [] if number_of(found.key) else [found.key]
        if not plan.shards.keys() <= committed:
            return
        lease_over = self._lease_over()
        for shard, files in self._groups("attempts/", _ATTEMPT).items():
            if shard in committed and len(files) == 1 and files[0].modified <= lease_over:
                refuse_linked_folders(self.store, f"attempts/{shard}")
                yield self._of("attempts", files[0])

    def _lease_over(self) -> datetime:
        """What was written before is nobody's who still lives."""
        return self.store.now() - timedelta(seconds=LEASE_SECONDS)

    def _at_the_top(self) -> Iterator[Garbage]:
        for found in self.store.list("probe-"):
            if _PROBE.fullmatch(found.key):
                yield self._of("probes", found)
        lease_over = self._lease_over()
        for found in self.store.list(SIGN):
            if _SIGN.fullmatch(found.key) and found.modified <= lease_over:
                yield self._of("probes", found)
        if claim := self.store.find(CLAIM_NAME):
            yield self._of("claims", claim)

    def _unfinished(self, plan: RunPlan) -> Iterator[Garbage]:
        """What was to become a file of ours, but for those of shards that are to be rendered."""
        is_local = local_path(self.store.uri) is not None
        for found in self.store.unfinished():
            data = _DATA.fullmatch(found.key)
            is_needed = (
                data is not None
                and data[1] in plan.every_shard
                and self.store.find(commit_name(data[1])) is None
            )
            is_ours = is_local or data or _PLAN.fullmatch(found.key) or _ROWS.fullmatch(found.key)
            if is_ours and not is_needed:
                yield self._of(
                    "unfinished", found, lambda found=found: self.store.delete_unfinished(found)
                )

    def _kept(self, plan: RunPlan) -> Iterator[Garbage]:
        for planned in (self.run, *plan.generations):
            waiting = kept_shards(self.store.uri, self.run.fingerprint, planned.plan_digest)
            for shard, folder in waiting.items():
                if shard not in plan.shards or self.store.find(commit_name(shard)) is not None:
                    yield _of_machine("kept", folder, lambda path=folder: remove_kept(path))
        for folder in kept_of_lost_runs():
            yield _of_machine("kept", folder, lambda path=folder: remove_kept(path))

    def _ours(
        self, prefix: str, pattern: re.Pattern[str]
    ) -> Iterator[tuple[StoredObject, re.Match[str]]]:
        """The objects whose names a run gives; the others are noted."""
        for found in self.store.list(prefix):
            if name := pattern.fullmatch(found.key):
                yield found, name
            else:
                self.not_ours.append(found.key)

    def _groups(self, prefix: str, pattern: re.Pattern[str]) -> dict[str, list[StoredObject]]:
        """The objects by what their names have in common."""
        groups: dict[str, list[StoredObject]] = {}
        for found, name in self._ours(prefix, pattern):
            groups.setdefault(name[1], []).append(found)
        return groups

    def _of(
        self, kind: str, found: StoredObject, remove: Callable[[], None] | None = None
    ) -> Garbage:
        return Garbage(
            kind=kind,
            name=found.key,
            num_bytes=found.size,
            modified=found.modified,
            remove=remove or (lambda: self.store.delete(found.key)),
        )

    def _together(self, kind: str, files: Sequence[StoredObject]) -> Iterator[Garbage]:
        """Files that are as old as the youngest of them: some of them alone say nothing."""
        youngest = max(file.modified for file in files)
        for file in files:
            yield Garbage(
                kind=kind,
                name=file.key,
                num_bytes=file.size,
                modified=youngest,
                remove=lambda key=file.key: self.store.delete(key),
            )


def _named_plans(run: RunRecord, generations: Sequence[Generation]) -> set[str | None]:
    plans = (run, *generations)
    return {one.plan_name for one in plans} | {one.sources_name for one in plans}


def _shard_of(name: str) -> str:
    found = _DATA.fullmatch(name)
    return found[1] if found else ""


def _scratch() -> Iterator[Garbage]:
    for path in find_leftovers():
        yield _of_machine("scratch", path, remove_leftovers)


def _of_machine(kind: str, path: Path, remove: Callable[[], None]) -> Garbage:
    sizes = list(_sizes(path))
    return Garbage(
        kind=kind,
        name=str(path),
        num_bytes=sum(found.st_size for found in sizes),
        modified=datetime.fromtimestamp(max((one.st_mtime for one in sizes), default=0), UTC),
        remove=remove,
    )


def _sizes(path: Path) -> Iterator[os.stat_result]:
    """Of a file, or of a folder and all in it; of what its owner removes meanwhile, nothing."""
    inside = (
        Path(folder, name) for folder, folders, files in os.walk(path) for name in folders + files
    )
    for one in (path, *inside):
        with suppress(FileNotFoundError):
            yield one.lstat()


def _each(action: Callable[[Any], T], things: Iterable[Any]) -> Iterator[T]:
    """What the action gives for each thing, in order, in threads, a batch at a time."""
    left = iter(things)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        while batch := list(islice(left, BATCH)):
            yield from pool.map(action, batch)
