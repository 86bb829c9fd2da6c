"""Results, recomputed from the rows of the Parquet file with nothing of ours."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.study.documents import csv_of, document_of, markdown_of
from tasks.study.results import read_results
from tasks.study.study_file import Study
from tasks.study.votes import Answer, open_session, store_votes
from tests.tasks.study.studies import stored_study, three_way_study

LIKED = {"ours": 0.6, "rival": 0.3, "third": 0.2, "decoy": 0.0}


def vote(store, study: Study, *, chance: random.Random, guess: bool = False, trials=99) -> str:
    """A whole session of somebody who likes ours more, or who guesses; its id."""
    session = open_session(store, study)
    for trial in study.trials(session.number)[:trials]:
        share = 0.5 if guess else LIKED[trial.left] / (LIKED[trial.left] + LIKED[trial.right])
        answers = [
            Answer(trial.number, question, "left" if chance.random() < share else "right")
            for question in study.questions(trial)
        ]
        store_votes(store, study, session, trial.number, answers, revision=0, seconds=1.0)
    return session.id


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """A study of two questions, 12 people, some of whom guess, stop early or never begin."""
    folder = tmp_path_factory.mktemp("voted")
    store, study = stored_study(folder, question="criteria", num_cases=6)
    chance = random.Random(5)
    for person in range(12):
        vote(store, study, chance=chance, guess=person in (3, 6), trials=4 if person == 8 else 99)
    open_session(store, study)
    return folder, store, study


def test_results_are_those_of_the_parquet_rows(voted, tmp_path: Path):
    folder, store, study = voted
    path = tmp_path / "votes.parquet"
    answer = CliRunner().invoke(app, ["study", "results", str(folder), "--votes", str(path)])
    assert answer.exit_code == 0, answer.output
    rows = pq.read_table(path).to_pylist()
    failed = {r["session"] for r in rows if r["kind"] == "attention" and r["chosen"] == "decoy"}
    assert failed
    document = document_of(read_results(store, study))
    assert document["people"] == {
        "opened": 13,
        "finished": 11,
        "unfinished": 1,
        "silent": 1,
        "inattentive": len(failed),
    }
    assert document["votes"] == len(rows) == (11 * 8 + 4) * 2

    for told, are_failed in (
        (document["shares"], False),
        (document["shares_of_inattentive"], True),
    ):
        assert [share["question"] for share in told] == ["structure", "style"]
        for share in told:
            found = [
                row
                for row in rows
                if row["question"] == share["question"]
                and row["kind"] == "plain"
                and (row["session"] in failed) is are_failed
            ]
            chosen = Counter(row["chosen"] for row in found)
            assert (share["votes"], share["first_chosen"]) == (len(found), chosen["ours"])
            assert share["share"] == chosen["ours"] / len(found)
            assert share["people"] == len({row["session"] for row in found})
            by_case = defaultdict(list)
            for row in found:
                by_case[row["case"]].append(row["chosen"])
            alike = [a == b for of in by_case.values() for a, b in combinations(of, 2)]
            assert share["agreement"] == (sum(alike) / len(alike) if alike else None)
            assert share["cases_judged_by_several"] == sum(len(of) > 1 for of in by_case.values())

            wins, votes = chosen["ours"], len(found)
            for end in (share["low_by_votes"], share["high_by_votes"]):
                assert end in (0, 1) or (wins / votes - end) ** 2 == pytest.approx(
                    1.959964**2 * end * (1 - end) / votes, rel=1e-4
                )
            ways = [math.comb(votes, n) for n in range(votes + 1)]
            assert share["p_value"] == pytest.approx(
                sum(way for way in ways if way <= ways[wins]) / 2**votes
            )

    for told in document["consistency"]:
        same = []
        for row in rows:
            if row["kind"] == "repeat" and row["session"] not in failed:
                (before,) = [
                    other["chosen"]
                    for other in rows
                    if other["kind"] == "plain"
                    and other["case"] == row["case"]
                    and (other["session"], other["question"]) == (row["session"], told["question"])
                ]
                if row["question"] == told["question"]:
                    same.append(before == row["chosen"])
        assert (told["same"], told["repeats"]) == (sum(same), len(same))


def test_strengths_are_what_the_rows_make_most_likely(tmp_path: Path):
    store, study = three_way_study(tmp_path)
    chance = random.Random(2)
    for _ in range(10):
        vote(store, study, chance=chance)
    results = read_results(store, study)
    (told,) = document_of(results)["strengths"]
    strength = {entry["name"]: entry["strength"] for entry in told["entries"]}
    assert set(strength) == {"ours", "rival", "third"}
    plain = [row for row in results.votes.to_pylist() if row["kind"] == "plain"]
    for name in strength:  # where the likelihood is greatest, each has won as often as expected
        met = [row for row in plain if name in (row["left"], row["right"])]
        expected = sum(
            strength[name] / (strength[row["left"]] + strength[row["right"]]) for row in met
        )
        assert expected == pytest.approx(sum(row["chosen"] == name for row in met), abs=1e-4)
    for entry in told["entries"]:
        assert entry["low"] < entry["strength"] < entry["high"]
    pairs = [(share.first, share.second) for share in results.shares]
    assert pairs == [("ours", "rival"), ("ours", "third"), ("rival", "third")]


def test_strengths_that_are_not_determined_are_told_and_not_given(tmp_path: Path):
    store, study = three_way_study(tmp_path)
    for _ in range(3):
        vote(store, study, chance=Always())
    results = read_results(store, study)
    (told,) = document_of(results)["strengths"]
    assert told["entries"] == []
    assert told["problem"] == "nobody chose rival, third over ours"
    assert results.shares[0].alpha is None


class Always(random.Random):
    """Whoever is liked more is chosen."""

    def random(self) -> float:
        return 0.5


def test_the_same_votes_give_the_same_document(voted):
    _, store, study = voted
    assert document_of(read_results(store, study)) == document_of(read_results(store, study))


def test_the_command_tells_in_words_json_markdown_csv_and_a_picture(voted, tmp_path: Path):
    folder, store, study = voted
    results = read_results(store, study)
    words = CliRunner().invoke(app, ["study", "results", str(folder)])
    told = " ".join(words.output.split())
    for piece in ("11 of 13 people finished", "ours over rival", "not counted above", "section D"):
        assert piece in told
    options = ["--markdown", "r.md", "--csv", "r.csv", "--plot", "r.png"]
    options = [word if word[0] == "-" else str(tmp_path / word) for word in options]
    answer = CliRunner().invoke(app, ["study", "results", str(folder), "--json", *options])
    assert json.loads(answer.stdout) == json.loads(json.dumps(document_of(results)))
    assert (tmp_path / "r.md").read_text() == markdown_of(results)
    assert (tmp_path / "r.csv").read_text() == csv_of(results)
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    counted = list(csv.DictReader(io.StringIO(csv_of(results))))
    assert [row["counted"] for row in counted] == ["True"] * 2 + ["False"] * 2


def test_damaged_votes_are_told_and_the_others_counted(tmp_path: Path):
    store, study = stored_study(tmp_path)
    for _ in range(3):
        vote(store, study, chance=random.Random(1))
    before = read_results(store, study)
    name = next(found.key for found in store.list("votes/") if found.key.endswith("000-0.parquet"))
    store.put(name, b"torn")
    store.put("sessions/000002.json", b"{}")
    results = read_results(store, study)
    assert len(results.problems) == 2
    assert results.shares[0].num_votes == before.shares[0].num_votes - 1
    answer = CliRunner().invoke(app, ["study", "results", str(tmp_path)])
    assert answer.exit_code == 0
    assert name in answer.output
    assert "2 files left out" in answer.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--votes", "v.csv"], "--votes must end in .parquet"),
        (["--plot", "p.jpg"], "--plot must end in .png"),
        (["--csv", "."], "--csv names a folder"),
    ],
)
def test_files_that_cannot_be_written_are_refused(tmp_path: Path, options, said):
    stored_study(tmp_path)
    answer = CliRunner().invoke(app, ["study", "results", str(tmp_path), *options])
    assert answer.exit_code != 0
    assert said in str(answer.exception)


def test_before_anybody_votes_there_is_nothing_and_no_error(tmp_path: Path):
    store, study = stored_study(tmp_path)
    results = read_results(store, study)
    assert (results.shares, results.rankings, dict(results.consistency)) == ([], [], {})
    paths = [str(tmp_path / name) for name in ("p.png", "r.md", "v.parquet")]
    options = [*("--plot", paths[0]), *("--markdown", paths[1]), *("--votes", paths[2])]
    answer = CliRunner().invoke(app, ["study", "results", str(tmp_path), *options])
    assert answer.exit_code == 0, answer.output
    assert "Nobody has begun yet." in answer.output
    assert pq.read_table(paths[2]).num_rows == 0
