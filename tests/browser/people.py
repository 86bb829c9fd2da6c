"""Somebody who takes part in a study with a real browser, and what is on disk afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
from playwright.sync_api import Page, Request

Side = Literal["left", "right"]

SHOWS = """
(number) => !document.getElementById("thanks").hidden
    || document.getElementById("progress-text").textContent.startsWith(number + " of ")
"""
HAS_MOVED_ON = """
([number, question]) => !document.getElementById("thanks").hidden
    || document.getElementById("progress-text").textContent !== number
    || document.getElementById("question").textContent !== question
"""


@dataclass
class Person:
    """A page in a context of its own.

    Attributes:
        page: the browser's.
        requests: the address of everything that the page has asked for.
    """

    page: Page
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(60_000)
        self.page.context.on("request", self._note)

    def _note(self, request: Request) -> None:
        self.requests.append(request.url)

    def open(self, link: str) -> Person:
        self.page.goto(link)
        self.page.wait_for_selector(".view:visible")
        return self

    def start(self) -> Person:
        self.page.click("#start")
        self.page.wait_for_selector("#trial:visible")
        return self

    @property
    def number(self) -> int:
        """Of the trial that is shown, from 0."""
        return int(self.page.inner_text("#progress-text").split()[0]) - 1

    def shown(self, side: Side) -> str:
        """The name of the picture on a side."""
        source = self.page.get_attribute(f"#{side} img", "src")
        assert source
        return source

    def wait_for(self, number: int) -> None:
        """Waits until the page with this number is shown, or the person is thanked."""
        self.page.wait_for_function(SHOWS, arg=str(number))

    def click(self, side: Side) -> None:
        self._until_moved_on(lambda: self.page.click(f"#{side}"))

    def press(self, key: str) -> None:
        self._until_moved_on(lambda: self.page.keyboard.press(key))

    def _until_moved_on(self, act: Any) -> None:
        seen = [self.page.inner_text("#progress-text"), self.page.inner_text("#question")]
        act()
        self.page.wait_for_function(HAS_MOVED_ON, arg=seen)

    @property
    def is_thanked(self) -> bool:
        return self.page.is_visible("#thanks")

    def scales(self) -> list[str]:
        """How both pictures are magnified, and where."""
        return [
            self.page.eval_on_selector(
                f"#{side} img", "one => one.style.transform + one.style.transformOrigin"
            )
            for side in ("left", "right")
        ]


def votes_on_disk(folder: Path) -> list[dict[str, Any]]:
    """Every row of every vote, read without stylefarm's code; the last revision of a trial counts.

    Each is held to `study.json`: the sides, and who was chosen.
    """
    study = json.loads((folder / "study.json").read_text())
    kept: dict[tuple[str, int, str], dict[str, Any]] = {}
    for file in sorted((folder / "votes").glob("*/*.parquet")):
        for row in pq.ParquetFile(file).read().to_pylist():
            trials = study["sessions"][row["session_number"] % len(study["sessions"])]
            trial = trials[row["trial"]]
            assert {name: row[name] for name in ("left", "right", "case", "kind")} == {
                name: trial[name] for name in ("left", "right", "case", "kind")
            }
            assert row["chosen"] == trial[row["choice"]]
            assert row["session"] == file.parent.name
            key = (row["session"], row["trial"], row["question"])
            if key not in kept or kept[key]["revision"] < row["revision"]:
                kept[key] = row
    return [kept[key] for key in sorted(kept)]


def choices(rows: Iterable[dict[str, Any]]) -> list[tuple[int, str]]:
    """Trial and side of each vote, in order."""
    return [(row["trial"], row["choice"]) for row in rows]


def picture_of(folder: Path, row: dict[str, Any]) -> str:
    """The name of the picture that a vote says was chosen."""
    study = json.loads((folder / "study.json").read_text())
    (case,) = (one for one in study["cases"] if one["id"] == row["case"])
    return case["results"][row["chosen"]]
