"""What a person sees of a run: who works on it, how far it is, what went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.status import show_status
from flows.terminal import Terminal
from tests.tasks.runs import prepare, work_here
from tests.tasks.test_overview import ended_worker, pending_of, put_attempt


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of six items: one is committed; of the others two are in hand, and three were tried."""
    from tests.conftest import write_pictures

    pictures = write_pictures(tmp_path_factory.mktemp("begun"))
    run = prepare(pictures, compute={"shard_items": 1, "device": "cpu"})
    work_here(run.uri, max_shards=1)
    working, gone, stopped, died, damaged = pending_of(run.uri)
    put_attempt(run.uri, working)
    put_attempt(run.uri, gone, worker=ended_worker())
    put_attempt(run.uri, stopped, ending="stopped")
    put_attempt(run.uri, died, ending="died", error="a reason \x1b[31m" + "of many words " * 50)
    Path(run.uri, "attempts", damaged).mkdir()
    Path(run.uri, "attempts", damaged, "1.json").write_text("{")
    return run.uri


def told(uri: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_status(Terminal(), uri)
    return capsys.readouterr().out.splitlines()


def test_who_works_and_what_went_wrong_is_told(begun: str, capsys: pytest.CaptureFixture[str]):
    words = " ".join(" ".join(told(begun, capsys)).split())
    assert "1 of 6 ok, 5 pending (17 % done)" in words
    assert "1 of 6 committed, 1 in hand, 3 tried and free again (" in words
    assert "1 at work on 1 machine" in words
    assert "items/s, a worker takes" in words
    assert "ETA 0:00:" in words
    assert "0:01:" in words, "begun a minute ago"
    assert "at work" in words
    assert "gone; the next worker takes the shard" in words
    assert "its record cannot be read" in words
    assert words.endswith("incomplete: its workers go on")


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_the_terminal(
    begun: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
):
    monkeypatch.setenv("COLUMNS", str(width))
    first, *lines = told(begun, capsys)
    assert first == begun
    assert max(map(len, lines)) <= width
    assert len(lines) < 40
    assert "\x1b" not in "".join(lines)


def test_what_died_comes_before_what_was_stopped(begun: str, capsys: pytest.CaptureFixture[str]):
    lines = told(begun, capsys)
    heading = next(number for number, line in enumerate(lines) if line.startswith("free again"))
    rows = [line.split() for line in lines[heading + 1 :]]
    assert "stopped" in rows[rows.index([]) - 1]


def test_many_attempts_are_counted_and_some_told(
    begun: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flows.status.MAX_LINES", 1)
    lines = told(begun, capsys)
    assert "… and 2 more shards are free again" in lines
    show_status(Terminal(), begun, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["attempts"]) == 5
