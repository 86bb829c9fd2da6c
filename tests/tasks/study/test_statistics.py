"""Statistics against independent computations and published examples."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.study.statistics import (
    bradley_terry,
    krippendorff_alpha,
    pairwise_agreement,
    people_interval,
    sign_test,
    wilson_interval,
)


def test_the_wilson_interval_is_where_the_score_test_turns():
    """Its ends are the chances p of which the share lies 1.96 standard errors away."""
    for wins, votes in ((0, 10), (3, 10), (10, 10), (481, 900), (1, 1)):
        interval = wilson_interval(wins, votes)
        assert interval is not None
        for end in interval:
            if 0 < end < 1:
                error = math.sqrt(end * (1 - end) / votes)
                assert abs(wins / votes - end) / error == pytest.approx(1.959964, abs=1e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)  # Newcombe 1998
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # his table I
    assert wilson_interval(0, 0) is None


@given(st.integers(0, 25), st.integers(1, 25))
def test_the_sign_test_adds_up_the_chances_of_results_as_extreme(wins, votes):
    wins = min(wins, votes)
    chances = [math.comb(votes, n) * 0.5**votes for n in range(votes + 1)]
    extreme = sum(c for n, c in enumerate(chances) if abs(n - votes / 2) >= abs(wins - votes / 2))
    assert sign_test(wins, votes) == pytest.approx(min(1.0, extreme))


def test_the_sign_test_of_many_votes_is_no_overflow():
    assert sign_test(0, 5000) == pytest.approx(0.0)
    assert sign_test(2500, 5000) == 1.0
    assert sign_test(2400, 5000) == pytest.approx(0.00489, abs=2e-5)  # normal: z = 2.814
    assert sign_test(0, 0) is None


def alpha_by_pairs(units):
    """Krippendorff's alpha by its definition: observed over expected disagreement of all pairs."""
    units = [unit for unit in units if len(unit) > 1]
    values = [label for unit in units for label in unit]
    observed = sum(
        sum(a != b for a, b in permutations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / len(values)
    expected = sum(a != b for a, b in permutations(values, 2))
    return 1 - observed * len(values) * (len(values) - 1) / expected


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), min_size=1, max_size=8))
def test_alpha_is_what_its_definition_says(units):
    judged = [label for unit in units if len(unit) > 1 for label in unit]
    if len(set(judged)) < 2:
        assert krippendorff_alpha(units) is None
    else:
        assert krippendorff_alpha(units) == pytest.approx(alpha_by_pairs(units))


def test_alpha_of_published_data():
    """Krippendorff 2011, section C: nominal data, many observers, missing values; alpha 0.743."""
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[row[n] for row in data if row[n] is not None] for n in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_agreement_is_full_or_as_often_as_pairs_of_people_say_the_same():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"], ["a"]]) == 1.0
    assert pairwise_agreement([["a", "a"], ["b", "b", "b"], ["a"]]) == 1.0
    assert pairwise_agreement([["a", "b", "b"]]) == pytest.approx(1 / 3)
    assert pairwise_agreement([["a"], []]) is None
    assert krippendorff_alpha([]) is None


def test_people_who_each_say_the_same_make_the_interval_wide():
    """20 votes of 4 people who always say one thing are as good as 4 votes."""
    unsure, sure = people_interval([5, 5, 0, 0], [5] * 4), people_interval([3, 2] * 10, [5] * 20)
    assert unsure is not None
    assert sure is not None
    assert unsure == (0.0, 1.0)
    assert sure[1] - sure[0] < 0.1
    assert people_interval([1], [2]) is None
    assert people_interval([5, 5, 0, 0], [5] * 4) == unsure


def test_the_interval_over_people_is_that_of_drawing_people_again_one_by_one():
    wins, votes = [1, 4, 2, 0, 3] * 4, [4, 5, 2, 3, 6] * 4
    random = np.random.default_rng(1)
    shares = []
    for _ in range(4000):
        drawn = random.integers(0, 20, 20)
        shares.append(sum(wins[n] for n in drawn) / sum(votes[n] for n in drawn))
    expected = np.percentile(shares, [2.5, 97.5])
    assert people_interval(wins, votes) == pytest.approx(tuple(expected), abs=0.02)


def likelihood(wins, strengths) -> float:
    number = len(strengths)
    return sum(
        wins[i][j] * math.log(strengths[i] / (strengths[i] + strengths[j]))
        for i in range(number)
        for j in range(number)
        if i != j
    )


@settings(max_examples=25)
@given(
    st.integers(2, 4).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(1, 9), min_size=n, max_size=n), min_size=n, max_size=n
        )
    )
)
def test_strengths_have_the_greatest_likelihood(wins):
    names = [f"m{n}" for n in range(len(wins))]
    matrix = np.array(wins, float) * (1 - np.eye(len(wins)))
    found = bradley_terry(names, [matrix]).strengths
    assert found is not None
    best = [found[name] for name in names]
    assert sum(best) == pytest.approx(1)
    for n in range(len(wins)):
        for factor in (0.99, 1.01):
            other = [p * factor if k == n else p for k, p in enumerate(best)]
            assert likelihood(wins, other) < likelihood(wins, best)


def test_of_two_entries_the_strengths_are_the_shares():
    found = bradley_terry(["a", "b"], [np.array([[0.0, 3.0], [1.0, 0.0]])])
    assert found.strengths == pytest.approx({"a": 0.75, "b": 0.25})
    assert found.intervals is None  # one person


def test_strengths_are_found_again_from_votes_that_they_made():
    random = np.random.default_rng(0)
    truth = np.array([0.5, 0.3, 0.15, 0.05])
    people = []
    for _ in range(60):
        wins = np.zeros((4, 4))
        for _ in range(30):
            i, j = random.choice(4, 2, replace=False)
            winner, loser = (i, j) if random.random() < truth[i] / (truth[i] + truth[j]) else (j, i)
            wins[winner, loser] += 1
        people.append(wins)
    found = bradley_terry(list("abcd"), people)
    assert found.strengths is not None
    assert found.intervals is not None
    assert list(found.strengths.values()) == pytest.approx(truth, abs=0.04)
    for name, value in zip("abcd", truth, strict=True):
        low, high = found.intervals[name]
        assert low < found.strengths[name] < high
        assert high - low < 0.12
        assert low - 0.02 < value < high + 0.02


@pytest.mark.parametrize(
    ("wins", "said"),
    [
        ([[0, 5, 5], [0, 0, 3], [0, 3, 0]], "nobody chose b, c over a"),
        ([[0, 0, 0], [2, 0, 3], [2, 3, 0]], "nobody chose a over b, c"),
        ([[0, 4, 0], [4, 0, 0], [0, 0, 0]], "nobody compared a, b with c"),
        ([[0, 4, 0], [4, 0, 1], [0, 0, 0]], "nobody chose c over a, b"),
        ([[0, 1, 0], [0, 0, 1], [0, 0, 0]], "nobody chose b, c over a"),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], "nobody compared a with b, c"),
    ],
)
def test_strengths_that_votes_do_not_determine_are_not_made_up(wins, said):
    found = bradley_terry(["a", "b", "c"], [np.array(wins, float)])
    assert (found.strengths, found.intervals) == (None, None)
    assert found.problem == said
