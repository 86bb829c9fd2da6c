"""How sure is a mean over cases, and how often is one entry better than another?

The unit of resampling is the case. Every bootstrap of as many cases draws the same resamples, so
that entries share them: what is said of two entries is said of the same cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.comparing.figures import Direction

SEED = 0
LEVEL = 0.95
MOST_RESAMPLES, FEWEST_RESAMPLES = 10_000, 1_000
MOST_DRAWS = 100_000_000
"""Cases drawn in all; of more than 10,000 cases fewer resamples are enough."""

BLOCK = 1 << 20
"""Cases drawn at a time."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over cases, and the interval that the bootstrap gives it.

    Attributes:
        num_cases: how many cases it is of.
        low, high: ends of the interval; None for one case, of which nothing can be said.
    """

    num_cases: int
    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Wins:
    """In how many cases one is better than another."""

    wins: int
    ties: int
    losses: int

    @property
    def share(self) -> float:
        """Of the cases, ties counted as halves; 0 to 1."""
        return (self.wins + self.ties / 2) / (self.wins + self.ties + self.losses)


def num_resamples(num_cases: int) -> int:
    """How many resamples a bootstrap of so many cases draws."""
    return min(MOST_RESAMPLES, max(FEWEST_RESAMPLES, MOST_DRAWS // max(1, num_cases)))


def resampled_means(values: Values) -> Values:
    """The means of bootstrap resamples of the rows.

    Args:
        values: (cases, columns), without NaN.

    Returns:
        (resamples, columns). Resample after resample, `len(values)` cases are drawn with
        replacement by `numpy.random.default_rng(SEED).integers`.

    Reference: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".
    """
    generator = np.random.default_rng(SEED)
    num_cases, number = len(values), num_resamples(len(values))
    at_once = max(1, BLOCK // num_cases)
    blocks: list[Values] = []
    for start in range(0, number, at_once):
        drawn = generator.integers(num_cases, size=(min(at_once, number - start), num_cases))
        places = drawn + num_cases * np.arange(len(drawn))[:, None]
        counts = np.bincount(places.ravel(), minlength=len(drawn) * num_cases)
        blocks.append(counts.reshape(len(drawn), num_cases) @ values / num_cases)
    return np.concatenate(blocks)


def estimates(columns: Sequence[Values]) -> list[Estimate | None]:
    """The mean of each column with its percentile interval.

    Args:
        columns: a value for each case, NaN where there is none.

    Returns:
        One per column; None where it has no value at all.
    """
    alike: dict[bytes, list[int]] = defaultdict(list)
    for number, column in enumerate(columns):
        alike[np.isfinite(column).tobytes()].append(number)
    found: list[Estimate | None] = [None] * len(columns)
    for numbers in alike.values():
        values = np.stack([columns[number] for number in numbers], axis=1)
        values = values[np.isfinite(values[:, 0])]
        for number, estimate in zip(numbers, _estimates(values), strict=True):
            found[number] = estimate
    return found


def _estimates(values: Values) -> list[Estimate | None]:
    """The same of columns without NaN, (cases, columns)."""
    num_cases, num_columns = values.shape
    if num_cases == 0:
        return [None] * num_columns
    means: list[float] = values.mean(axis=0).tolist()
    if num_cases == 1:
        return [Estimate(1, mean) for mean in means]
    ends = np.quantile(resampled_means(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [
        Estimate(num_cases, mean, low, high)
        for mean, low, high in zip(means, *ends.tolist(), strict=True)
    ]


def paired_wins(ours: Values, theirs: Values, direction: Direction) -> Wins | None:
    """In how many of the cases that both have the first is better.

    Args:
        ours: a value for each case, NaN where there is none.
        theirs: the same of the other.
        direction: of the figure.

    Returns:
        None where the figure has no direction, or no case has both.
    """
    both = np.isfinite(ours) & np.isfinite(theirs)
    if direction is Direction.NONE or not both.any():
        return None
    bad, worse = (
        np.array([direction.badness(value) for value in values[both].tolist()])
        for values in (ours, theirs)
    )
    wins, ties = int((bad < worse).sum()), int((bad == worse).sum())
    return Wins(wins, ties, int(both.sum()) - wins - ties)
