"""What may a run cost? Whoever takes a shard asks first.

What earlier runs of the folder spent counts. Shards in hand are finished, so that nothing that was
paid for is thrown away.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from manifests.job_parts import Part
from manifests.job_values import Money, NonEmpty, number

Hours = Annotated[float, Field(gt=0, le=1e9), BeforeValidator(number)]


class Budget(Part):
    """Bounds on what a run spends; workers stop taking shards where the next one would exceed them.

    Attributes:
        max_gpu_hours: hours that workers hold their devices, added up over the run folder.
        max_cost: the same hours at `compute.price_per_hour`, in its money.
        deadline: when everything in hand shall be committed: a time with its date, a time of day,
            or a length of time from the start of the command, such as `8h`.
    """

    max_gpu_hours: Hours | None = None
    max_cost: Money | None = None
    deadline: NonEmpty | None = None

    @property
    def is_limited(self) -> bool:
        """Whether anything bounds the run."""
        return self != UNLIMITED


UNLIMITED = Budget()
