"""Which entries compete in a study, and for which cases?

A competitor is known to compete with ours by the cases that they share, which entries know by what
their inputs hold. Whatever one of them lacks is told and not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Literal

from manifests.errors import ManifestError
from tasks.results.entries import Entry, read_entries
from tasks.study.criteria import kind_of
from tasks.study.outside import OutsideEntry, read_outside
from tasks.study.sessions import Comparison
from tasks.study.study_file import DECOY, OVERALL

MAX_CASES = 50
"""Of each task, unless more are asked for."""

MAX_NAME = 120
"""Letters of an entry's name."""

TINY = (8, 8)
"""Pixels of a reference that is only looked for."""

TITLE = "Which picture is better?"

CONSENT = (
    "You will see pairs of pictures that computer programs have made, and say each time which of "
    "the two is better. There is no right or wrong answer but to a few trivial pairs, which show "
    "that somebody is looking. Stored are your answers and how long each took, under a random "
    "number; no name, no address and nothing about your device. You may stop at any time, without "
    "a reason; what you have answered until then is kept. By beginning you agree to this."
)

Competitor = Entry | OutsideEntry


@dataclass(frozen=True)
class Wanted:
    """What somebody asks for.

    Attributes:
        ours: `NAME=RUN#LABEL`, one for each task, all under one name.
        against: competitors in runs; `TASK:` before one says which of our tasks it competes with.
        external: competitors as `NAME=FOLDER` of pictures, `TASK:` before it as well.
        base: the folder that relative paths start from.
        num_cases: of each task; None takes all, up to `MAX_CASES`.
        num_people: sessions that are laid out.
        num_trials: of each person; None takes all, up to `MAX_TRIALS`.
        num_repeats, num_attention: trials of each person beside these.
        all_pairs: competitors are compared with each other, too.
    """

    ours: Sequence[str]
    against: Sequence[str]
    external: Sequence[str]
    base: Path
    num_cases: int | None = None
    num_people: int = 20
    num_trials: int | None = None
    num_repeats: int = 3
    num_attention: int = 2
    all_pairs: bool = False
    question: Literal["overall", "criteria"] = OVERALL
    consent: str = CONSENT
    title: str = TITLE
    seed: int = 0


@dataclass(frozen=True)
class Contest:
    """One of our tasks with its competitors, and the cases that are shown of it.

    Attributes:
        cases: in the order of their keys.
        num_left_out: cases that could be shown and were not drawn.
        missing: a sentence for each case of ours that cannot be shown, as something lacks.
    """

    ours: Entry
    rivals: Sequence[Competitor]
    cases: Sequence[str]
    num_left_out: int
    missing: Sequence[str]

    @property
    def task(self) -> str:
        return self.ours.task

    @property
    def kind(self) -> str:
        item = self.ours.items[self.cases[0]]
        return kind_of(self.task, [one.role for one in item.case_inputs], item.prompt)

    def case_id(self, case: str) -> str:
        return f"{self.task}-{case}"

    def comparisons(self, all_pairs: bool) -> Iterator[Comparison]:
        names = [self.ours.name, *(rival.name for rival in self.rivals)]
        for case in self.cases:
            for first, second in combinations(names, 2):
                if all_pairs or first == self.ours.name:
                    yield Comparison(self.task, self.case_id(case), first, second)


def draw_contests(wanted: Wanted) -> list[Contest]:
    """Each of our tasks with its competitors and the cases that are shown.

    Raises:
        ManifestError: there is no such run or folder, or nothing that all have in common.
        RunFolderError: a run folder is damaged.
        StoreError: a store refuses or does not answer.
    """
    ours = _ours(wanted)
    rivals = _rivals(wanted, ours)
    contests: list[Contest] = []
    for task, entry in ours.items():
        _refuse_names(task, [entry.name, *(rival.name for rival in rivals[task])])
        cases, missing = _shared_cases(entry, rivals[task])
        if not cases:
            raise ManifestError(
                f"{task}: {entry.name} and its competitors have no case in common"
                + "".join(f"; {sentence}" for sentence in missing[:1])
            )
        drawn = _drawn(cases, wanted, task)
        contests.append(Contest(entry, rivals[task], drawn, len(cases) - len(drawn), missing))
    return contests


