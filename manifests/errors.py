"""The errors of manifests, as a tree.

ValueError
└── ManifestError        one sentence (or one a line) with the value and the remedy
    ├── JobError         the job file, or the inputs that it names
    └── RunFolderError   a run folder that does not hold what it should
        └── FingerprintMismatch   a run folder that belongs to another job
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ManifestError(ValueError):
    """Something that a user wrote or stored cannot be used as it is."""


class JobError(ManifestError):
    """The job file, or the inputs that it names, cannot be used."""


class RunFolderError(ManifestError):
    """A run folder does not hold what it should."""


class FingerprintMismatch(RunFolderError):
    """The run folder belongs to another job.

    Attributes:
        differences: one line per field that differs.
    """

    def __init__(self, message: str, differences: list[str]) -> None:
        super().__init__("\n".join([message, *differences]))
        self.differences = differences


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, or all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
