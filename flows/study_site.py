"""What does each address of a study's page answer?

The page itself, the pictures that `study.json` names, and the way of one person through the study
as JSON. Nothing else of the folder can be read. No answer says which method made a picture, nor
what a trial is for. An answer to a vote is given after the vote is on disk.

    GET  study                       what stands on the first page
    POST sessions                    begins with a new person
    GET  sessions/<id>               how far that person is
    GET  sessions/<id>/trials/<n>    what a page shows
    POST sessions/<id>/trials/<n>    what was picked there; how far that person is now
    GET  pictures/<name>, study.js … the files
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

import flows.study_page
from infra.store import Store, StoreError
from manifests.errors import ManifestError, RunFolderError
from tasks.study.study_file import Study, load_study
from tasks.study.votes import (
    MAX_REVISION,
    AlreadyAnswered,
    Answer,
    Session,
    VoteError,
    find_session,
    open_session,
    progress,
    store_votes,
)

logger = logging.getLogger(__name__)

PAGE = Path(str(flows.study_page.__file__)).parent
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
FOR_EVER = "private, max-age=86400, immutable"
"""For pictures: another picture has another name."""

_SESSION = re.compile(r"sessions/([0-9a-f]{32})")
_TRIAL = re.compile(r"sessions/([0-9a-f]{32})/trials/(0|[1-9][0-9]{0,3})")


class Refusal(Exception):
    """A request that is not answered as it wishes: the status and one plain sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        self.status, self.sentence = status, sentence
        super().__init__(sentence)


class Reply(NamedTuple):
    """What is sent back."""

    media_type: str
    body: bytes
    cache: str = "no-store"


