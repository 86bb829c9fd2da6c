"""What a run folder is, what is planned in it, and which shards exist, as its records say.

A shard exists if and only if its commit does, whatever lies in `data/`. Records are read in bounded
memory and checked; a damaged record is a RunFolderError that names the file and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from pydantic import ValidationError

from infra.store import (
    ObjectNotFound,
    SettledStore,
    Store,
    StoredObject,
    local_path,
    open_store,
)
from manifests.commits import (
    RUN_NAME,
    Commit,
    RunRecord,
    commit_name,
    read_commit,
    read_run,
)
from manifests.errors import RunFolderError
from manifests.generations import (
    Generation,
    generation_name,
    number_of,
    read_generation,
    refuse_gaps,
)
from manifests.plan import SHARD_PATTERN
from manifests.records import MAX_RECORD_BYTES, first_problem
from tasks.runs.scratch import scratch_errors

if TYPE_CHECKING:
    from manifests.commits import PlanReference
    from manifests.job import Job
    from manifests.plan import PlannedShard
    from manifests.plan_table import PlanFile
    from tasks.runs.run_plan import RunPlan

MAX_COMMIT_BYTES = 1 << 20
MAX_NOTE_BYTES = 1 << 16

PIECE_BYTES = 16 << 20
"""How much of a plan is in memory while it is copied."""

FOLDERS = ("attempts", "commits", "data", "generations", "plan", "sources")
"""The folders that we write into; `run.json` and the derived files lie beside them."""

SIGN = "sign-"
"""How objects are called by which workers show that they see this very folder, for moments."""

READERS = 16
_ATTEMPT = re.compile(rf"attempts/({SHARD_PATTERN})/([1-9][0-9]{{0,8}})\.json")
_COMMIT = re.compile(rf"commits/({SHARD_PATTERN})\.json")


def find_run(store: Store) -> RunRecord | None:
    """The run that lives in a folder, or None where none has been planned.

    Raises:
        RunFolderError: `run.json` is damaged, or writing would lead out of the folder.
    """
    refuse_linked_folders(store, *FOLDERS)
    try:
        data = store.get_range(RUN_NAME, 0, MAX_RECORD_BYTES + 1)
    except ObjectNotFound:
        if any(found.key.split("/")[0] == RUN_NAME for found in store.list(RUN_NAME)):
            raise RunFolderError(
                f"{RUN_NAME} in {store.uri} is a folder or a link to nowhere: restore the file, "
                "or choose another run folder"
            ) from None
        return None
    return read_run(data)


def refuse_linked_folders(store: Store, *names: str) -> None:
    """Refuses links in the place of folders: writing into them would lead out of the run folder.

    Raises:
        RunFolderError: one of the names, relative to a local run folder, is a link.
    """
    root = local_path(store.uri)
    if root is None:
        return
    for name in names:
        if (Path(root) / name).is_symlink():
            raise RunFolderError(
                f"{name} in {store.uri} is a link that leads elsewhere: put the folder itself there"
            )


def open_run(uri: str) -> tuple[Store, RunRecord]:
    """The run that lives in a folder.

    Raises:
        RunFolderError: there is none, or `run.json` is damaged.
    """
    store = open_store(uri)
    run = find_run(store)
    if run is None:
        raise RunFolderError(
            f"{uri!r} is not a run folder (it has no {RUN_NAME}): plan one with 'stylefarm run'"
        )
    return store_of(run, store), run


def store_of(run: RunRecord, store: Store) -> Store:
    """The store through which a run is written; the probe of its planning decided how."""
    return store if run.conditional_put else SettledStore(store)


def recorded_job(run: RunRecord) -> Job:
    """The job that `run.json` holds.

    Raises:
        RunFolderError: it is no job that this version knows, or not the one of the fingerprint.
    """
    from manifests.identity import stated_identity
    from manifests.job import job_from_dict

    way_out = "restore it, use the version of stylefarm that made it, or choose another run folder"
    try:
        job = job_from_dict(run.job)
    except (ValueError, TypeError, RecursionError) as error:
        found = first_problem(error) if isinstance(error, ValidationError) else str(error)
        reason = " ".join(found.split())[:300]
        raise RunFolderError(
            f"the job in {RUN_NAME} cannot be used ({reason}): {way_out}"
        ) from None
    for name, value in stated_identity(job).items():
        if run.identity.get(name, value) != value:
            raise RunFolderError(
                f"{RUN_NAME} is damaged ({name} of its job is not that of its identity): {way_out}"
            )
    return job


def find_generations(store: Store, run: RunRecord, *, known: int = 0) -> tuple[Generation, ...]:
    """The generations after the first, in order; only those after the first `known` are read.

    Raises:
        RunFolderError: one is missing, damaged, or not of this run.
    """
    names = (found.key for found in store.list("generations/"))
    numbers = sorted(number for name in names if (number := number_of(name)))
    refuse_gaps(numbers)

    def read(number: int) -> Generation:
        data = store.get_range(generation_name(number), 0, MAX_RECORD_BYTES + 1)
        return read_generation(data, number, run)

    with ThreadPoolExecutor(READERS) as pool:
        return tuple(pool.map(read, numbers[known:]))


def load_plan(store: Store, reference: PlanReference, *, generation: int = 0) -> PlanFile:
    """A plan, held to its digest and its rules, in a temporary file that ends with the object.

    Args:
        store: of the run folder.
        reference: `run.json`, or a generation.
        generation: its number.

    Raises:
        RunFolderError: the plan is missing or damaged.
        ScratchFull: there is no room for the temporary file.
    """
    from manifests.plan_table import WAY_OUT, PlanFile
    from tasks.runs.item_settings import check_settings

    with ExitStack() as until_opened:
        with scratch_errors():
            file = until_opened.enter_context(TemporaryFile(prefix="stylefarm-"))
            _download(store, reference.plan_name, file, WAY_OUT)
            file.flush()
        plan = PlanFile(file, reference, generation=generation)
        until_opened.pop_all()  # the plan closes it
    for task, params in plan.settings:
        try:
            check_settings(task, params)
        except (ValueError, TypeError, LookupError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunFolderError(
                f"{reference.plan_name} cannot be used (the settings of {task[:80]!r}: {reason}): "
                f"{WAY_OUT}"
            ) from None
    return plan


def _download(store: Store, name: str, file: IO[bytes], way_out: str) -> None:
    """Copies a file of the run folder, a piece at a time."""
    from manifests.parquet import MAX_FILE_BYTES

    found = store.find(name)
    if found is None:
        raise RunFolderError(f"{name} is missing: {way_out}")
    if found.size > MAX_FILE_BYTES:
        raise RunFolderError(
            f"{name} is damaged (it is larger than {MAX_FILE_BYTES} bytes): {way_out}"
        )
    try:
        for start in range(0, found.size, PIECE_BYTES):
            file.write(store.get_range(name, start, PIECE_BYTES))
    except ObjectNotFound:
        raise RunFolderError(f"{name} is missing: {way_out}") from None


def read_file(store: Store, name: str, way_out: str, size: int | None = None) -> bytes:
    """The bytes of a Parquet file of a run folder.

    Args:
        store: of the run folder.
        name: of the file, relative to the run folder.
        way_out: what the user can do about a damaged file.
        size: in bytes, as a commit states it; it is looked up where it is not given.

    Raises:
        RunFolderError: the file is missing, of another size, or too large to be read.
    """
    from manifests.parquet import MAX_FILE_BYTES

    if size is None:
        size = next((found.size for found in store.list(name) if found.key == name), 0)
    if size > MAX_FILE_BYTES:
        raise RunFolderError(
            f"{name} is damaged (it is larger than {MAX_FILE_BYTES} bytes): {way_out}"
        )
    try:
        data = store.get_range(name, 0, size + 1)
    except ObjectNotFound:
        raise RunFolderError(f"{name} is missing: {way_out}") from None
    if len(data) != size:
        found = len(data) if len(data) < size else f"more than {size}"
        raise RunFolderError(f"{name} is damaged (it has {found} bytes, not {size}): {way_out}")
    return data


def listed_commits(store: Store) -> dict[str, StoredObject]:
    """The commits that lie in a run folder, by shard; other files in `commits/` are ignored."""
    return {name[1]: found for found, name in _named(store, "commits/", _COMMIT)}


def find_commit(store: Store, shard: str) -> Commit | None:
    """A shard's commit, or None where the shard does not exist yet.

    Raises:
        RunFolderError: the commit is damaged.
    """
    try:
        data = store.get_range(commit_name(shard), 0, MAX_COMMIT_BYTES + 1)
    except ObjectNotFound:
        return None
    return read_commit(data[:MAX_COMMIT_BYTES], shard)


def pending_shards(store: Store, plan: PlanFile | RunPlan) -> dict[str, PlannedShard]:
    """The planned shards without a commit, the longest first."""
    committed = listed_commits(store)
    pending = (shard for name, shard in plan.shards.items() if name not in committed)
    return {shard.name: shard for shard in sorted(pending, key=lambda shard: -shard.cost_seconds)}


def has_pending_shards(store: Store, run: RunRecord) -> bool:
    """Whether a planned shard has no commit, told by numbers alone: no plan is read.

    Raises:
        RunFolderError: a generation is damaged.
    """
    from manifests.counting import superseded_shards

    generations = find_generations(store, run)
    superseded = superseded_shards(generations)
    planned = run.num_shards + sum(one.num_shards for one in generations) - len(superseded)
    committed = listed_commits(store).keys() - superseded
    return len(committed) < planned


@dataclass(frozen=True)
class ListedAttempt:
    """An attempt as a listing of the run folder has it.

    Attributes:
        modified: when it was written last, by the clock of the store.
    """

    shard: str
    number: int
    modified: datetime


def newest_attempts(store: Store) -> dict[str, ListedAttempt]:
    """The newest attempt at each shard that was ever tried, by shard; none of them is read."""
    newest: dict[str, ListedAttempt] = {}
    for found, name in _named(store, "attempts/", _ATTEMPT):
        shard, number = name[1], int(name[2])
        if shard not in newest or number > newest[shard].number:
            newest[shard] = ListedAttempt(shard, number, found.modified)
    return newest


def _named(
    store: Store, prefix: str, pattern: re.Pattern[str]
) -> Iterator[tuple[StoredObject, re.Match[str]]]:
    """The files whose names match the pattern; other files are not ours and are ignored."""
    for found in store.list(prefix):
        if name := pattern.fullmatch(found.key):
            yield found, name
