"""What have people answered, and who has come so far?

A person is a session, known by a random id and the number of their trials; nothing else is known of
them, no name, no address, no time. An answer is one object, written once: when `store_votes`
returns it is on disk, and whoever sends it again changes nothing.
"""

from __future__ import annotations

import io
import logging
import math
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from infra.store import ObjectNotFound, Store, StoreError
from manifests.errors import ManifestError, RunFolderError
from manifests.parquet import parquet_rows
from manifests.records import Count, SealedRecord, Sha256, read_record
from tasks.study.study_file import Side, Study, Trial

logger = logging.getLogger(__name__)

MAX_REVISION = 1
"""A person may go back once, so that a trial has two answers at most."""

MAX_SECONDS = 1e7
MAX_VOTE_BYTES = 1 << 20
READERS = 16
WAY_OUT = "restore it, or leave this answer out"

VOTE_SCHEMA = pa.schema(
    [
        pa.field("study", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("session_number", pa.int32(), nullable=False),
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("case", pa.string(), nullable=False),
        pa.field("left", pa.string(), nullable=False),
        pa.field("right", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("expected", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("choice", pa.string(), nullable=False),
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
    ]
)

SESSION_ID = "[0-9a-f]{32}"
_SESSION_NAME = re.compile(r"sessions/([0-9]{6})\.json")
_VOTE_NAME = re.compile(rf"votes/({SESSION_ID})/([0-9]{{3}})-([0-9])\.parquet")


class VoteError(ManifestError):
    """An answer or a session that the study does not have; nothing was stored."""


class AlreadyAnswered(VoteError):
    """Another answer to this trial is stored under this revision; it stays."""


@dataclass(frozen=True)
class Session:
    """One person.

    Attributes:
        id: 32 hex digits; the first eight are the number, the others are random.
        number: from 0, in the order in which people came; it says what they see.
    """

    id: str
    number: int


class Answer(NamedTuple):
    """What a person said to one question of a trial, `OVERALL` or a criterion."""

    trial: int
    question: str
    choice: Side


class Votes(NamedTuple):
    """What a folder holds.

    Attributes:
        table: with the columns of `VOTE_SCHEMA`; of each trial its last answer, a row a question.
        damaged: a sentence for each file that was left out.
    """

    table: pa.Table
    damaged: tuple[str, ...]


class SessionRecord(SealedRecord):
    """That somebody has a number: `sessions/<number>.json`."""

    id: Annotated[str, Field(pattern=rf"^{SESSION_ID}$")]
    number: Annotated[Count, Field(lt=1_000_000)]
    study: Sha256


def open_session(store: Store, study: Study) -> Session:
    """Begin with a new person, under the next number that nobody has.

    Two who come at once never get the same number: the number is a conditional write.
    """
    number = max((n for n, _ in _session_names(store)), default=-1) + 1
    while True:
        session = Session(f"{number:08x}{secrets.token_hex(12)}", number)
        record = SessionRecord(id=session.id, number=number, study=study.digest)
        if store.put_if_absent(_session_name(number), record.to_bytes()):
            return session
        number += 1


def find_session(store: Store, study: Study, session_id: str) -> Session | None:
    """The session of that id, or None where this study has given out no such id.

    Raises:
        RunFolderError: its record is damaged.
    """
    if not re.fullmatch(SESSION_ID, session_id) or int(session_id[:8], 16) >= 1_000_000:
        return None
    number = int(session_id[:8], 16)
    try:
        record = _read_session(store, _session_name(number))
    except ObjectNotFound:
        return None
    if (record.id, record.number, record.study) != (session_id, number, study.digest):
        return None
    return Session(session_id, number)


def read_sessions(store: Store, study: Study) -> tuple[list[Session], list[str]]:
    """Everybody who began, in order, and a sentence for each record that cannot be used."""
    sessions: list[Session] = []
    damaged: list[str] = []
    for number, name in sorted(_session_names(store)):
        try:
            record = _read_session(store, name)
        except (RunFolderError, StoreError) as error:
            damaged.append(str(error))
            continue
        if (record.number, record.study) == (number, study.digest):
            sessions.append(Session(record.id, number))
        else:
            damaged.append(f"{name} is not a session of this study: it is left out")
    return sessions, damaged


def store_votes(
    store: Store,
    study: Study,
    session: Session,
    trial: int,
    answers: Sequence[Answer],
    *,
    revision: int,
    seconds: float,
) -> None:
    """Store what a person answered to a trial; it is on disk when this returns.

    The same answers once more are no second vote, so that a client may send again what it had no
    word of.

    Args:
        store: of the study's folder.
        study: that is shown.
        session: from `open_session` or `find_session`.
        trial: number of the trial.
        answers: one to each question of the trial.
        revision: 0, or 1 where the person went back and answered again.
        seconds: between showing and answering.

    Raises:
        VoteError: the study has no such trial or questions; nothing was stored.
        AlreadyAnswered: other answers are stored there; they stay.
    """
    rows = _vote_rows(study, session, trial, answers, revision=revision, seconds=seconds)
    name = _vote_name(session, trial, revision)
    file = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=VOTE_SCHEMA)
    pq.write_table(table, file, write_page_checksum=True)
    if store.put_if_absent(name, file.getvalue()):
        return
    stored = _read_vote(store, study, name)
    if [row["choice"] for row in stored] != [row["choice"] for row in rows]:
        raise AlreadyAnswered(
            f"trial {trial} was answered otherwise before, and that answer stays: go on with the "
            "next one"
        )


def progress(store: Store, study: Study, session: Session) -> Mapping[int, int]:
    """The trials that a person has answered, each with its last revision.

    The next one is the first that is not there; all are done where
    `len(progress(…)) == len(study.trials(session.number))`.
    """
    num_trials = len(study.trials(session.number))
    answered: dict[int, int] = {}
    for _, trial, revision, _ in _vote_names(store, f"votes/{session.id}/"):
        if trial < num_trials:
            answered[trial] = max(revision, answered.get(trial, 0))
    return dict(sorted(answered.items()))


def read_votes(store: Store, study: Study) -> pa.Table:
    """The table of `gather_votes`; files that are left out are told in the log."""
    votes = gather_votes(store, study)
    for sentence in votes.damaged:
        logger.warning("%s", sentence)
    return votes.table


def gather_votes(store: Store, study: Study) -> Votes:
    """All votes of a study, in the order of the sessions; the last revision of a trial counts.

    A file that cannot be read, or does not say what this study asked, is left out and told. Where
    it is the last revision, the trial has no vote: the earlier answer was taken back.
    """
    last: dict[tuple[str, int], tuple[int, str]] = {}
    for session, trial, revision, name in _vote_names(store, "votes/"):
        last[session, trial] = max((revision, name), last.get((session, trial), (-1, "")))
    names = [name for _, (_, name) in sorted(last.items())]

    def read(name: str) -> tuple[list[dict[str, Any]], str]:
        try:
            return _read_vote(store, study, name), ""
        except (RunFolderError, StoreError) as error:
            return [], str(error)

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, names))
    rows = [row for rows, _ in found for row in rows]
    damaged = tuple(sentence for _, sentence in found if sentence)
    return Votes(pa.Table.from_pylist(rows, schema=VOTE_SCHEMA), damaged)


