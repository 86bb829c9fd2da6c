from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.store import open_store
from tasks.study.study_file import OVERALL, STUDY_NAME
from tasks.study.votes import (
    VOTE_SCHEMA,
    AlreadyAnswered,
    Answer,
    VoteError,
    find_session,
    gather_votes,
    open_session,
    progress,
    read_sessions,
    read_votes,
    store_votes,
)
from tests.tasks.study.studies import small_study, stored_study
from tests.tasks.study.voter import NUM_KILLS

VOTER = Path(__file__).with_name("voter.py")


def vote(store, study, session, trial, choice="left", *, revision=0, seconds=1.0):
    asked = study.questions(study.trials(session.number)[trial])
    answers = [Answer(trial, question, choice) for question in asked]
    store_votes(store, study, session, trial, answers, revision=revision, seconds=seconds)


def test_a_vote_says_what_was_shown_and_chosen(tmp_path):
    store, study = stored_study(tmp_path, question="criteria")
    session = open_session(store, study)
    answers = [Answer(0, "style", "left"), Answer(0, "structure", "right")]
    store_votes(store, study, session, 0, answers, revision=0, seconds=2.5)
    table = read_votes(store, study)
    assert table.schema == VOTE_SCHEMA
    assert table.to_pylist() == [
        {
            "study": study.digest,
            "session": session.id,
            "session_number": 0,
            "trial": 0,
            "task": "style-transfer",
            "case": "case0",
            "left": "ours",
            "right": "rival",
            "kind": "plain",
            "expected": None,
            "question": question,
            "choice": choice,
            "chosen": chosen,
            "seconds": 2.5,
            "revision": 0,
        }
        for question, choice, chosen in (("structure", "right", "rival"), ("style", "left", "ours"))
    ]


def test_the_same_vote_sent_again_is_one_and_another_one_is_refused(tmp_path):
    store, study = stored_study(tmp_path)
    session = open_session(store, study)
    for seconds in (1.0, 1.0, 7.0):
        vote(store, study, session, 0, "left", seconds=seconds)
    with pytest.raises(AlreadyAnswered):
        vote(store, study, session, 0, "right")
    (row,) = read_votes(store, study).to_pylist()
    assert (row["choice"], row["seconds"]) == ("left", 1.0)


def test_the_last_revision_counts(tmp_path):
    store, study = stored_study(tmp_path)
    session = open_session(store, study)
    vote(store, study, session, 0, "left")
    vote(store, study, session, 0, "right", revision=1)
    vote(store, study, session, 1, "left")
    rows = read_votes(store, study).to_pylist()
    assert [(row["trial"], row["choice"], row["revision"]) for row in rows] == [
        (0, "right", 1),
        (1, "left", 0),
    ]
    assert progress(store, study, session) == {0: 1, 1: 0}


@pytest.mark.parametrize(
    ("trial", "answers", "options"),
    [
        (99, [Answer(99, OVERALL, "left")], {}),
        (-1, [Answer(-1, OVERALL, "left")], {}),
        (0, [], {}),
        (0, [Answer(1, OVERALL, "left")], {}),
        (0, [Answer(0, "style", "left")], {}),
        (0, [Answer(0, OVERALL, "left"), Answer(0, OVERALL, "right")], {}),
        (0, [Answer(0, OVERALL, "up")], {}),  # pyright: ignore[reportArgumentType]
        (0, [Answer(0, OVERALL, "left")], {"revision": 2}),
        (0, [Answer(0, OVERALL, "left")], {"revision": -1}),
        (0, [Answer(0, OVERALL, "left")], {"seconds": float("nan")}),
        (0, [Answer(0, OVERALL, "left")], {"seconds": -1.0}),
    ],
)
def test_answers_to_what_was_not_asked_are_refused_and_not_stored(
    tmp_path, trial, answers, options
):
    store, study = stored_study(tmp_path)
    session = open_session(store, study)
    with pytest.raises(VoteError):
        store_votes(
            store, study, session, trial, answers, **({"revision": 0, "seconds": 1.0} | options)
        )
    assert not list(store.list("votes/"))


def test_a_session_is_found_again_by_its_id_alone(tmp_path):
    store, study = stored_study(tmp_path)
    first, second = open_session(store, study), open_session(store, study)
    assert [first.number, second.number] == [0, 1]
    assert find_session(store, study, second.id) == second
    forged = second.id[:-1] + ("0" if second.id[-1] != "0" else "1")
    for unknown in (forged, "", "x", "f" * 32, f"{7:08x}{'0' * 24}", "../../study.json"):
        assert find_session(store, study, unknown) is None
    assert find_session(store, small_study(title="Another"), second.id) is None