class _Pick(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    question: str
    choice: Literal["left", "right"]


class _Picks(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    answers: list[_Pick] = Field(max_length=100)
    revision: int
    seconds: float


class StudySite:
    """The addresses of one study; may be asked by many threads at once."""

    def __init__(self, store: Store) -> None:
        """Reads the study, and makes sure that every picture that it shows is there.

        Raises:
            RunFolderError: there is no study, it is damaged, or pictures are missing.
            StoreError: the store refuses or does not answer.
        """
        self.study = load_study(store)
        self._store = store
        self._pictures = _pictures_of(self.study)
        self._files = {
            file.name: file.read_bytes() for file in PAGE.iterdir() if file.suffix in MEDIA_TYPES
        }
        missing = self._pictures - {found.key for found in store.list("pictures/")}
        if missing:
            raise RunFolderError(
                f"{len(missing)} of the {len(self._pictures)} pictures of this study are missing "
                f"in {store.uri!r}, such as {min(missing)}: restore them, or build the study again"
            )

    def answer(self, method: str, path: str, body: bytes) -> Reply:
        """What a request gets.

        Args:
            method: `GET` or `POST`.
            path: below the site, such as `sessions`; not decoded, as no address needs that.
            body: of a POST.

        Raises:
            Refusal: there is no such address, or what was sent cannot be taken.
        """
        try:
            return self._route(method, path, body)
        except AlreadyAnswered as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        except VoteError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
        except ManifestError as error:
            logger.warning("%s", error)
            sentence = "A record of this session is damaged: tell whoever runs the study"
            raise Refusal(HTTPStatus.CONFLICT, sentence) from None
        except StoreError as error:
            logger.warning("%s", error)
            sentence = "The study's folder cannot be used just now; nothing was saved: try again"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, sentence) from None

    def _route(self, method: str, path: str, body: bytes) -> Reply:
        name = path or "index.html"
        answers: dict[str, Any] = {}
        if name in self._files:
            answers["GET"] = partial(self._file, name)
        elif name in self._pictures:
            answers["GET"] = partial(self._picture, name)
        elif name == "study":
            answers["GET"] = self._about
        elif name == "sessions":
            answers["POST"] = self._begin
        elif match := _SESSION.fullmatch(name):
            answers["GET"] = partial(self._far, match[1])
        elif match := _TRIAL.fullmatch(name):
            answers["GET"] = partial(self._page, match[1], int(match[2]))
            answers["POST"] = partial(self._vote, match[1], int(match[2]), body)
        if not answers:
            raise Refusal(HTTPStatus.NOT_FOUND, "There is nothing at this address")
        if method not in answers:
            sentence = f"This address takes {' and '.join(answers)} only"
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, sentence)
        return answers[method]()

    def _file(self, name: str) -> Reply:
        return Reply(MEDIA_TYPES[Path(name).suffix], self._files[name])

    def _picture(self, name: str) -> Reply:
        data = self._store.get(name)
        if hashlib.sha256(data).hexdigest() != Path(name).stem:
            logger.warning("%s is damaged (its sha256 is another one): restore it", name)
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "This picture is damaged")
        return Reply(MEDIA_TYPES[Path(name).suffix], data, FOR_EVER)

    def _about(self) -> Reply:
        return _json(
            title=self.study.title,
            consent=self.study.consent,
            key=f"stylefarm-study-{self.study.digest[:16]}",
            num_trials=max(map(len, self.study.sessions)),
        )

    def _begin(self) -> Reply:
        return self._told(open_session(self._store, self.study))

    def _far(self, session_id: str) -> Reply:
        return self._told(self._session(session_id))

    def _page(self, session_id: str, number: int) -> Reply:
        trials = self.study.trials(self._session(session_id).number)
        if number >= len(trials):
            raise Refusal(HTTPStatus.NOT_FOUND, f"This study has {len(trials)} pages")
        trial = trials[number]
        case = self.study.case(trial)
        return _json(
            number=number,
            references=[shown.model_dump() for shown in case.references],
            prompt=case.prompt,
            left=case.results[trial.left],
            right=case.results[trial.right],
            criteria=self.study.criteria[case.task],
            questions=self.study.questions(trial),
        )

    def _vote(self, session_id: str, number: int, body: bytes) -> Reply:
        session = self._session(session_id)
        picks = _read_picks(body)
        self._check_turn(session, number, picks.revision)
        answers = [Answer(number, pick.question, pick.choice) for pick in picks.answers]
        store_votes(
            *(self._store, self.study, session, number, answers),
            revision=picks.revision,
            seconds=picks.seconds,
        )
        return self._told(session)

    def _check_turn(self, session: Session, number: int, revision: int) -> None:
        """Lets a person answer the next page, or the one before it again, and send twice."""
        done = progress(self._store, self.study, session)
        following = _next(done)
        is_sent_again = revision <= done.get(number, -1)
        is_next = number == following and revision == 0
        is_changed = number == following - 1 and revision == done.get(number, -1) + 1
        if not (is_sent_again or is_next or is_changed):
            sentence = f"Page {following + 1} is the next one of this session: reload the page"
            raise Refusal(HTTPStatus.CONFLICT, sentence)

    def _session(self, session_id: str) -> Session:
        session = find_session(self._store, self.study, session_id)
        if session is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "This study has no such session: begin anew")
        return session

    def _told(self, session: Session) -> Reply:
        """How far a person is; `next` is null at the end."""
        num_trials = len(self.study.trials(session.number))
        done = progress(self._store, self.study, session)
        following = _next(done)
        return _json(
            session=session.id,
            num_trials=num_trials,
            answered=len(done),
            next=following if following < num_trials else None,
            may_go_back=0 <= done.get(following - 1, -1) < MAX_REVISION,
        )


def _pictures_of(study: Study) -> frozenset[str]:
    shown = {shown.picture for case in study.cases for shown in case.references}
    return frozenset(shown.union(*(case.results.values() for case in study.cases)))


def _next(done: Mapping[int, int]) -> int:
    """The first trial without an answer."""
    return next(number for number in range(len(done) + 1) if number not in done)


def _read_picks(body: bytes) -> _Picks:
    try:
        return _Picks.model_validate_json(body)
    except ValidationError:
        sentence = "A vote is JSON with answers, revision and seconds; nothing was saved"
        raise Refusal(HTTPStatus.BAD_REQUEST, sentence) from None


def _json(**values: object) -> Reply:
    return Reply("application/json", json.dumps(values).encode())
