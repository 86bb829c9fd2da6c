"""What has a run spent? Seconds that workers held their devices, over all of its runs so far.

Commits say what they took, superseded ones too; attempts say what came to nothing. Each is read
once, and only what is new since the last look.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from infra.store import ObjectNotFound, ObjectUnreadable, Store
from manifests.attempts import AttemptRecord, attempt_name, read_attempt
from manifests.commits import Commit
from manifests.errors import RunFolderError
from manifests.plan import PlannedShard
from manifests.spending import wasted_seconds
from tasks.runs.committed import find_index
from tasks.runs.run_folder import READERS, ListedAttempt, find_commit, newest_attempts

logger = logging.getLogger(__name__)

MAX_ATTEMPT_BYTES = 1 << 20
MAX_ATTEMPTS_OF_A_SHARD = 256
MAX_ATTEMPTS_AT_ONCE = 1024
"""Attempts that one look reads at most; the next look reads more."""

Name = tuple[str, int]


class Spending:
    """What a run has spent, as far as this process has looked.

    Args:
        store: of the run folder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._commits: dict[str, Commit | None] = {}  # None where it is damaged
        self._attempts: dict[Name, AttemptRecord | None] = {}
        self._tried: Mapping[str, int] = {}

    def note(self, commit: Commit) -> None:
        """Takes in a commit that need not be read."""
        self._commits[commit.shard] = commit

    def look(self, committed: Collection[str], tried: Mapping[str, int]) -> None:
        """Reads what is new.

        Args:
            committed: every shard that has a commit.
            tried: of shards that were tried in vain, the number of the last attempt that does not
                go on.

        Raises:
            StoreError: the store refuses or does not answer.
        """
        self._read_commits(self._unread_commits(committed))
        unread = self._unread_attempts(tried)
        if len(unread) > MAX_ATTEMPTS_AT_ONCE:
            logger.warning(
                "%d attempts of this run came to nothing; %d of them are read now, for what they "
                "took",
                *(len(unread), MAX_ATTEMPTS_AT_ONCE),
            )
        unread = unread[:MAX_ATTEMPTS_AT_ONCE]
        with ThreadPoolExecutor(READERS) as pool:
            self._attempts.update(zip(unread, pool.map(self._read_attempt, unread), strict=True))
        self._tried = tried

    def unread(self, committed: Collection[str], tried: Mapping[str, int]) -> list[str]:
        """What a look would read: the shard of each commit and of each attempt."""
        attempts = [shard for shard, _ in self._unread_attempts(tried)]
        return self._unread_commits(committed) + attempts

    @property
    def seconds(self) -> float:
        """In all, of what was read; damaged commits count nothing here."""
        committed = sum(one.stats.device_seconds for one in self._commits.values() if one)
        return committed + sum(self._wasted(*one) for one in self._tried.items())

    @property
    def damaged(self) -> list[str]:
        """Shards whose commits do not say what they took."""
        return [shard for shard, commit in self._commits.items() if commit is None]

    def pace(self, planned: Mapping[str, PlannedShard], shards: Iterable[str]) -> float | None:
        """How much longer shards took than was planned, without loading; None where none is known.

        Args:
            planned: every planned shard.
            shards: those that are looked at; only those with a commit count.
        """
        taken = costs = 0.0
        for shard in shards:
            if (commit := self._commits.get(shard)) and shard in planned:
                taken += commit.stats.device_seconds - commit.stats.load_seconds
                costs += planned[shard].cost_seconds
        return taken / costs if taken > 0 and costs > 0 else None

    @property
    def longest_upload(self) -> float:
        """Seconds that the files of a shard took to the run folder, at most."""
        known = (one.stats.seconds_upload for one in self._commits.values() if one)
        return max((seconds for seconds in known if seconds is not None), default=0.0)

    @property
    def committed(self) -> Collection[str]:
        """The shards whose commits are known."""
        return self._commits.keys()

    def _wasted(self, shard: str, number: int) -> float:
        found = (self._attempts.get(name) for name in _attempts_of(shard, number))
        commit = self._commits.get(shard)
        return wasted_seconds([one for one in found if one], commit and commit.attempt_id)

    def _unread_commits(self, committed: Collection[str]) -> list[str]:
        return [shard for shard in committed if shard not in self._commits]

    def _unread_attempts(self, tried: Mapping[str, int]) -> list[Name]:
        names = (name for shard, number in tried.items() for name in _attempts_of(shard, number))
        return [name for name in names if name not in self._attempts]

    def _read_commits(self, shards: list[str]) -> None:
        """Reads commits; where they are many, first those that the published index has."""
        if len(shards) > READERS and (index := find_index(self._store)) is not None:
            self._commits.update((one.shard, one) for one in index.shards)
            shards = [shard for shard in shards if shard not in self._commits]
        with ThreadPoolExecutor(READERS) as pool:
            self._commits.update(zip(shards, pool.map(self._read_commit, shards), strict=True))

    def _read_commit(self, shard: str) -> Commit | None:
        try:
            return find_commit(self._store, shard)
        except (RunFolderError, ObjectUnreadable) as error:
            logger.warning("what shard %s took is not known: %s", shard, error)
            return None

    def _read_attempt(self, name: Name) -> AttemptRecord | None:
        try:
            data = self._store.get_range(attempt_name(*name), 0, MAX_ATTEMPT_BYTES)
            return read_attempt(data, *name)
        except (ObjectNotFound, ObjectUnreadable, RunFolderError):
            return None


def spent_seconds(
    store: Store, commits: Iterable[Commit], newest: Mapping[str, ListedAttempt] | None = None
) -> float:
    """What a run has spent until now, with what is in hand so far.

    Args:
        store: of the run folder.
        commits: every one of them.
        newest: attempt at each shard, where it was listed already.

    Raises:
        StoreError: the store refuses or does not answer.
    """
    spending = Spending(store)
    for commit in commits:
        spending.note(commit)
    listed = newest_attempts(store) if newest is None else newest
    numbers = {shard: one.number for shard, one in listed.items()}
    spending.look((), tried_in_vain(numbers, spending.committed))
    return spending.seconds


def tried_in_vain(newest: Mapping[str, int], committed: Collection[str]) -> dict[str, int]:
    """The shards of which an attempt is not known to be in their commit, with how many they have.

    Args:
        newest: the number of the newest attempt at each shard that does not go on.
        committed: shards with a commit.
    """
    return {
        shard: number for shard, number in newest.items() if number > 1 or shard not in committed
    }


def _attempts_of(shard: str, number: int) -> list[Name]:
    """The attempts up to a number, the newest first."""
    first = max(1, number - MAX_ATTEMPTS_OF_A_SHARD + 1)
    return [(shard, one) for one in range(number, first - 1, -1)]
