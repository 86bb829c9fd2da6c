"""What may a run cost, and until when may it go on? Whoever takes a shard asks first.

What earlier runs of the folder spent counts. Shards in hand are finished, so that nothing that was
paid for is thrown away.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from manifests.amounts import plain_number
from manifests.errors import JobError
from manifests.job_parts import Part
from manifests.job_values import NonEmpty, number
from manifests.wording import safe_line

SECONDS_PER_HOUR = 3600.0

_LENGTH = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}.*")

_WORDS = "give a length of time such as 8h or 30m, a time such as 06:00, or 2026-12-24T06:00"


def _is_a_deadline(text: str) -> str:
    deadline_at(text.strip(), datetime.now().astimezone())
    return text.strip()


Bound = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(number)]


class Budget(Part):
    """Bounds on what a run spends; workers stop taking shards where the next one would exceed them.

    Attributes:
        max_gpu_hours: hours that workers hold their devices, added up over the run folder.
        max_cost: the same hours at `compute.price_per_hour`, in its money.
        deadline: when everything in hand shall be committed: a time with its date, a time of day,
            or a length of time from the start of the command, such as `8h`.
    """

    max_gpu_hours: Bound | None = None
    max_cost: Bound | None = None
    deadline: Annotated[NonEmpty, AfterValidator(_is_a_deadline)] | None = None

    @property
    def is_limited(self) -> bool:
        """Whether anything bounds the run."""
        return self != UNLIMITED

    def bounds(self, price_per_hour: float | None, began: datetime) -> Bounds:
        """The bounds that workers obey.

        Args:
            price_per_hour: of the machine that one worker takes; None or 0 where it has none.
            began: when the command or the flow run began, with a time zone.

        Raises:
            JobError: the deadline is past, or costs are bounded and nobody knows them.
        """
        if self.max_cost is not None and not price_per_hour:
            raise JobError(
                f"max_cost: {plain_number(self.max_cost)} bounds nothing without a price: set "
                "compute.price_per_hour in the job, or bound the run by its GPU-hours"
            )
        deadline = None if self.deadline is None else deadline_at(self.deadline, began)
        if deadline is not None and deadline <= began:
            raise JobError(
                f"deadline: {self.deadline} is past (it is {began:%Y-%m-%d %H:%M %Z} now): {_WORDS}"
            )
        return Bounds(
            max_gpu_hours=self.max_gpu_hours,
            max_cost=self.max_cost,
            price_per_hour=price_per_hour,
            deadline=deadline,
        )


UNLIMITED = Budget()


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A budget with its price, and its deadline as a moment; made by `Budget.bounds`.

    Attributes:
        price_per_hour: of the machine that one worker takes; None where it is not known.
        deadline: with its time zone; each machine compares it with its own clock.
    """

    max_gpu_hours: float | None = None
    max_cost: float | None = None
    price_per_hour: float | None = None
    deadline: datetime | None = None

    @property
    def max_seconds(self) -> float | None:
        """That workers may hold their devices in all; None where nothing bounds them."""
        hours = [] if self.max_gpu_hours is None else [self.max_gpu_hours]
        if self.max_cost is not None and self.price_per_hour:
            hours.append(self.max_cost / self.price_per_hour)
        return SECONDS_PER_HOUR * min(hours) if hours else None

    @property
    def is_limited(self) -> bool:
        """Whether anything bounds the run."""
        return self.deadline is not None or self.max_seconds is not None


UNBOUNDED = Bounds()


def deadline_at(text: str, began: datetime) -> datetime:
    """The moment that a deadline means; it may be past.

    Args:
        text: `8h`, `30m`: so long after `began`; `06:00`: the next such time of this machine;
            or a date and a time, of this machine where they name no zone.
        began: with a time zone.

    Raises:
        ValueError: the text is none of these.
    """
    if found := _LENGTH.fullmatch(text):
        length = timedelta(**{_UNITS[found[2]]: float(found[1])})
        if length <= timedelta(0):
            raise ValueError(f"{text} leaves no time: {_WORDS}")
        return began + length
    if found := _TIME_OF_DAY.fullmatch(text):
        here = began.astimezone().replace(tzinfo=None)
        today = here.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        days = (today, today + timedelta(days=1))
        # Where clocks go back or forward, the later of the two moments, which lies ahead.
        moments = (day.replace(fold=1).astimezone() for day in days)
        return next(moment for moment in moments if moment > began)
    if _DATED.fullmatch(text):
        try:
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError):
            pass
    raise ValueError(f"{safe_line(text, 100)!r} is no deadline: {_WORDS}")