def _vote_rows(
    study: Study,
    session: Session,
    number: int,
    answers: Sequence[Answer],
    *,
    revision: int,
    seconds: float,
) -> list[dict[str, Any]]:
    """The rows of an answer, in the order of the questions."""
    trials = study.trials(session.number)
    if not 0 <= number < len(trials):
        raise VoteError(f"this study has trials 0 to {len(trials) - 1}; got {number}")
    trial = trials[number]
    questions = study.questions(trial)
    choices = {answer.question: answer.choice for answer in answers if answer.trial == number}
    if len(answers) != len(questions) or choices.keys() != set(questions):
        raise VoteError(f"trial {number} asks {', '.join(questions)}: answer each of them once")
    if not set(choices.values()) <= {"left", "right"}:
        raise VoteError(f"an answer to trial {number} is left or right")
    if not 0 <= revision <= MAX_REVISION:
        raise VoteError(f"an answer can be changed {MAX_REVISION} time; got revision {revision}")
    if not (math.isfinite(seconds) and 0 <= seconds <= MAX_SECONDS):
        raise VoteError(f"seconds lie between 0 and {MAX_SECONDS:.0f}; got {seconds}")
    return [
        {
            **_planned(study, session.id, session.number, trial),
            "question": question,
            "choice": choices[question],
            "chosen": getattr(trial, choices[question]),
            "seconds": float(seconds),
            "revision": revision,
        }
        for question in questions
    ]


