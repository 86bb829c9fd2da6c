"""What a hostile input is: the command that is called, and what must come of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEFAULT_CODES = (0, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input, written to a folder.

    Attributes:
        told: what is hostile about it, for the person who reads the tally.
        command: the arguments of `stylefarm`; the working directory is the case's folder.
        codes: the exit codes that are right.
        sound: items that must be planned without a problem, whatever their neighbours are; then
            the job as a whole must not be refused. 0 where the job may be refused.
        may_write: names in the case's folder below which the command may write.
        encoding: of the terminal.
    """

    told: str
    command: tuple[str, ...]
    codes: tuple[int, ...] = DEFAULT_CODES
    sound: int = 0
    may_write: tuple[str, ...] = ()
    encoding: str = "utf-8"

    def to_json(self) -> dict[str, Any]:
        """The case in words that JSON has."""
        return asdict(self)


Maker = Callable[[random.Random, Path], Case]
"""Writes an input into an empty folder; the generator is the only source of chance."""


def run_command(draw: random.Random, *more: str, renders: float = 0.12) -> dict[str, Any]:
    """The command for a job.yaml, and where it may write.

    Args:
        draw: the source of chance.
        more: further arguments.
        renders: the share that is rendered, and not only checked.
    """
    chance = draw.random()
    if chance < renders:
        return {"command": ("run", "job.yaml", *more), "may_write": ("run",)}
    if chance < renders + 0.15:
        return {"command": ("plan", "job.yaml", *more), "may_write": ("run",)}
    return {"command": ("run", "job.yaml", "--dry-run", *more)}
