"""How the run folders of a job are named where `output.uri` holds a date. Nothing is looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass

DATE = "{date}"
LATEST = "latest"

_DATE = r"(\d{4}-\d{2}-\d{2})(?:-([1-9]\d{0,5}))?"


@dataclass(frozen=True)
class OutputPlace:
    """Where the runs of a job lie.

    Attributes:
        uri: absolute; it holds `{date}` where there is a run folder for each day.
    """

    uri: str

    @property
    def is_dated(self) -> bool:
        """Whether there may be several run folders."""
        return DATE in self.uri

    @property
    def parent(self) -> str:
        """The folder or prefix that holds the folders with dates."""
        return self.uri.partition(DATE)[0].rpartition("/")[0]

    @property
    def latest_uri(self) -> str:
        """What leads to the folder with the date that was written last."""
        return f"{self.parent}/{LATEST}"

    def folder_pattern(self) -> re.Pattern[str]:
        """The names of the folders with dates, below `parent`."""
        before, _, after = self._dated_name.partition(DATE)
        return re.compile(f"{re.escape(before)}{_DATE}{re.escape(after)}", re.ASCII)

    def run_uri(self, folder: str) -> str:
        """The run folder in, or at, the folder with a date."""
        return f"{self.parent}/{folder}{self.inside}"

    def dated(self, date: str, number: int) -> str:
        """The run folder of a day; its first run has the number 1."""
        return self.uri.replace(DATE, date if number == 1 else f"{date}-{number}")

    def folder_of(self, run_uri: str) -> str:
        """The name of the folder with the date of a run."""
        return run_uri.removeprefix(f"{self.parent}/").partition("/")[0]

    @property
    def _dated_name(self) -> str:
        return self.uri.removeprefix(f"{self.parent}/").partition("/")[0]

    @property
    def inside(self) -> str:
        """Where a run folder lies below the folder with the date; empty where it is that folder."""
        return self.uri.removeprefix(f"{self.parent}/{self._dated_name}")
