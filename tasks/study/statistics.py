"""What do votes tell, and how sure is it? Numbers alone; nothing here knows of a study.

Where people are the units, they are drawn again with a fixed seed, so that the same votes always
give the same figures. What is not defined is None and never a number.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z = 1.959963984540054
"""Of 95 % of a normal distribution, on both sides."""

NUM_RESAMPLES = 2000
NUM_STRENGTH_RESAMPLES = 500
SEED = 0

MAX_ITERATIONS = 20_000
TOLERANCE = 1e-10
"""Of the strengths, which sum to 1."""

MIN_SHARE_USABLE = 0.95
"""Of the draws of people from which strengths follow; with fewer there is no interval."""

Interval = tuple[float, float]
Counts = NDArray[np.float64]


def wilson_interval(num_wins: int, num_votes: int) -> Interval | None:
    """95 % interval of a share, each vote taken as independent (Wilson 1927); None of no votes."""
    if not num_votes:
        return None
    share = num_wins / num_votes
    denominator = 1 + Z**2 / num_votes
    middle = (share + Z**2 / (2 * num_votes)) / denominator
    spread = math.sqrt(share * (1 - share) / num_votes + Z**2 / (4 * num_votes**2))
    half = Z * spread / denominator
    low = middle - half if num_wins else 0.0
    high = middle + half if num_wins < num_votes else 1.0
    return low, high


def people_interval(wins: Sequence[int], votes: Sequence[int]) -> Interval | None:
    """95 % interval of a share with people as the units: percentiles over draws of people.

    Args:
        wins: of each person.
        votes: of each person, one or more.

    Returns:
        None of fewer than two people.
    """
    if len(votes) < 2:
        return None
    weights = _draws_of_people(len(votes), NUM_RESAMPLES)
    shares = (weights @ np.asarray(wins, float)) / (weights @ np.asarray(votes, float))
    low, high = np.percentile(shares, [2.5, 97.5])
    return float(low), float(high)


def sign_test(num_wins: int, num_votes: int) -> float | None:
    """Two-sided exact p-value of as many wins or more if both were chosen equally often."""
    if not num_votes:
        return None
    fewer = min(num_wins, num_votes - num_wins)
    ways = term = 1
    for number in range(1, fewer + 1):
        term = term * (num_votes - number + 1) // number
        ways += term
    return min(1.0, 2 * ways / (1 << num_votes))


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Agreement beyond chance on a nominal scale: 1 is full agreement, 0 what chance gives.

    It allows that units are judged by different numbers of people, which Fleiss' kappa does not.

    Args:
        units: the labels that each unit was given; those with fewer than two do not count.

    Returns:
        None where no unit has two labels, or all labels are the same.

    Reference: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C.
    """
    labels = sorted({label for unit in units for label in unit}, key=repr)
    counts = np.array([[unit.count(label) for label in labels] for unit in map(list, units)], float)
    counts = counts.reshape(len(units), len(labels))
    counts = counts[counts.sum(1) >= 2]
    of_label = counts.sum(0)
    total = of_label.sum()
    expected = total**2 - (of_label**2).sum()
    if not expected:
        return None
    num_judges = counts.sum(1)
    unlike = ((num_judges**2 - (counts**2).sum(1)) / (num_judges - 1)).sum()
    return float(1 - (total - 1) * unlike / expected)


def pairwise_agreement(units: Sequence[Sequence[Hashable]]) -> float | None:
    """Of two people who judged the same unit, how often they said the same; None of no two."""
    alike = pairs = 0
    for unit in units:
        pairs += len(unit) * (len(unit) - 1) // 2
        alike += sum(n * (n - 1) // 2 for n in (unit.count(label) for label in set(unit)))
    return alike / pairs if pairs else None


@dataclass(frozen=True)
class Strengths:
    """Bradley–Terry strengths: i is chosen over j with the chance p_i / (p_i + p_j).

    Attributes:
        strengths: by name, sum 1; None where the votes do not determine them.
        intervals: 95 % over draws of people; None where too many draws do not determine them.
        problem: what keeps strengths from being determined, in words.
    """

    strengths: Mapping[str, float] | None
    intervals: Mapping[str, Interval] | None
    problem: str | None


def bradley_terry(names: Sequence[str], people: Sequence[Counts]) -> Strengths:
    """Strengths of entries from who was chosen over whom.

    Args:
        names: of the entries.
        people: of each person how often entry i was chosen over entry j, (entries, entries).

    Reference: Hunter 2004, MM algorithms for generalized Bradley–Terry models, equation 3; the
    condition for a finite maximum is Ford's (1957), assumption 1 there.
    """
    stacked = np.asarray(people, float).reshape(-1, len(names), len(names))
    wins = stacked.sum(0)
    if (problem := _undetermined(names, wins)) is not None:
        return Strengths(None, None, problem)
    found = _maximise(wins[None])[0]
    strengths = dict(zip(names, map(float, found), strict=True))
    return Strengths(strengths, _strength_intervals(names, stacked), None)


def _strength_intervals(names: Sequence[str], stacked: Counts) -> dict[str, Interval] | None:
    if len(stacked) < 2:
        return None
    weights = _draws_of_people(len(stacked), NUM_STRENGTH_RESAMPLES)
    drawn = np.einsum("rp,pij->rij", weights, stacked)
    usable = [wins for wins in drawn if _undetermined(names, wins) is None]
    if len(usable) < MIN_SHARE_USABLE * len(drawn):
        return None
    low, high = np.percentile(_maximise(np.asarray(usable)), [2.5, 97.5], axis=0)
    return {name: (float(low[n]), float(high[n])) for n, name in enumerate(names)}


def _draws_of_people(number: int, num_draws: int) -> Counts:
    """How often each person is in each of the draws, (draws, people)."""
    random = np.random.default_rng(SEED)
    return random.multinomial(number, np.full(number, 1 / number), num_draws).astype(float)


def _undetermined(names: Sequence[str], wins: Counts) -> str | None:
    """Why no finite strengths follow: in some split of the entries one side never won."""
    beats = wins > 0
    number = len(names)
    reached = beats | np.eye(number, dtype=bool)
    for _ in range(max(1, number.bit_length())):
        reached = reached @ reached
    if reached.all():
        return None
    unbeaten = next(n for n in range(number) if (reached[:, n] <= reached[n]).all())
    same = reached[:, unbeaten]
    one = ", ".join(names[n] for n in range(number) if same[n])
    other = ", ".join(names[n] for n in range(number) if not same[n])
    if not beats[same][:, ~same].any():
        return f"nobody compared {one} with {other}"
    return f"nobody chose {other} over {one}"


def _maximise(wins: Counts) -> Counts:
    """The strengths of greatest likelihood for each draw, (draws, entries), by the MM algorithm."""
    num_won = wins.sum(2)
    num_met = wins + wins.transpose(0, 2, 1)
    strengths = np.full(num_won.shape, 1 / num_won.shape[1])
    for _ in range(MAX_ITERATIONS):
        met = num_met / (strengths[:, :, None] + strengths[:, None, :])
        improved = num_won / met.sum(2)
        improved /= improved.sum(1, keepdims=True)
        change = np.abs(improved - strengths).max()
        strengths = improved
        if change < TOLERANCE:
            break
    return strengths
