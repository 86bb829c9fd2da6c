"""Counts the files of a source that are not used, for one line to the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tasks.inputs.formats import is_hidden

MAX_NAMES = 5
MAX_KINDS = 12
MAX_SUFFIX_LETTERS = 10


@dataclass
class PassedOver:
    """The files of a source that are not used; filled while it is listed and its tars are read.

    Attributes:
        kinds: how many files of which suffix or kind.
        names: the first few of them.
        notes: sentences on what else was passed over.
    """

    kinds: Counter[str] = field(default_factory=Counter[str])
    names: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def add(self, name: str, kind: str | None = None) -> None:
        """Count a file by its kind; unless given, that is its suffix."""
        self.kinds[kind or _kind(name)] += 1
        if len(self.names) < MAX_NAMES:
            self.names.append(name)

    def __bool__(self) -> bool:
        return bool(self.kinds or self.notes)

    def __str__(self) -> str:
        """The line, such as `3 files were passed over: 2 .json, 1 .txt (a.json, …)`."""
        parts: list[str] = []
        if total := self.kinds.total():
            common = self.kinds.most_common(MAX_KINDS)
            counts = [f"{number} {kind}" for kind, number in common]
            if others := total - sum(number for _, number in common):
                counts.append(f"{others} others")
            names = [*self.names, *(["…"] if total > len(self.names) else [])]
            verb = "file was" if total == 1 else "files were"
            parts.append(f"{total} {verb} passed over: {', '.join(counts)} ({', '.join(names)})")
        return "; ".join([*parts, *self.notes])


def _kind(name: str) -> str:
    path = PurePosixPath(name)
    if is_hidden(name):
        return "hidden"
    if not path.suffix:
        return "without suffix"
    return path.suffix.lower() if len(path.suffix) <= MAX_SUFFIX_LETTERS else "of long suffixes"
