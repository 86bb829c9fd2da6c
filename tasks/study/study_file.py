"""What exactly is shown to whom in a study?

`study.json` says it all, down to the side and the order, and is never changed: whoever has it and
the pictures beside it can show the same study again, and votes name its digest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.store import ObjectNotFound, Store
from manifests.errors import RunFolderError
from manifests.records import (
    CHECKSUM,
    MAX_RECORD_BYTES,
    Count,
    SealedRecord,
    Words,
    is_as_written,
    read_record,
)

STUDY_NAME = "study.json"
STUDY_SCHEMA_VERSION = 1

OVERALL = "overall"
"""The question of a study that asks one over all criteria."""

DECOY = "decoy"
"""What an attention trial shows instead of a competitor; no entry may be called so."""

MAX_CONSENT_LETTERS = 20_000

WAY_OUT = "restore it, or build the study again in another folder"

Side = Literal["left", "right"]
Name = Annotated[str, Field(min_length=1, max_length=120)]
PictureName = Annotated[str, Field(pattern=r"^pictures/[0-9a-f]{64}\.(png|jpg)$")]
CaseId = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,80}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shown(_Part):
    """A reference picture, with what stands above it, such as `Content`."""

    caption: Name
    picture: PictureName


class Case(_Part):
    """What is judged: the results of some methods for the same inputs.

    Attributes:
        id: unique in the study.
        task: such as `style-transfer`; it says which criteria count.
        references: in the order in which they are shown.
        prompt: of text-to-image.
        results: a picture by the name of its entry; all have one size. `DECOY` may be among them.
    """

    id: CaseId
    task: Name
    references: tuple[Shown, ...]
    prompt: Words | None
    results: Mapping[Name, PictureName]


class Trial(_Part):
    """One page: two results of a case, of which a person picks the better one.

    Attributes:
        number: from 0, in the order in which a person sees them.
        left, right: names in the case's results.
        kind: a `repeat` is an earlier plain trial with the sides swapped; of an `attention` trial
            everybody can tell the answer.
        expected: that answer.
    """

    number: Annotated[int, Field(ge=0, le=999)]
    case: CaseId
    left: Name
    right: Name
    kind: Literal["plain", "repeat", "attention"]
    expected: Side | None

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        if self.left == self.right:
            raise ValueError(f"trial {self.number} shows {self.left!r} on both sides")
        if (self.kind == "attention") != (self.expected is not None):
            raise ValueError(f"trial {self.number}: attention trials alone have an expected answer")
        return self


class Study(SealedRecord):
    """A whole study.

    Attributes:
        ours: the entry that the others are compared with.
        question: whether a person is asked once over all criteria, or once for each of them.
        criteria: by task, in the order in which they are asked.
        sessions: what each person sees; person number n beyond the last one sees what person
            n modulo their number has seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = STUDY_SCHEMA_VERSION
    title: Words
    consent: Annotated[str, Field(max_length=MAX_CONSENT_LETTERS)]
    seed: Count
    ours: Name
    question: Literal["overall", "criteria"]
    criteria: Mapping[Name, tuple[Name, ...]]
    cases: Annotated[tuple[Case, ...], Field(min_length=1)]
    sessions: Annotated[
        tuple[Annotated[tuple[Trial, ...], Field(min_length=1)], ...], Field(min_length=1)
    ]

    @model_validator(mode="before")
    @classmethod
    def _without_checksum(cls, content: Any) -> Any:
        if isinstance(content, dict):
            return {name: value for name, value in content.items() if name != CHECKSUM}
        return content

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(self._cases) != len(self.cases):
            raise ValueError("two of its cases have one id")
        for case in self.cases:
            criteria = self.criteria.get(case.task, ())
            if not criteria or len(set(criteria)) != len(criteria):
                raise ValueError(f"the criteria of {case.task!r} are missing, or one stands twice")
        for trials in self.sessions:
            self._check_trials(trials)
        return self

    def _check_trials(self, trials: tuple[Trial, ...]) -> None:
        plain: Counter[tuple[str, str, str]] = Counter()
        for number, trial in enumerate(trials):
            if trial.number != number:
                raise ValueError(f"trial {trial.number} stands at place {number}")
            case = self._cases.get(trial.case)
            if case is None or not {trial.left, trial.right} <= case.results.keys():
                raise ValueError(f"trial {number} shows what no case has")
            if trial.kind == "repeat" and not plain[trial.case, trial.right, trial.left]:
                raise ValueError(f"trial {number} repeats none before it")
            plain[trial.case, trial.left, trial.right] += trial.kind == "plain"

    @cached_property
    def _cases(self) -> Mapping[str, Case]:
        return {case.id: case for case in self.cases}

    @cached_property
    def digest(self) -> str:
        """The sha256 of `study.json`; every vote names it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def pictures(self) -> frozenset[str]:
        """The names of all pictures, which lie in the study's folder."""
        references = (shown.picture for case in self.cases for shown in case.references)
        return frozenset([*references, *(p for case in self.cases for p in case.results.values())])

    def case(self, trial: Trial) -> Case:
        """The case that a trial shows."""
        return self._cases[trial.case]

    def trials(self, number: int) -> tuple[Trial, ...]:
        """What person `number` sees, counted from 0."""
        return self.sessions[number % len(self.sessions)]

    def questions(self, trial: Trial) -> tuple[str, ...]:
        """What is asked in a trial: `OVERALL`, or each criterion of its task."""
        return self.asked(self.case(trial).task)

    def asked(self, task: str) -> tuple[str, ...]:
        """What is asked of a task's cases."""
        return (OVERALL,) if self.question == OVERALL else self.criteria[task]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of all cases, in the order in which they stand."""
        return tuple(dict.fromkeys(case.task for case in self.cases))

    def entries(self, task: str) -> tuple[str, ...]:
        """What is compared in a task, ours first."""
        names = {name for case in self.cases if case.task == task for name in case.results}
        return tuple(sorted(names - {DECOY}, key=lambda name: (name != self.ours, name)))


def load_study(store: Store) -> Study:
    """The study of a folder.

    Raises:
        RunFolderError: there is none, it is not as it was written, or a later version wrote it.
    """
    study = find_study(store)
    if study is None:
        raise RunFolderError(
            f"{store.uri!r} is not a study (it has no {STUDY_NAME}): make one with "
            "'stylefarm study build'"
        )
    return study


def find_study(store: Store) -> Study | None:
    """The study of a folder, or None where there is none.

    Raises:
        RunFolderError: it is not as it was written, or a later version wrote it.
    """
    try:
        data = store.get_range(STUDY_NAME, 0, MAX_RECORD_BYTES + 1)
    except ObjectNotFound:
        return None
    study = read_record(Study, data, STUDY_NAME, way_out=WAY_OUT)
    if not is_as_written(Study, data):
        raise RunFolderError(f"{STUDY_NAME} is damaged (it is not as it was written): {WAY_OUT}")
    return study
