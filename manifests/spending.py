"""What did a run spend on work that is in no commit? Told by its attempts alone.

Commits say what they took. An attempt that was stopped, lost, killed or that failed held its device
too: by its own clock, so that no clocks of two machines are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from manifests.attempts import AttemptRecord


def held_seconds(attempt: AttemptRecord) -> float:
    """That an attempt held its device, as far as its record tells.

    Records of earlier versions say when it began and ended, in whole seconds; of one that was
    killed they say nothing.
    """
    if attempt.device_seconds is not None:
        return attempt.device_seconds
    try:
        began, ended = map(datetime.fromisoformat, (attempt.begun_at, attempt.ended_at or ""))
        return max(0.0, (ended - began).total_seconds())
    except (ValueError, TypeError):  # no times, or only one of them with a time zone
        return 0.0


def wasted_seconds(attempts: Iterable[AttemptRecord], committed_by: str | None) -> float:
    """What attempts at one shard spent that came to nothing.

    Where a renderer dies, its worker goes on in a new attempt at once: if that one's work is
    committed, the commit has the seconds of all of them.

    Args:
        attempts: at the shard; none of them goes on.
        committed_by: the id of the attempt whose work is committed, if any is.
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.number)
    in_commit = _in_commit(ordered, committed_by)
    return sum(held_seconds(one) for one in ordered if one.number not in in_commit)


def _in_commit(ordered: Sequence[AttemptRecord], committed_by: str | None) -> set[int]:
    """The numbers of the attempts whose seconds a commit has."""
    by_number = {one.number: one for one in ordered}
    now = next((one for one in ordered if one.attempt_id == committed_by), None)
    found: set[int] = set()
    while now is not None:
        found.add(now.number)
        before = by_number.get(now.number - 1)
        goes_on = (
            before is not None
            and now.took_over == before.number
            and now.worker.id == before.worker.id
        )
        now = before if goes_on else None
    return found
