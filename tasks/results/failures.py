"""Which items of a run failed, and why?

Of every item the row that counts is told. Rows are read shard by shard, and only of shards in which
something failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests.errors import JobError, nearest
from manifests.items import ErrorClass, Status
from tasks.runs.committed import Committed, Row, open_committed
from tasks.runs.run_folder import open_run


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The failed items of a run.

    Attributes:
        by_class: how many there are of each class that was asked for.
        rows: their rows, in the order of the plan; read as they are asked for.
    """

    by_class: Mapping[str, int]
    rows: Iterator[Row]


def find_failures(run_uri: str, classes: Sequence[str] = ()) -> Failures:
    """The items of a run whose counting row is `failed`.

    Args:
        run_uri: the run folder.
        classes: of errors; all of them unless given.

    Raises:
        JobError: an unknown class.
        RunFolderError: a plan or a committed file is damaged; also as rows are read.
        StoreError: the store refuses or does not answer; also as rows are read.
    """
    wanted = known_classes(classes)
    committed = open_committed(*open_run(run_uri))
    errors = committed.counted.errors.items()
    by_class = {name: number for name, number in sorted(errors) if name in wanted}
    return Failures(by_class=by_class, rows=_rows(committed, wanted))


def known_classes(names: Sequence[str]) -> frozenset[str]:
    """The classes of errors that are named; all of them where none is.

    Raises:
        JobError: there is no such class.
    """
    known = [error_class.value for error_class in ErrorClass]
    for name in names:
        if name not in known:
            raise JobError(
                f"--class {name}: no item fails so; {nearest(name, known)} (the classes are "
                f"{', '.join(known)})"
            )
    return frozenset(names or known)


def _rows(committed: Committed, classes: frozenset[str]) -> Iterator[Row]:
    for shard, commit in committed.live.items():
        if any(commit.stats.errors.get(name) for name in classes):
            for row, _ in committed.counting_rows(shard):
                if row["status"] == Status.FAILED and row["error_class"] in classes:
                    yield row