def _planned(study: Study, session_id: str, number: int, trial: Trial) -> dict[str, Any]:
    """What a row says that was fixed before the person answered."""
    return {
        "study": study.digest,
        "session": session_id,
        "session_number": number,
        "trial": trial.number,
        "task": study.case(trial).task,
        "case": trial.case,
        "left": trial.left,
        "right": trial.right,
        "kind": trial.kind,
        "expected": trial.expected,
    }


def _read_vote(store: Store, study: Study, name: str) -> list[dict[str, Any]]:
    """The rows of an answer, in the order of the questions.

    Raises:
        RunFolderError: the file is damaged, or not an answer to this study.
    """
    match = _VOTE_NAME.fullmatch(name)
    if match is None:
        raise RunFolderError(f"{name} is not the name of a vote: {WAY_OUT}")
    session_id, number, revision = match[1], int(match[2]), int(match[3])
    session_number = int(session_id[:8], 16)
    trials = study.trials(session_number)
    if number >= len(trials):
        raise RunFolderError(f"{name} is damaged (this study has no such trial): {WAY_OUT}")
    trial = trials[number]
    questions = study.questions(trial)
    data = store.get_range(name, 0, MAX_VOTE_BYTES)
    rows = list(parquet_rows(data, VOTE_SCHEMA, name, num_rows=len(questions), way_out=WAY_OUT))
    planned = {**_planned(study, session_id, session_number, trial), "revision": revision}
    for row, question in zip(rows, questions, strict=True):
        expected = {**planned, "question": question}
        wrong = [column for column, value in expected.items() if row[column] != value]
        if row["choice"] not in ("left", "right") or row["chosen"] != getattr(trial, row["choice"]):
            wrong.append("choice")
        if wrong:
            raise RunFolderError(
                f"{name} is damaged (its {wrong[0]} is not what this study asked): {WAY_OUT}"
            )
    return rows


def _session_name(number: int) -> str:
    return f"sessions/{number:06d}.json"


def _vote_name(session: Session, trial: int, revision: int) -> str:
    return f"votes/{session.id}/{trial:03d}-{revision}.parquet"


def _session_names(store: Store) -> Iterator[tuple[int, str]]:
    """The numbers that are taken; other files are not ours and are ignored."""
    for found in store.list("sessions/"):
        if match := _SESSION_NAME.fullmatch(found.key):
            yield int(match[1]), found.key


def _vote_names(store: Store, prefix: str) -> Iterable[tuple[str, int, int, str]]:
    """Session, trial, revision and name of every answer; other files are ignored."""
    for found in store.list(prefix):
        if match := _VOTE_NAME.fullmatch(found.key):
            yield match[1], int(match[2]), int(match[3]), found.key


def _read_session(store: Store, name: str) -> SessionRecord:
    data = store.get_range(name, 0, MAX_VOTE_BYTES)
    return read_record(SessionRecord, data, name, way_out=WAY_OUT)
