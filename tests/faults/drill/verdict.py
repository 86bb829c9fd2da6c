"""What a drill came to: its run folder held against that of an undisturbed run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from tests.audit import Audit

CLOCK_GRAIN = 1.0
"""Seconds by which the times in attempts and those that the drill saw may differ."""


@dataclass(frozen=True)
class Verdict:
    """The figures of a drill.

    Attributes:
        lost: items of the undisturbed run that have no row that counts, or are not planned.
        doubled: rows beyond the first that an item has in one generation.
        wrongly: sound items whose row says that they failed.
        begun_twice: shards that were begun while their holder was alive.
        digest_equal: whether the same files were made.
    """

    items: int
    lost: int
    doubled: int
    wrongly: list[str]
    begun_twice: list[str]
    digest_equal: bool

    @property
    def is_sound(self) -> bool:
        return self.digest_equal and not (self.lost or self.doubled or self.wrongly)

    def told(self, kills: int, faults: int) -> str:
        """The last line of a drill."""
        return (
            f"{kills} kills, {faults} faults, {self.items} items, lost {self.lost}, "
            f"doubled {self.doubled}, convicted wrongly {len(self.wrongly)}, "
            f"digest {'equal' if self.digest_equal else 'differs'}, "
            f"{len(self.begun_twice)} shards begun twice"
        )


def judge(
    drilled: Audit, undisturbed: Audit, kinds: Mapping[str, str], died_at: Mapping[int, float]
) -> Verdict:
    """Compares two run folders.

    Args:
        drilled, undisturbed: what the auditor found.
        kinds: what was planted, by the name of the content; an empty text is sound.
        died_at: when the processes of workers were seen to be gone, by process id.
    """
    rows = {row["item_id"]: row for row in drilled.rows}
    generations = Counter(
        (row["item_id"], _generation(row["shard"]))
        for row in drilled.all_rows
        if row["shard"] not in drilled.superseded
    )
    failed = [row for row in drilled.rows if row["status"] != "ok"]
    return Verdict(
        items=len(undisturbed.items),
        lost=len(undisturbed.items.keys() - rows.keys()),
        doubled=sum(number - 1 for number in generations.values()),
        wrongly=[row["key"] for row in failed if not kinds[_content(row)]],
        begun_twice=[
            shard for shard, attempts in drilled.attempts.items() if _twice(attempts, died_at)
        ],
        digest_equal=drilled.content_digest == undisturbed.content_digest,
    )


def _generation(shard: str) -> str:
    return shard[:5] if shard.startswith("g") else ""


def _content(row: Mapping[str, Any]) -> str:
    (uri,) = (one["uri"] for one in row["inputs"] if one["role"] == "content")
    return PurePosixPath(uri).stem


def _twice(attempts: list[dict[str, Any]], died_at: Mapping[int, float]) -> bool:
    """Whether an attempt began while an earlier one's worker was alive and had not ended it.

    A worker whose renderer has died begins the next attempt itself.
    """
    for earlier, later in pairwise(attempts):
        if earlier["worker"]["id"] == later["worker"]["id"]:
            continue
        begun = _seconds(later["begun_at"])
        ended = _seconds(earlier["ended_at"]) if earlier["ended_at"] else float("inf")
        gone = min(ended, died_at.get(earlier["worker"]["pid"], float("inf")))
        if gone > begun + CLOCK_GRAIN:
            return True
    return False


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
