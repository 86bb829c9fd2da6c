"""Is every file of a run what the run's records say of it? `stylefarm verify`.

All of it is read: every record itself, never what the index remembers of it, and every committed
file by its sha256, a piece at a time. What no longer counts (superseded shards) may be anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from infra.store import ObjectNotFound, ObjectUnreadable, Store, local_path
from manifests.attempts import attempt_name, read_attempt
from manifests.commits import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    Index,
    RunRecord,
    StoredFile,
    commit_name,
    read_index,
)
from manifests.errors import RunFolderError
from tasks.keeping.findings import Finding, finding, stored_matter
from tasks.keeping.verified_plans import VerifiedPlans
from tasks.keeping.verified_shards import check_rows, read_shard
from tasks.runs.committed import find_index
from tasks.runs.run_folder import (
    MAX_NOTE_BYTES,
    READERS,
    listed_commits,
    newest_attempts,
    open_run,
)

SHARDS_AHEAD = 2 * READERS
"""How many shards are being read, or wait with their Parquet parts for their rows to be checked."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a run folder was found to hold.

    Attributes:
        findings: all that is damaged, missing or foreign, each file once, in the order of names.
        num_shards, num_bytes: the committed shards that count, and what they hold.
        num_pending: planned shards without a commit that nobody misses.
    """

    findings: tuple[Finding, ...]
    num_shards: int
    num_bytes: int
    num_pending: int

    @property
    def lost_shards(self) -> list[str]:
        """The shards that must be planned again, each once."""
        lost = (one.shard for one in self.findings if one.remedy == "repair" and one.shard)
        return list(dict.fromkeys(lost))


def verify(run_uri: str, advance: Callable[[], None] = lambda: None) -> Verified:
    """Reads a run folder and holds all of it to its records; nothing is written.

    Args:
        run_uri: the run folder.
        advance: called after each committed shard; what it raises ends the reading.

    Raises:
        RunFolderError: there is no run, `run.json` cannot be read, or a later version wrote here.
        StoreError: the store refuses or does not answer.
    """
    store, run = open_run(run_uri)
    committed = list(listed_commits(store))  # first: the generations of all of these are there
    index, findings = _read_index(store, run)
    plans = VerifiedPlans(store, run, committed, index)
    findings += plans.findings
    live = [shard for shard in committed if shard not in plans.superseded]
    num_bytes = 0
    with ThreadPoolExecutor(READERS) as pool:
        for read in _ahead(pool, partial(read_shard, store, plans), live):
            check_rows(plans, read)
            findings += read.findings
            num_bytes += read.num_bytes
            advance()
        pending = plans.shards.keys() - set(committed)
        missing = _missing_commits(store, pool, pending, index)
        findings += missing
        findings += _derived(store, run, pool, index)
    return Verified(
        findings=_each_once(findings),
        num_shards=len(live),
        num_bytes=num_bytes,
        num_pending=len(pending - {one.shard for one in missing}),
    )


def _each_once(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding for each file, in the order of names; of several the first."""
    found: dict[str, Finding] = {}
    for one in findings:
        found.setdefault(one.name, one)
    return tuple(found[name] for name in sorted(found))


def _read_index(store: Store, run: RunRecord) -> tuple[Index | None, list[Finding]]:
    """The index, where there is one of this version; and what is the matter with it."""
    try:
        index = read_index(store.get_range(INDEX_NAME, 0, MAX_INDEX_BYTES))
    except ObjectNotFound:
        folders = _folders(store, [INDEX_NAME])
        return None, [finding(one, "is a folder: move it away", "restore") for one in folders]
    except (RunFolderError, ObjectUnreadable):
        return None, [finding(INDEX_NAME, "is damaged", "publish")]
    if index is not None and index.fingerprint != run.fingerprint:
        return None, [finding(INDEX_NAME, "belongs to another run", "publish")]
    return index, []


def _missing_commits(
    store: Store, pool: Executor, pending: Collection[str], index: Index | None
) -> list[Finding]:
    """Commits that were there: the index has them, or an attempt ended with them."""
    numbers = {shard: one.number for shard, one in newest_attempts(store).items()}
    indexed = {shard.shard: shard for shard in index.shards} if index else {}

    def look(shard: str) -> list[Finding]:
        name, known = commit_name(shard), indexed.get(shard)
        names = [name, *(file.name for file in (known.files if known else ()))]
        found = [finding(one, "is a folder", "repair", shard) for one in _folders(store, names)]
        was_there = known or _was_committed(store, shard, numbers.get(shard))
        if was_there and store.find(name) is None:  # it may have come since the listing
            found.append(finding(name, "is missing", "render", shard))
        return found

    return list(chain.from_iterable(_ahead(pool, look, sorted(pending))))


def _folders(store: Store, names: Iterable[str]) -> Iterator[str]:
    """Those of the names under which a folder lies, where nobody can write a file."""
    root = local_path(store.uri)
    for name in names:
        if root is not None and (Path(root) / name).is_dir():
            yield name


def _was_committed(store: Store, shard: str, number: int | None) -> bool:
    """Whether the newest attempt at a shard says that it has committed it."""
    if number is None:
        return False
    try:
        data = store.get_range(attempt_name(shard, number), 0, MAX_NOTE_BYTES)
        return read_attempt(data, shard, number).ending == "committed"
    except (RunFolderError, ObjectNotFound):
        return False


def _derived(store: Store, run: RunRecord, pool: Executor, index: Index | None) -> list[Finding]:
    """What is the matter with the files that the index names and nobody else."""

    def look(file: StoredFile) -> Finding | None:
        matter = stored_matter(store, file)
        return finding(file.name, matter, "publish") if matter else None

    found = [one for one in _ahead(pool, look, index.metadata if index else ()) if one]
    now = find_index(store, run) if found else None  # somebody may have published meanwhile
    return [one for one in found if now is None or one.name in {file.name for file in now.metadata}]


def _ahead(pool: Executor, do: Callable[[T], R], values: Iterable[T]) -> Iterator[R]:
    """What a function gives for each value, in their order; so many at most are begun or wait."""
    waiting: deque[Future[R]] = deque()
    for value in values:
        waiting.append(pool.submit(do, value))
        if len(waiting) >= SHARDS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
