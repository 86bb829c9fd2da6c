from __future__ import annotations

from collections import Counter, defaultdict
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from tasks.study.sessions import Asked, Comparison, halved, lay_out

OURS = "ours"


def comparisons_of(shape: list[tuple[int, int]], *, all_pairs: bool = False) -> list[Comparison]:
    """Of each (number of cases, number of competitors) a task."""
    made: list[Comparison] = []
    for task, (num_cases, num_rivals) in enumerate(shape):
        entries = [OURS, *(f"rival{n}" for n in range(num_rivals))]
        pairs = list(combinations(entries, 2))
        for case in range(num_cases):
            made += [
                Comparison(f"task{task}", f"case{task}-{case}", first, second)
                for first, second in pairs
                if all_pairs or first == OURS
            ]
    return made


shapes = st.lists(st.tuples(st.integers(2, 8), st.integers(1, 4)), min_size=1, max_size=3)


@st.composite
def layouts(draw):
    comparisons = comparisons_of(draw(shapes), all_pairs=draw(st.booleans()))
    trials = draw(st.integers(1, len(comparisons)))
    asked = Asked(
        people=draw(st.integers(1, 7)),
        trials=trials,
        repeats=draw(st.integers(0, min(3, trials))),
        attention=draw(st.integers(0, 3)),
    )
    seed = draw(st.integers(0, 1000))
    try:
        return comparisons, asked, seed, lay_out(comparisons, OURS, asked, Random(seed))
    except ManifestError:  # too few cases; whatever must work is below
        return comparisons, asked, seed, None


def even(lefts: list[bool]) -> bool:
    return abs(2 * sum(lefts) - len(lefts)) <= 1


@settings(max_examples=60)
@given(layouts())
def test_every_comparison_is_shown_equally_often_and_from_either_side_for_everybody(layout):
    comparisons, asked, _, sessions = layout
    if sessions is None:
        return
    shown: Counter[Comparison] = Counter({one: 0 for one in comparisons})
    lefts: defaultdict[tuple, list[bool]] = defaultdict(list)
    of = {(one.case, frozenset([one.first, one.second])): one for one in comparisons}
    for person, trials in enumerate(sessions):
        plain = [trial for trial in trials if trial.kind == "plain"]
        seen = [of[trial.case, frozenset([trial.left, trial.right])] for trial in plain]
        assert len(set(seen)) == len(seen) == asked.trials
        shown.update(seen)
        for trial, one in zip(plain, seen, strict=True):
            is_left = trial.left == one.first
            entries = (one.task, one.first, one.second)
            for key in (
                ("entries", entries),
                ("case", entries, one.case),
                ("person", person, one.first == OURS),
                ("person and entries", person, entries),
            ):
                lefts[key].append(is_left)
    assert max(shown.values()) - min(shown.values()) <= 1
    assert all(even(found) for found in lefts.values())


@settings(max_examples=60)
@given(layouts())
def test_no_case_comes_twice_in_a_row_and_repeats_are_far_from_what_they_repeat(layout):
    _, asked, _, sessions = layout
    for trials in sessions or ():
        assert [trial.number for trial in trials] == list(range(len(trials)))
        assert all(a.case != b.case for a, b in pairwise(trials))
        kinds = Counter(trial.kind for trial in trials)
        assert kinds["repeat"] == asked.repeats
        assert kinds["attention"] == asked.attention
        first = {(t.case, t.left, t.right): t.number for t in trials if t.kind == "plain"}
        repeated = [(t.case, t.right, t.left) for t in trials if t.kind == "repeat"]
        assert len(set(repeated)) == len(repeated)
        for trial in trials:
            if trial.kind == "repeat":
                since = trial.number - first[trial.case, trial.right, trial.left]
                assert since > max(2, (asked.trials + asked.attention) // 3)
            if trial.kind == "attention":
                assert {trial.left, trial.right} == {OURS, "decoy"}
                assert getattr(trial, trial.expected) == OURS
        lefts = [trial.expected == "left" for trial in trials if trial.kind == "attention"]
        assert even(lefts)


@given(layouts())
@settings(max_examples=30)
def test_the_same_seed_lays_out_the_same(layout):
    comparisons, asked, seed, sessions = layout
    if sessions is not None:
        assert lay_out(comparisons, OURS, asked, Random(seed)) == sessions


def test_another_seed_lays_out_otherwise():
    comparisons = comparisons_of([(8, 2)])
    asked = Asked(people=4, trials=10, repeats=2, attention=1)
    found = {lay_out(comparisons, OURS, asked, Random(seed)) for seed in range(5)}
    assert len(found) == 5


@pytest.mark.parametrize("shape", [[(2, 2)], [(3, 1)], [(10, 2), (10, 2), (10, 2)], [(2, 4)]])
def test_what_can_be_laid_out_is(shape):
    comparisons = comparisons_of(shape)
    for seed in range(8):
        for trials in range(2, min(len(comparisons), 12) + 1):
            asked = Asked(people=5, trials=trials, repeats=0, attention=0)
            assert len(lay_out(comparisons, OURS, asked, Random(seed))) == 5


def test_what_cannot_be_laid_out_is_told_with_a_remedy():
    comparisons = comparisons_of([(2, 2)])
    for asked, said in (
        (Asked(people=1, trials=5, repeats=0, attention=0), "there are 4 comparisons"),
        (Asked(people=1, trials=2, repeats=3, attention=0), "of 2 trials no more"),
        (Asked(people=1, trials=2, repeats=2, attention=0), "too few cases"),
    ):
        with pytest.raises(ManifestError, match=said):
            lay_out(comparisons, OURS, asked, Random(0))
    with pytest.raises(ManifestError, match="too few cases"):
        lay_out(
            comparisons_of([(1, 3)]),
            OURS,
            Asked(people=1, trials=3, repeats=0, attention=0),
            Random(0),
        )


nested = st.lists(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2), max_size=40)


@given(nested, st.integers(0, 99))
def test_every_set_of_two_families_is_halved(elements, seed):
    families = [[element[n] for element in elements] for n in (0, 1)]
    halves = halved(families[0], families[1], Random(seed))
    for paths in families:
        for depth in range(3):
            sets: defaultdict[tuple, list[bool]] = defaultdict(list)
            for path, half in zip(paths, halves, strict=True):
                sets[path[:depth]].append(half)
            assert all(even(found) for found in sets.values())
