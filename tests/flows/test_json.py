"""`--json`: one document on standard output, and nothing else, of every command that reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from ad_lib.presets import PRESETS
from flows.cli import app
from flows.terminal import Terminal
from tests.flows.conftest import Finished, Stylefarm
from tests.flows.jobs import write_job

COMMANDS = typer.main.get_command(app)
assert isinstance(COMMANDS, TyperGroup)

READING = {
    "presets": ["presets"],
    "status": ["status", "RUN"],
    "failures": ["failures", "RUN"],
    "verify": ["verify", "RUN", "--dry-run"],
    "gc": ["gc", "RUN"],
    "report": ["report", "RUN"],
    "compare": ["compare", "RUN"],
    "plan": ["plan", "JOB"],
    "run": ["run", "JOB", "--dry-run"],
    "estimate": ["estimate", "JOB"],
    "extend": ["extend", "JOB", "--dry-run"],
    "retry": ["retry", "RUN", "--dry-run"],
}
"""Every command that has the flag `--json`, and what it reads; `bench --json` names a file."""


def test_every_command_that_reads_has_json():
    with_json = {
        name
        for name, command in COMMANDS.commands.items()
        if any("--json" in one.opts and one.is_flag for one in command.params)
    }
    assert with_json == set(READING)


@pytest.fixture
def documents(
    finished: Finished, stylefarm: Stylefarm, no_fork_server: None
) -> dict[str, dict[str, Any]]:
    """What each command that reads prints of the finished run."""
    names = {"RUN": str(finished.run), "JOB": str(finished.job)}
    found: dict[str, dict[str, Any]] = {}
    for verb, words in READING.items():
        answer = stylefarm(*(names.get(word, word) for word in words), "--json")
        assert answer.code == 0, answer
        assert answer.out.isascii(), "half a letter breaks no document"
        found[verb] = json.loads(answer.out)
    return found


def test_the_documents_name_the_run_and_tell_what_people_are_told(
    documents: dict[str, Any], finished: Finished
):
    assert {name["name"] for name in documents["presets"]["presets"]} == set(PRESETS)
    (compared,) = documents["compare"]["entries"]
    alone = {verb: one for verb, one in documents.items() if verb not in ("presets", "compare")}
    assert {one["run"] for one in (*alone.values(), compared)} == {str(finished.run)}
    status = documents["status"]
    assert status["complete"] is True
    assert status["items"] == {"planned": 8, "ok": 6, "failed": 2, "skipped": 0, "pending": 0}
    assert status["shards"]["committed"] == status["shards"]["planned"] == 4
    (failures,) = status["failures"]
    assert (failures["error_class"], failures["items"]) == ("decode", 2)
    assert "truncated" in failures["example"]["key"]
    assert (status["attempts"], status["speed"], status["seconds_left"]) == ([], None, None)
    assert status["unpublished_commits"] == 0
    assert documents["report"]["items"] == status["items"]
    assert documents["report"]["content_digest"] == status["content_digest"]
    assert Path(documents["report"]["report"]).is_file()
    for verb in ("plan", "run"):
        planned = documents[verb]
        assert (planned["items"], planned["shards"], planned["is_new"]) == (8, 4, False)
        assert planned["sources"] == {"came": 0, "gone": 0, "changed": 0}
        assert [one["error_class"] for one in planned["problems"]] == ["decode", "decode"]
    assert documents["extend"]["items"] == 0
    assert len(documents["failures"]["failures"]) == 2


@pytest.mark.usefixtures("no_fork_server")
def test_what_is_new_is_told_as_json(stylefarm: Stylefarm, pictures: Path):
    job = write_job(pictures)
    new = json.loads(stylefarm("run", job, "--dry-run", "--json").out)
    assert (new["is_new"], new["items"], new["sources"]) == (True, 6, None)
    assert not (pictures / "run").exists()
    assert json.loads(stylefarm("plan", job, "--json").out) == {
        **new,
        "matches": None,
        "estimate": None,
    }
    shutil.copy(pictures / "style" / "x.png", pictures / "content" / "d.png")
    again = json.loads(stylefarm("plan", job, "--json").out)
    assert (again["is_new"], again["sources"]["came"]) == (False, 1)
    answer = stylefarm("extend", job, "--dry-run", "--json")
    assert json.loads(answer.out)["items"] == 2
    assert "Planned 2 new items" in answer.err


def test_json_of_a_command_that_would_render_is_refused(stylefarm: Stylefarm, pictures: Path):
    for arguments in (["run", write_job(pictures)], ["extend", "job.yaml"], ["retry", "run"]):
        answer = stylefarm(*arguments, "--json")
        assert (answer.code, answer.out) == (2, "")
        assert "--json tells what --dry-run plans" in answer.err
    assert not (pictures / "run").exists()


def test_an_error_prints_no_document(stylefarm: Stylefarm):
    answer = stylefarm("status", "nowhere", "--json")
    assert (answer.code, answer.out) == (2, "")
    assert "is not a run folder" in answer.err


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"empty": [], "none": None},
        {"name": '"\\\n\x1b\ud800Ω', "nested": {"list": [1, {"a": []}]}},
        {"rows": [{"a": 1}, {"a": 2.5}], "after": True},
    ],
)
def test_what_is_printed_is_the_document(
    document: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    Terminal().print_json(document)
    printed = capsys.readouterr().out
    assert json.loads(printed) == document
    assert printed.isascii()
    assert printed.endswith("}\n")


def test_an_iterator_is_printed_an_element_at_a_time(capsys: pytest.CaptureFixture[str]):
    printed = ""

    def rows() -> Iterator[int]:
        nonlocal printed
        for number in range(3):
            yield number
            printed += capsys.readouterr().out
            assert str(number) in printed

    Terminal().print_json({"rows": rows()})
    assert json.loads(printed + capsys.readouterr().out) == {"rows": [0, 1, 2]}


PRINT_MUCH = "from flows.terminal import Terminal; Terminal().print_json({'a': iter(range(10**5))})"


def test_a_reader_that_goes_away_ends_the_document_and_a_full_disk_is_an_error(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    python = f'{sys.executable} -c "{PRINT_MUCH}"'
    for shell, code, told in (
        (f"set -o pipefail; {python} | head -1", 0, ""),
        (f"{python} > /dev/full", 1, "No space left on device"),
    ):
        done = subprocess.run(
            ["bash", "-c", shell], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == code, done
        assert told in done.stderr


def test_report_tells_what_each_entry_cost_where_it_is_asked(
    finished: Finished, stylefarm: Stylefarm, no_fork_server: None
):
    told = stylefarm("report", finished.run, "--table")
    assert told.code == 0, told
    assert "timesteps × iterations" in told.out
    assert "without loading, encoding and decoding" in " ".join(told.out.split())
    document = json.loads(stylefarm("report", finished.run, "--table", "--json").out)
    (entry,) = document["table"]["entries"]
    assert entry["task"] == "style-transfer"
    assert entry["pictures"] == document["items"]["ok"]
    assert entry["seconds"] > 0
    assert entry["published"] is None
