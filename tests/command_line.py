"""The command line called as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Answer:
    """What a command left behind: its exit code and what it printed, spaces folded."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]

NO_PREFECT = "none:"
"""No URL of a server: a run is rendered without Prefect, whose import takes seconds."""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """`stylefarm` in a process of its own, in `tmp_path`; without Prefect unless `env` names it."""

    def call(*arguments: str | Path, env: dict[str, str] | None = None) -> Answer:
        return run_command(*arguments, folder=tmp_path, env=env)

    return call


def run_command(
    *arguments: str | Path,
    folder: Path,
    server: str = NO_PREFECT,
    env: dict[str, str] | None = None,
    start: Sequence[str] = ("-m", "flows.cli"),
) -> Answer:
    """`stylefarm` in a process of its own, in a folder; `start` is what Python is told."""
    done = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        cwd=folder,
        env=command_environment(server) | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Answer(done.returncode, _folded(done.stdout), _folded(done.stderr))


def command_environment(prefect_server: str = NO_PREFECT) -> dict[str, str]:
    """What a command needs around it: our packages, the server, and one thread."""
    root = str(Path(__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": root,
        "PREFECT_API_URL": prefect_server,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }


def _folded(text: str) -> str:
    return " ".join(text.split())
