"""What came out of a study: who took part, what they chose, and how sure that is.

Counted are the plain trials of people who gave every trivial answer rightly. Repeats tell only
whether a person says the same again, and the votes of inattentive people stand apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra.store import Store
from tasks.study.statistics import (
    Counts,
    Interval,
    Strengths,
    bradley_terry,
    krippendorff_alpha,
    pairwise_agreement,
    people_interval,
    sign_test,
    wilson_interval,
)
from tasks.study.study_file import Study
from tasks.study.votes import Session, gather_votes, read_sessions

Row = Mapping[str, Any]
"""A vote, by the columns of `VOTE_SCHEMA`."""


@dataclass(frozen=True)
class People:
    """Who took part, by session id; each is opened, and finished, unfinished or silent.

    Attributes:
        unfinished: those who have answered some of their trials.
        silent: those who have answered none.
        inattentive: those who answered a trivial trial wrongly.
    """

    finished: tuple[str, ...]
    unfinished: tuple[str, ...]
    silent: tuple[str, ...]
    inattentive: tuple[str, ...]

    @property
    def num_opened(self) -> int:
        """Everybody."""
        return len(self.finished) + len(self.unfinished) + len(self.silent)


@dataclass(frozen=True)
class Share:
    """How often one entry was chosen over another.

    Attributes:
        first: ours, where it is one of the two.
        num_people: who gave the votes.
        interval: 95 %, each vote taken as independent.
        interval_of_people: 95 %, with people as the units; None of fewer than two.
        p_value: two-sided sign test of equal chances, each vote taken as independent.
        alpha: agreement on cases that several judged; see `krippendorff_alpha`.
        agreement: how often two who judged the same case chose the same.
        num_shared: cases that several judged.
    """

    task: str
    question: str
    first: str
    second: str
    num_votes: int
    num_first: int
    num_people: int
    interval: Interval | None
    interval_of_people: Interval | None
    p_value: float | None
    alpha: float | None
    agreement: float | None
    num_shared: int

    @property
    def share(self) -> float:
        """Of the votes, those for the first."""
        return self.num_first / self.num_votes


@dataclass(frozen=True)
class Proportion:
    """How many of something, with a 95 % interval that takes each as independent."""

    number: int
    total: int

    @property
    def share(self) -> float | None:
        """None of nothing."""
        return self.number / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """By Wilson; None of nothing."""
        return wilson_interval(self.number, self.total)


@dataclass(frozen=True)
class Ranking:
    """The strengths of three or more entries of a task, for one question."""

    task: str
    question: str
    strengths: Strengths


@dataclass(frozen=True)
class Results:
    """All of it.

    Attributes:
        shares: counted votes, in the order of the study's tasks and questions.
        shares_apart: those of inattentive people.
        consistency: repeats answered as the first time, by question.
        left: how often the left side was chosen, among counted votes.
        rankings: for each task of three or more entries.
        problems: a sentence for each file that was left out.
        votes: every vote that was read, repeats and trivial trials too.
    """

    study: Study
    people: People
    shares: Sequence[Share]
    shares_apart: Sequence[Share]
    consistency: Mapping[str, Proportion]
    left: Proportion
    rankings: Sequence[Ranking]
    problems: Sequence[str]
    votes: pa.Table


def read_results(store: Store, study: Study) -> Results:
    """The results of the votes that lie in a study's folder now.

    Raises:
        StoreError: the store does not answer.
    """
    votes = gather_votes(store, study)
    sessions, damaged = read_sessions(store, study)
    rows: list[Row] = votes.table.to_pylist()
    inattentive = {
        row["session"]
        for row in rows
        if row["kind"] == "attention" and row["choice"] != row["expected"]
    }
    counted = [row for row in rows if row["session"] not in inattentive]
    apart = [row for row in rows if row["session"] in inattentive]
    plain = [row for row in counted if row["kind"] == "plain"]
    return Results(
        study=study,
        people=_people(study, sessions, rows, inattentive),
        shares=_shares(study, plain),
        shares_apart=_shares(study, [row for row in apart if row["kind"] == "plain"]),
        consistency=_consistency(counted),
        left=Proportion(sum(row["choice"] == "left" for row in plain), len(plain)),
        rankings=_rankings(study, plain),
        problems=(*damaged, *votes.damaged),
        votes=votes.table,
    )


def _people(
    study: Study, sessions: Iterable[Session], rows: Iterable[Row], inattentive: Collection[str]
) -> People:
    answered: dict[str, set[int]] = {session.id: set() for session in sessions}
    numbers = {session.id: session.number for session in sessions}
    for row in rows:
        answered.setdefault(row["session"], set()).add(row["trial"])
        numbers[row["session"]] = row["session_number"]
    finished = [
        one for one, trials in answered.items() if len(trials) == len(study.trials(numbers[one]))
    ]
    begun = [one for one, trials in answered.items() if trials and one not in finished]
    silent = [one for one, trials in answered.items() if not trials]
    return People(tuple(finished), tuple(begun), tuple(silent), tuple(sorted(inattentive)))


def _pair(study: Study, row: Row) -> tuple[str, str]:
    """The two entries that were shown, ours first."""
    first, second = sorted((row["left"], row["right"]), key=lambda name: (name != study.ours, name))
    return first, second


def _questions(study: Study, rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The votes by task and question, in the order in which the study has them."""
    order = [(task, question) for task in study.tasks for question in study.asked(task)]
    by_question: dict[tuple[str, str], list[Row]] = {one: [] for one in order}
    for row in rows:
        by_question[row["task"], row["question"]].append(row)
    return {one: found for one, found in by_question.items() if found}


