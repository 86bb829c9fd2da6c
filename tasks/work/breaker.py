"""Do too many items fail for reasons that are not their inputs'?"""

from __future__ import annotations

from collections import deque

from manifests.items import ErrorClass
from manifests.job import Limits
from manifests.outcomes import Outcome

WINDOW = 50
"""The last items that are looked at."""

FAULTS_OF_INPUTS = (
    *(ErrorClass.INPUT_MISSING, ErrorClass.DECODE, ErrorClass.UNSUPPORTED),
    *(ErrorClass.LICENSE_DENIED, ErrorClass.REJECTED),
)
"""They say nothing about the machine or the model; a rejected picture was made and judged."""


class Breaker:
    """Judges the last 50 items of a worker, and nothing before it has finished so many.

    So a small job whose items all fail ends with a row for each.

    Args:
        limits: of the job; `stop_when_failing` is the share, and null never trips.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failed: deque[ErrorClass | None] = deque(maxlen=WINDOW)

    def note(self, outcome: Outcome) -> None:
        """Counts an item that has ended."""
        problem = outcome.problem
        counts = problem is not None and problem.error_class not in FAULTS_OF_INPUTS
        self._failed.append(problem.error_class if problem is not None and counts else None)

    def finding(self) -> str | None:
        """Why the run must stop, in one sentence; None while all is well."""
        failed = [error_class for error_class in self._failed if error_class is not None]
        if len(self._failed) < WINDOW or not self._limits.stops(len(failed), WINDOW):
            return None
        classes = ", ".join(f"{failed.count(one)} {one.value}" for one in sorted(set(failed)))
        return (
            f"{len(failed)} of the last {WINDOW} items failed ({classes}), none of them for its "
            f"inputs; limits.stop_when_failing allows {self._limits.stop_when_failing}: find the "
            "cause and run the job again, or set it to null"
        )