def _ours(wanted: Wanted) -> dict[str, Entry]:
    """Our entries by their task.

    Raises:
        ManifestError: there are two of one task, or they have different names.
    """
    found: dict[str, Entry] = {}
    for text in wanted.ours:
        entries = read_entries([text], wanted.base)
        if len(entries) > 1:
            raise ManifestError(
                f"{text!r} has {len(entries)} entries, and one is ours: write NAME={text}#LABEL "
                f"with one of {', '.join(repr(entry.label) for entry in entries)}"
            )
        (entry,) = entries
        if entry.task in found:
            raise ManifestError(
                f"{found[entry.task].name!r} and {entry.name!r} are both ours and both of the task "
                f"{entry.task}: give one with --ours, and the other with --against"
            )
        found[entry.task] = entry
    names = {entry.name for entry in found.values()}
    if len(names) > 1:
        raise ManifestError(
            f"ours has one name in all tasks; got {', '.join(sorted(names))}: write the same NAME= "
            "before each --ours"
        )
    if not found:
        raise ManifestError("nothing is ours: name a run with --ours NAME=RUN")
    return found


def _rivals(wanted: Wanted, ours: Mapping[str, Entry]) -> dict[str, list[Competitor]]:
    """The competitors of each of our tasks: those that were made from the same cases.

    Raises:
        ManifestError: one has no case in common with ours, or a task has no competitor.
    """
    rivals: dict[str, list[Competitor]] = {task: [] for task in ours}
    ours_places = {(entry.run_uri, entry.label) for entry in ours.values()}
    for tasks, texts in _by_task(wanted.against, ours).items():
        for entry in read_entries(texts, wanted.base):
            if (entry.run_uri, entry.label) in ours_places:
                continue  # a whole swept run was named, and ours is one of its entries
            shared = [task for task in tasks if entry.items.keys() & ours[task].items.keys()]
            if not shared:
                raise ManifestError(
                    f"{entry.name!r} has no case in common with {', '.join(tasks)} of ours: "
                    "compare runs over the same inputs"
                )
            for task in shared:
                rivals[task].append(entry)
    for tasks, texts in _by_task(wanted.external, ours).items():
        for text in texts:
            for task, outside in read_outside(text, wanted.base, [ours[task] for task in tasks]):
                rivals[task].append(outside)
    for task, found in rivals.items():
        if not found:
            raise ManifestError(
                f"{task} of {ours[task].name!r} has no competitor: name one with --against "
                "NAME=RUN#LABEL or --external NAME=FOLDER"
            )
    return rivals


def _by_task(texts: Sequence[str], ours: Mapping[str, Entry]) -> dict[tuple[str, ...], list[str]]:
    """The texts by the tasks that they compete with: the one before the colon, or all of ours."""
    found: dict[tuple[str, ...], list[str]] = {}
    for text in texts:
        task, colon, rest = text.partition(":")
        of_one = bool(colon) and task in ours
        found.setdefault((task,) if of_one else tuple(ours), []).append(rest if of_one else text)
    return found


def _refuse_names(task: str, names: Sequence[str]) -> None:
    for name in names:
        if name == DECOY or len(name) > MAX_NAME:
            raise ManifestError(
                f"an entry of a study is not called {name[:MAX_NAME]!r}: give it another of at "
                f"most {MAX_NAME} letters, as NAME=RUN#LABEL"
            )
        if names.count(name) > 1:
            raise ManifestError(
                f"two entries of {task} are called {name!r}: give one of them another name, as "
                "NAME=RUN#LABEL or NAME=FOLDER"
            )


def _shared_cases(ours: Entry, rivals: Sequence[Competitor]) -> tuple[list[str], list[str]]:
    """The cases of which all have a picture, in the order of their keys, and what is missing."""
    shared: list[str] = []
    missing: list[str] = []
    for case, item in sorted(ours.items.items(), key=lambda of_case: of_case[1].key):
        lacks = [one.name for one in (ours, *rivals) if not one.is_ok(case)]
        gone = [] if lacks else [one for one in ours.references(case, TINY) if one.picture is None]
        if lacks:
            missing.append(f"{item.key}: no picture of {'; '.join(lacks)}")
        elif gone:
            missing.append(f"{item.key}: its {gone[0].role} {gone[0].key} is gone or was changed")
        else:
            shared.append(case)
    return shared, missing


def _drawn(cases: Sequence[str], wanted: Wanted, task: str) -> list[str]:
    """So many of the cases, by chance, in the order that they had.

    Raises:
        ManifestError: there are not so many.
    """
    if wanted.num_cases is not None and wanted.num_cases > len(cases):
        raise ManifestError(
            f"{task} has {len(cases)} cases of which all have a picture: give --cases "
            f"{len(cases)} or less; got {wanted.num_cases}"
        )
    number = min(len(cases), wanted.num_cases or MAX_CASES)
    drawn = set(Random(f"cases {wanted.seed} {task}").sample(range(len(cases)), number))
    return [case for place, case in enumerate(cases) if place in drawn]