def _shares(study: Study, rows: Sequence[Row]) -> list[Share]:
    shares: list[Share] = []
    for (task, question), found in _questions(study, rows).items():
        by_pair: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in found:
            by_pair[_pair(study, row)].append(row)
        in_order = sorted(by_pair, key=lambda pair: (pair[0] != study.ours, pair))
        shares += [_share(task, question, pair, by_pair[pair]) for pair in in_order]
    return shares


def _share(task: str, question: str, pair: tuple[str, str], rows: Sequence[Row]) -> Share:
    first, second = pair
    by_person: defaultdict[str, list[bool]] = defaultdict(list)
    by_case: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        by_person[row["session"]].append(row["chosen"] == first)
        by_case[row["case"]].append(row["chosen"])
    num_first = sum(map(sum, by_person.values()))
    units = list(by_case.values())
    return Share(
        task=task,
        question=question,
        first=first,
        second=second,
        num_votes=len(rows),
        num_first=num_first,
        num_people=len(by_person),
        interval=wilson_interval(num_first, len(rows)),
        interval_of_people=people_interval(
            [sum(of_person) for of_person in by_person.values()],
            [len(of_person) for of_person in by_person.values()],
        ),
        p_value=sign_test(num_first, len(rows)),
        alpha=krippendorff_alpha(units),
        agreement=pairwise_agreement(units),
        num_shared=sum(len(unit) > 1 for unit in units),
    )


def _consistency(rows: Iterable[Row]) -> dict[str, Proportion]:
    """By question, of the repeats whose first showing was answered too, those answered alike."""
    first: dict[tuple[Any, ...], str] = {}
    again: list[tuple[str, tuple[Any, ...], str]] = []
    for row in rows:
        shown = frozenset((row["left"], row["right"]))
        what = (row["session"], row["question"], row["case"], shown)
        if row["kind"] == "plain":
            first[what] = row["chosen"]
        elif row["kind"] == "repeat":
            again.append((row["question"], what, row["chosen"]))
    alike: defaultdict[str, list[bool]] = defaultdict(list)
    for question, what, chosen in again:
        if what in first:
            alike[question].append(first[what] == chosen)
    return {question: Proportion(sum(of), len(of)) for question, of in alike.items()}


def _rankings(study: Study, rows: Sequence[Row]) -> list[Ranking]:
    rankings: list[Ranking] = []
    for (task, question), found in _questions(study, rows).items():
        names = study.entries(task)
        if len(names) > 2:
            strengths = bradley_terry(names, _wins(names, found))
            rankings.append(Ranking(task, question, strengths))
    return rankings


def _wins(names: Sequence[str], rows: Iterable[Row]) -> list[Counts]:
    """Of each person how often each entry was chosen over each other one."""
    place = {name: number for number, name in enumerate(names)}
    people: dict[str, Counts] = {}
    for row in rows:
        wins = people.setdefault(row["session"], np.zeros((len(names), len(names))))
        other = row["right"] if row["choice"] == "left" else row["left"]
        wins[place[row["chosen"]], place[other]] += 1
    return list(people.values())