def test_twenty_who_come_at_once_have_twenty_numbers(tmp_path):
    store, study = stored_study(tmp_path)
    with ThreadPoolExecutor(20) as pool:
        sessions = list(pool.map(lambda _: open_session(open_store(store.uri), study), range(20)))
    assert sorted(session.number for session in sessions) == list(range(20))
    assert len({session.id for session in sessions}) == 20
    assert read_sessions(store, study) == (sorted(sessions, key=lambda s: s.number), [])


def test_damaged_votes_are_told_by_name_and_left_out(tmp_path):
    store, study = stored_study(tmp_path)
    session = open_session(store, study)
    for trial in range(6):
        vote(store, study, session, trial)
    names = sorted(found.key for found in store.list("votes/"))
    whole = store.get(names[0])
    other = open_session(store, study)
    vote(store, study, other, 1)
    elsewhere = store.get(f"votes/{other.id}/001-0.parquet")
    damages = [whole[:-20], b"", bytes(reversed(whole)), whole, elsewhere]
    for name, data in zip(names[1:], damages, strict=True):
        store.put(name, data)
    vote(store, study, session, 0, "right", revision=1)
    store.put(f"votes/{session.id}/000-1.parquet", b"torn")  # the answer before it was taken back
    store.put("votes/notes.txt", b"not ours")
    votes = gather_votes(store, study)
    assert [(row["session"], row["trial"]) for row in votes.table.to_pylist()] == [(other.id, 1)]
    assert len(votes.damaged) == 6
    for name in [f"votes/{session.id}/000-1.parquet", *names[1:]]:
        assert any(name in sentence for sentence in votes.damaged)


def test_votes_of_another_study_are_left_out(tmp_path):
    store, study = stored_study(tmp_path)
    session = open_session(store, study)
    vote(store, study, session, 0)
    votes = gather_votes(store, small_study(title="Another"))
    assert votes.table.num_rows == 0
    assert "its study is not what this study asked" in votes.damaged[0]


def test_damaged_sessions_are_told_by_name(tmp_path):
    store, study = stored_study(tmp_path)
    kept, lost = open_session(store, study), open_session(store, study)
    store.put(f"sessions/{lost.number:06d}.json", b"{")
    sessions, damaged = read_sessions(store, study)
    assert sessions == [kept]
    assert "sessions/000001.json is damaged" in damaged[0]
    assert open_session(store, study).number == 2


def test_whoever_votes_is_killed_at_any_moment_and_no_vote_is_lost_or_doubled(tmp_path):
    store, study = stored_study(tmp_path, num_cases=40, num_sessions=4)
    with ThreadPoolExecutor(2) as pool:
        people = list(pool.map(lambda seed: killed_again_and_again(tmp_path, seed), range(2)))
    rows = read_votes(store, study).to_pylist()
    found = {(row["session"], row["trial"]): row["choice"] for row in rows}
    assert len(rows) == len(found) == 2 * len(study.sessions[0])
    for session, kept, num_kills in people:
        assert (
            kept.items()
            <= {n: choice for (who, n), choice in found.items() if who == session}.items()
        )
        assert num_kills == NUM_KILLS
    assert gather_votes(store, study).damaged == ()


def killed_again_and_again(folder: Path, seed: int) -> tuple[str, dict[int, str], int]:
    """A person's session, the answers they were told are stored, and how often they were killed."""
    command = [sys.executable, "-m", "tests.tasks.study.voter", str(folder), str(seed)]
    session, kept, num_kills = "", {}, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as person:
        assert person.stdout is not None
        for line in person.stdout:
            what, *values = line.split()
            if what == "session":
                session = values[0]
            elif what == "stored":
                assert kept.setdefault(int(values[0]), values[1]) == values[1]
            else:  # killed; the last answer that is on disk
                num_kills += 1
                assert int(values[0]) >= max(kept, default=-1)
    assert person.returncode == 0
    return session, kept, num_kills


@pytest.mark.s3
def test_a_store_on_s3_keeps_votes_as_a_folder_does(s3_bucket):
    uri = f"s3://{s3_bucket}/study"
    store, study = open_store(uri), small_study()
    store.put(STUDY_NAME, study.to_bytes())
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda _: open_session(open_store(uri), study), range(4)))
    assert sorted(session.number for session in sessions) == list(range(4))
    for session in sessions:
        vote(store, study, session, 0)
        vote(store, study, session, 0)
    assert read_votes(store, study).num_rows == 4
