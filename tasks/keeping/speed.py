"""How fast is a run, and how long will it take with the workers that work on it now?

Told by commits alone: each process that is at work counts by the time between its own commits, so a
night in which nobody worked changes nothing, and a worker that joins counts at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import mean

from manifests.commits import Commit
from manifests.shard_stats import ShardStats

NUM_RECENT = 6
"""Commits of a worker that are looked at: enough to even out, few enough to be of now."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast workers are.

    Attributes:
        items_per_second: of all of them together.
        seconds_per_item: of one of them, on average.
    """

    items_per_second: float
    seconds_per_item: float


def speed_of(commits: Iterable[Commit], processes: Mapping[str, int]) -> Speed | None:
    """How fast the workers that are at work are together; None where that cannot be told yet.

    Args:
        commits: of the run.
        processes: how many workers each process at work has, by its name as commits have it.
    """
    commits_of: dict[str, list[Commit]] = defaultdict(list)
    for commit in commits:
        if commit.worker in processes:
            commits_of[commit.worker].append(commit)
    of_one: dict[str, float] = {}  # items in a second, of one worker of each process
    for process, number in processes.items():
        if rate := _rate(commits_of[process], NUM_RECENT * number + 1):
            of_one[process] = rate / number
    if not of_one:
        return None
    usual = mean(of_one.values())
    together = sum(number * of_one.get(process, usual) for process, number in processes.items())
    return Speed(items_per_second=together, seconds_per_item=sum(processes.values()) / together)


def _rate(commits: Sequence[Commit], most: int) -> float | None:
    """Items in a second over the last commits of a process, from the time between them.

    Of its first commit alone the time is not known, but what its renderer took; times are whole
    seconds.
    """
    recent = sorted(commits, key=lambda commit: commit.finished_at)[-most:]
    if len(recent) > 1:
        seconds = _seconds_between(recent[0], recent[-1])
        if seconds:
            return sum(commit.counts.planned for commit in recent[1:]) / seconds
    seconds = sum(_seconds_of(commit.stats) for commit in recent)
    return sum(commit.counts.planned for commit in recent) / seconds if seconds else None


def _seconds_of(stats: ShardStats) -> float:
    """What a worker took for a shard, as far as it says."""
    if stats.seconds_worked is not None:
        return stats.seconds_worked
    return stats.load_seconds + stats.render_seconds + stats.encode_seconds


def _seconds_between(first: Commit, last: Commit) -> float:
    """The time between two commits; 0 where their records do not tell it."""
    try:
        began, ended = (datetime.fromisoformat(one.finished_at) for one in (first, last))
        return max(0.0, (ended - began).total_seconds())
    except (ValueError, TypeError):  # no times, or only one of them with a time zone
        return 0.0
