"""Hostile inputs end as rows or sentences; and the harness that says so can fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.fuzz.runner import chosen

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "raises": ["exit 1", "traceback"],
    "says_unexpected": ["exit 1", "unexpected"],
    "hangs_idle": ["hang"],
    "hangs_busy": ["hang"],
    "eats_memory": ["memory"],
    "ends_by_a_signal": ["died"],
    "writes_outside": ["written outside"],
    "writes_far_outside": ["written outside"],
    "changes_its_input": ["written outside"],
    "executes": ["executed"],
    "connects": ["connected"],
    "prints_escapes": ["control letter"],
    "prints_much": ["too much said"],
    "prints_a_long_line": ["long line"],
    "tells_a_password": ["password"],
    "loses_items": ["lost"],
    "refuses_all_for_one": ["lost"],
    "is_sound": [],
}
"""The kinds of fault that must be counted, by the name of what is planted."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """What the harness counted, by what was planted."""
    return dict(map(json.loads, _run("tests.faults.planted").stdout.splitlines()))


@pytest.mark.parametrize("planted", EXPECTED)
def test_the_harness_counts_a_planted_fault_as_its_kind(
    found: dict[str, list[str]], planted: str
) -> None:
    assert found[planted] == EXPECTED[planted]


def test_hostile_inputs_end_as_rows_or_sentences() -> None:
    done = _run("tests.faults.fuzz", "--count", "12", "--seed", "2026", "--workers", "1")
    assert done.stdout.splitlines()[-1] == "12 inputs, 0 faults", done.stdout


def test_the_same_seed_and_number_give_the_same_input(tmp_path: Path) -> None:
    written = [tmp_path / "first", tmp_path / "second"]
    for folder in written:
        folder.mkdir()
        _, maker, draw = chosen(7, 5, "jobs")
        maker(draw, folder)
    first, second = ((folder / "job.yaml").read_bytes() for folder in written)
    assert first == second


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A harness in a process of its own: one that forks must have no threads."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    return done
