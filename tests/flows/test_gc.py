"""`stylefarm gc`: what it tells, and that it deletes nothing unasked."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.gc import duration
from flows.verbs.options import Call
from manifests.errors import JobError
from tests.tasks.runs import files_of

OLD_RUN = Path(__file__).parents[1] / "old_runs" / "half" / "run"
ORPHAN = "data/00001-0123456789ab.tar"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that was begun, with a file that no commit names."""
    folder = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    (folder / ORPHAN).write_bytes(b"1234")
    return folder


def gc(*arguments: str | Path) -> str:
    answer = CliRunner().invoke(app, ["gc", *map(str, arguments)], obj=Call())
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_nothing_is_deleted_unasked_and_everything_is_told_as_json(run_folder):
    before = files_of(run_folder)
    document = json.loads(gc(run_folder, "--older-than", "0s", "--json"))
    assert files_of(run_folder) == before
    assert document["deleted"] is False
    assert (document["number"], document["bytes"]) == (1, 4)
    assert document["kinds"]["data"] == {"number": 1, "bytes": 4}
    assert document["garbage"] == [{"kind": "data", "name": ORPHAN, "bytes": 4}]
    assert "Nothing to delete" in gc(run_folder), "it is younger than two days"

    document = json.loads(gc(run_folder, "--older-than", "0s", "--json", "--delete"))
    assert document["deleted"] is True
    assert files_of(run_folder) == {name: before[name] for name in before if name != ORPHAN}


def test_a_length_of_time_is_a_number_and_a_unit():
    assert duration("2d") == timedelta(days=2)
    assert duration(" 90m ") == timedelta(minutes=90)
    assert duration("0s") == timedelta(0)
    for text in ("", "2", "d", "-1s", "1.5h", "2days", "999999w", "٣d"):
        with pytest.raises(JobError, match="such as 2d, 12h or 0s"):
            duration(text)
